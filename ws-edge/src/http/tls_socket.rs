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
}

impl TlsSocket {
    /// Takes over a connection.
    ///
    /// # Errors
    /// When the client has sent what is not TLS.
    pub(super) fn new(tcp: TcpStream, mut connection: ServerConnection) -> io::Result<TlsSocket> {
        let state = connection.process_new_packets().map_err(io::Error::other)?;
        let tls = Tls { connection, unread: state.plaintext_bytes_to_read(), encrypted: 0 };
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
        if self.tls.lock().unread > 0 {
            return Poll::Ready(Ok(()));
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
                    return Ok(bytes);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // The client has closed its connection without saying so before.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) => return Err(error),
            }
            tls.connection.read_tls(&mut Direct(&self.tcp))?;
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
