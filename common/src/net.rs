//! A buffered TCP or TLS socket for our own implementations of NATS and AMQP, which carry events.

use std::{
    fmt::Debug,
    io::{self, ErrorKind},
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use futures_util::future::BoxFuture;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};

/// Limit for connecting to one address of a server. The next address gets its own, so that a silent one does not use
/// up the time of the others. It allows for two lost packets.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// Addresses tried per attempt to connect.
const MAX_ADDRESSES: usize = 8;
/// A server that reads nothing for this long is considered dead.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// Initial capacity of the read buffer.
const READ_BUFFER_BYTES: usize = 64 * 1024;
/// Flush before queueing more than this. A send buffer that has grown to more than twice this size is freed.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// What bytes are read from and written to.
pub trait Duplex: AsyncRead + AsyncWrite + Send {}
impl<S: AsyncRead + AsyncWrite + Send> Duplex for S {}

/// Opens connections to servers.
pub trait Dial: Debug + Send + Sync {
    /// A connection to a port of `host`, without encryption.
    fn dial<'d>(&'d self, host: &'d str, port: u16) -> BoxFuture<'d, io::Result<Socket>>;
}

/// TCP.
#[derive(Debug)]
pub struct Tcp;

impl Dial for Tcp {
    fn dial<'d>(&'d self, host: &'d str, port: u16) -> BoxFuture<'d, io::Result<Socket>> {
        Box::pin(Socket::connect(host, port))
    }
}

/// A client certificate with its chain, and its key.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Reads two PEM files.
    ///
    /// # Errors
    /// If one of them cannot be read, or has no certificate or key.
    pub fn read(cert: &Path, key: &Path) -> io::Result<Identity> {
        let chain: Vec<_> =
            CertificateDer::pem_file_iter(cert).and_then(Iterator::collect).map_err(invalid)?;
        if chain.is_empty() {
            return Err(invalid("there is no certificate in it"));
        }
        let of_key = |error| invalid(format!("its key {}: {error}", key.display()));
        Ok(Identity { chain, key: PrivateKeyDer::from_pem_file(key).map_err(of_key)? })
    }
}

/// A connection to a server.
pub struct Socket {
    duplex: Pin<Box<dyn Duplex>>,
    /// The server's address.
    pub peer: SocketAddr,
    /// The read buffer. Parsers split off what they consume.
    pub read: BytesMut,
    /// The send buffer, written by the next flush.
    pub to_send: BytesMut,
}

impl Socket {
    /// Connects over TCP, without encryption, to the first address of `host` that accepts.
    ///
    /// # Errors
    /// The error of the last address.
    pub async fn connect(host: &str, port: u16) -> io::Result<Socket> {
        // URLs have IPv6 addresses in brackets.
        let resolved = timeout(CONNECT_TIMEOUT, lookup_host((host.trim_matches(['[', ']']), port))).await;
        let timed_out = |what| io::Error::new(ErrorKind::TimedOut, what);
        let addresses =
            resolved.map_err(|_| timed_out(format!("the name {host} is not resolved in time")))??;
        Socket::connect_to_any(addresses.take(MAX_ADDRESSES)).await
    }

    async fn connect_to_any(addresses: impl Iterator<Item = SocketAddr>) -> io::Result<Socket> {
        let mut result = Err(io::Error::new(ErrorKind::NotFound, "the name has no address"));
        for address in addresses {
            result = match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(tcp)) => return Socket::new(tcp, address),
                Ok(Err(error)) => Err(error),
                Err(_) => Err(io::Error::new(ErrorKind::TimedOut, format!("{address} does not answer"))),
            };
        }
        result
    }

    fn new(tcp: TcpStream, peer: SocketAddr) -> io::Result<Socket> {
        tcp.set_nodelay(true)?;
        Ok(Socket::over(Box::pin(tcp), peer))
    }

    /// A socket over any connection to `peer`.
    pub fn over(duplex: Pin<Box<dyn Duplex>>, peer: SocketAddr) -> Socket {
        Socket { duplex, peer, read: BytesMut::with_capacity(READ_BUFFER_BYTES), to_send: BytesMut::new() }
    }

    /// Starts TLS. The server needs a certificate for `host` from a CA that the system trusts; `identity` is shown if it
    /// asks.
    ///
    /// # Errors
    /// If the handshake fails, or the certificate is not trusted.
    pub async fn encrypt(&mut self, host: &str, identity: Option<Identity>) -> io::Result<()> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(invalid)?
            .with_root_certificates(roots);
        let config = match identity {
            Some(Identity { chain, key }) => config.with_client_auth_cert(chain, key).map_err(invalid)?,
            None => config.with_no_client_auth(),
        };
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(invalid)?;
        let plain = std::mem::replace(&mut self.duplex, Box::pin(tokio::io::empty()));
        self.duplex = Box::pin(TlsConnector::from(Arc::new(config)).connect(name, plain).await?);
        Ok(())
    }

    /// The connection, without what was read into the buffer.
    pub fn into_duplex(self) -> Pin<Box<dyn Duplex>> {
        self.duplex
    }

    /// Reads more into the read buffer. Cancel safe.
    ///
    /// # Errors
    /// If the connection has ended.
    pub async fn fill(&mut self) -> io::Result<()> {
        self.read.reserve(READ_BUFFER_BYTES / 4);
        match self.duplex.read_buf(&mut self.read).await? {
            0 => Err(io::Error::new(ErrorKind::UnexpectedEof, "the server closed the connection")),
            _ => Ok(()),
        }
    }

    /// Whether the send buffer should be flushed before more is queued.
    pub fn is_full(&self) -> bool {
        self.to_send.len() >= SEND_BUFFER_BYTES
    }

    /// Writes the send buffer. Not cancel safe: the connection is unusable if this is cancelled.
    ///
    /// # Errors
    /// If the connection has ended, or the server reads nothing.
    pub async fn flush(&mut self) -> io::Result<()> {
        if self.to_send.is_empty() {
            return Ok(());
        }
        let result = self.send().await;
        self.to_send.clear();
        // Thousands of subscriptions may have been queued at once, which is rare.
        if self.to_send.capacity() > 2 * SEND_BUFFER_BYTES {
            self.to_send = BytesMut::new();
        }
        result
    }

    async fn send(&mut self) -> io::Result<()> {
        let timed_out = |_| io::Error::new(ErrorKind::TimedOut, "the server does not read");
        let mut rest = self.to_send.as_ref();
        while !rest.is_empty() {
            let sent = timeout(SEND_TIMEOUT, self.duplex.write(rest)).await.map_err(timed_out)??;
            if sent == 0 {
                return Err(ErrorKind::WriteZero.into());
            }
            rest = rest.get(sent..).unwrap_or_default();
        }
        timeout(SEND_TIMEOUT, self.duplex.flush()).await.map_err(timed_out)?
    }
}

/// An error for invalid data from the server.
pub fn invalid(error: impl ToString) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error.to_string())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    #[tokio::test]
    async fn a_silent_address_does_not_use_up_the_time_of_the_next() {
        // Linux drops what exceeds the backlog, so further connections stay unanswered.
        let silent = TcpSocket::new_v4().unwrap();
        silent.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let silent = silent.listen(1).unwrap();
        let dead = silent.local_addr().unwrap();
        let mut waiting = Vec::new();
        while let Ok(tcp) = timeout(Duration::from_millis(300), TcpStream::connect(dead)).await {
            waiting.push(tcp.unwrap());
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let good = listener.local_addr().unwrap();
        let socket = Socket::connect_to_any([dead, good].into_iter()).await.unwrap();
        assert_eq!(socket.peer, good);
        let error = Socket::connect_to_any([good, dead].into_iter().skip(1)).await.err().unwrap();
        assert_eq!(error.to_string(), format!("{dead} does not answer"));
    }
}
