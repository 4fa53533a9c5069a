//! A TLS connection as a session uses it: what it writes is encrypted on the way into the socket, without a copy that waits.

use std::{
    io::{self, ErrorKind, IoSlice, Read, Write},
    task::{Context, Poll},
};

use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio_rustls::rustls::ServerConnection;

use crate::{outbox::queue::OutboundSocket, session::websocket::ClientSocket};

/// What one record of TLS carries.
const MAX_RECORD_BYTES: usize = 16 << 10;
/// So much is read from TCP before others have their turn. Records without content, such as key updates, cost time too.
const MAX_TURN_BYTES: usize = 8 << 10;
/// So much may come without content. A record that is not complete yet has at most a quarter of this.
const MAX_EMPTY_BYTES: usize = 64 << 10;
/// What a byte of content may take on the wire: more than a record for each.
const MAX_BYTES_FOR_ONE: usize = 32;

/// A connection whose handshake is done.
#[derive(Debug)]
pub(super) struct TlsSocket {
    tcp: TcpStream,
    tls: Mutex<Tls>,
}

#[derive(Debug)]
struct Tls {
    connection: ServerConnection,
    /// Decrypted bytes that nobody has read.
    unread: usize,
    /// So many bytes of the next write are encrypted already, and not all of that is sent. They do not count as written
    /// before: whoever writes would not come back to have the rest sent.
    encrypted: usize,
    /// Bytes read from TCP since others had their turn.
    polled: usize,
    /// Bytes read from TCP for which no content came.
    empty: usize,
}

impl TlsSocket {
    /// Takes over a connection.
    ///
    /// # Errors
    /// When the client has sent what is not TLS.
    pub(super) fn new(tcp: TcpStream, mut connection: ServerConnection) -> io::Result<TlsSocket> {
        let state = connection.process_new_packets().map_err(io::Error::other)?;
        let tls =
            Tls { connection, unread: state.plaintext_bytes_to_read(), encrypted: 0, polled: 0, empty: 0 };
        Ok(TlsSocket { tcp, tls: Mutex::new(tls) })
    }
}

impl Tls {
    /// Sends what is encrypted. Returns whether that is all.
    fn send(&mut self, tcp: &TcpStream) -> io::Result<bool> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut Direct(tcp)) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

impl OutboundSocket for TlsSocket {
    fn try_write(&self, frames: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut tls = self.tls.lock();
        if !tls.send(&self.tcp)? {
            return Err(ErrorKind::WouldBlock.into());
        }
        let mut written = std::mem::take(&mut tls.encrypted);
        if written > 0 {
            return Ok(written);
        }
        for frame in frames {
            for record in frame.chunks(MAX_RECORD_BYTES) {
                tls.connection.writer().write_all(record)?;
                if !tls.send(&self.tcp)? {
                    // At most one record of one frame: frames behind it may still be dropped.
                    tls.encrypted = record.len();
                    return if written == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(written) };
                }
                written += record.len();
            }
        }
        Ok(written)
    }
}

impl ClientSocket for TlsSocket {
    fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut tls = self.tls.lock();
        if tls.unread > 0 {
            return Poll::Ready(Ok(()));
        }
        if tls.polled >= MAX_TURN_BYTES {
            tls.polled = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.tcp.poll_read_ready(context)
    }

    fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp.poll_write_ready(context)
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut tls = self.tls.lock();
        loop {
            match tls.connection.reader().read(buffer) {
                Ok(bytes) => {
                    tls.unread = tls.unread.saturating_sub(bytes);
                    tls.empty = tls.empty.saturating_sub(bytes * MAX_BYTES_FOR_ONE);
                    return Ok(bytes);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // The client has closed its connection without saying so before.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) => return Err(error),
            }
            if tls.empty > MAX_EMPTY_BYTES {
                return Err(ErrorKind::InvalidData.into());
            }
            if tls.polled >= MAX_TURN_BYTES {
                return Err(ErrorKind::WouldBlock.into());
            }
            let received = tls.connection.read_tls(&mut Direct(&self.tcp))?;
            tls.polled += received;
            tls.empty += received;
            let state = tls.connection.process_new_packets();
            // Alerts and answers, as far as there is room: the rest goes out before the next write.
            let _ = tls.send(&self.tcp)?;
            tls.unread = state.map_err(io::Error::other)?.plaintext_bytes_to_read();
        }
    }

    fn shutdown_write(&self) -> io::Result<()> {
        let mut tls = self.tls.lock();
        tls.connection.send_close_notify();
        let _ = tls.send(&self.tcp)?;
        socket2::SockRef::from(&self.tcp).shutdown(std::net::Shutdown::Write)
    }
}

/// The TCP connection, for rustls.
struct Direct<'t>(&'t TcpStream);

impl Read for Direct<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Direct<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::Arc};

    use tokio::{io::AsyncWriteExt, net::TcpListener};
    use tokio_rustls::{
        TlsAcceptor, TlsConnector,
        client::TlsStream,
        rustls::{
            ClientConfig, RootCertStore, ServerConfig,
            pki_types::{PrivatePkcs8KeyDer, ServerName},
        },
    };

    use super::*;

    /// The server's end of a connection, and its client.
    async fn connected() -> (TlsSocket, TlsStream<TcpStream>) {
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(own.cert.der().clone()).unwrap();
        let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()).into();
        let chain = vec![own.cert.der().clone()];
        let server = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
        let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let (client, server) = tokio::join!(
            TlsConnector::from(Arc::new(client)).connect(name, tcp),
            TlsAcceptor::from(Arc::new(server)).accept(accepted),
        );
        let (tcp, connection) = server.unwrap().into_inner();
        (TlsSocket::new(tcp, connection).unwrap(), client.unwrap())
    }

    /// Reads until there is an error; tells how many bytes came before, and how often others had their turn.
    async fn read_all(socket: &TlsSocket) -> (usize, usize, ErrorKind) {
        let (mut content, mut turns, mut buffer) = (0, 0, [0; 1024]);
        loop {
            match socket.try_read(&mut buffer) {
                Ok(0) => return (content, turns, ErrorKind::UnexpectedEof),
                Ok(bytes) => content += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    turns += 1;
                    poll_fn(|context| socket.poll_read_ready(context)).await.unwrap();
                }
                Err(error) => return (content, turns, error.kind()),
            }
        }
    }

    /// Sends what `step` puts into the connection, `count` times; ends early if the server does not read on.
    async fn send(mut client: TlsStream<TcpStream>, count: usize, step: impl Fn(&mut TlsStream<TcpStream>)) {
        for _ in 0..count {
            step(&mut client);
            if client.flush().await.is_err() {
                return;
            }
        }
        let _ = client.shutdown().await;
    }

    #[tokio::test]
    async fn a_client_that_sends_hardly_anything_but_key_updates_keeps_nobody_waiting_and_is_cut_off() {
        let (socket, client) = connected().await;
        // rustls itself ends a connection with more in a row.
        let flood = send(client, 10_000, |client| {
            let connection = client.get_mut().1;
            (0..30).for_each(|_| connection.refresh_traffic_keys().unwrap());
            connection.writer().write_all(b"x").unwrap();
        });
        let (_, (content, turns, end)) = tokio::join!(flood, async {
            let read = read_all(&socket).await;
            drop(socket);
            read
        });
        assert_eq!(end, ErrorKind::InvalidData);
        assert!(content < MAX_EMPTY_BYTES / 500, "{content} bytes of content");
        assert!(turns >= MAX_EMPTY_BYTES / MAX_TURN_BYTES / 2, "others had {turns} turns");
    }

    #[tokio::test]
    async fn a_client_that_sends_its_content_byte_by_byte_is_read_to_its_end() {
        let (socket, client) = connected().await;
        let one_by_one = send(client, 10_000, |client| {
            client.get_mut().1.writer().write_all(b"x").unwrap();
        });
        let (_, (content, turns, end)) = tokio::join!(one_by_one, read_all(&socket));
        assert_eq!((content, end), (10_000, ErrorKind::UnexpectedEof));
        assert!(turns > 10_000 * 20 / MAX_TURN_BYTES, "others had {turns} turns");
    }
}
