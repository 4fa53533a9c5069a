//! A buffered TCP or TLS socket for our own implementations of NATS and AMQP, which carry events.

use std::{
    io::{self, ErrorKind},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName},
};

/// A server that reads nothing for this long is considered dead.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// Initial capacity of the read buffer.
const READ_BUFFER_BYTES: usize = 64 * 1024;
/// Flush before queueing more than this. A send buffer that has grown to more than twice this size is freed.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

trait Duplex: AsyncRead + AsyncWrite + Send {}
impl<S: AsyncRead + AsyncWrite + Send> Duplex for S {}

/// A connection to a server.
pub struct Socket {
    duplex: Pin<Box<dyn Duplex>>,
    /// The read buffer. Parsers split off what they consume.
    pub read: BytesMut,
    /// The send buffer, written by the next flush.
    pub to_send: BytesMut,
}

impl Socket {
    /// Connects over TCP, without encryption.
    ///
    /// # Errors
    /// If the connection fails.
    pub async fn connect(host: &str, port: u16) -> io::Result<Socket> {
        // URLs have IPv6 addresses in brackets.
        let tcp = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
        tcp.set_nodelay(true)?;
        Ok(Socket {
            duplex: Box::pin(tcp),
            read: BytesMut::with_capacity(READ_BUFFER_BYTES),
            to_send: BytesMut::new(),
        })
    }

    /// Starts TLS. The server needs a certificate for `host` from a CA that the system trusts.
    ///
    /// # Errors
    /// If the handshake fails, or the certificate is not trusted.
    pub async fn encrypt(&mut self, host: &str) -> io::Result<()> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(invalid)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(invalid)?;
        let plain = std::mem::replace(&mut self.duplex, Box::pin(tokio::io::empty()));
        self.duplex = Box::pin(TlsConnector::from(Arc::new(config)).connect(name, plain).await?);
        Ok(())
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
