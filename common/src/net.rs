//! A connection over TCP, perhaps encrypted, with what was read of it and what is to be sent: for protocols that are
//! spoken at the lowest level, because events pass through them.

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

/// A server that takes nothing of what is sent for this long is taken for dead.
const SEND_WITHIN: Duration = Duration::from_secs(5);
/// Room for what is read at once.
const READ_BYTES: usize = 64 * 1024;
/// So much is better sent before more is noted; a buffer that has grown far beyond it is not kept.
const SEND_BYTES: usize = 64 * 1024;

trait Duplex: AsyncRead + AsyncWrite + Send {}
impl<S: AsyncRead + AsyncWrite + Send> Duplex for S {}

/// A connection to a server.
pub struct Socket {
    duplex: Pin<Box<dyn Duplex>>,
    /// What was read; who takes it apart splits it off.
    pub read: BytesMut,
    /// What is sent with the next flush.
    pub to_send: BytesMut,
}

impl Socket {
    /// Connects, not encrypted yet.
    ///
    /// # Errors
    /// Those of the system.
    pub async fn connect(host: &str, port: u16) -> io::Result<Socket> {
        // An IPv6 address stands in brackets in a URL.
        let tcp = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
        tcp.set_nodelay(true)?;
        Ok(Socket {
            duplex: Box::pin(tcp),
            read: BytesMut::with_capacity(READ_BYTES),
            to_send: BytesMut::new(),
        })
    }

    /// Encrypts from here on (TLS). The server's certificate must be for `host`, by an authority that the system trusts.
    ///
    /// # Errors
    /// When the server cannot, or is not trusted.
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

    /// Reads more. Nothing is lost when the wait for it is broken off.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn fill(&mut self) -> io::Result<()> {
        self.read.reserve(READ_BYTES / 4);
        match self.duplex.read_buf(&mut self.read).await? {
            0 => Err(io::Error::new(ErrorKind::UnexpectedEof, "the server closed the connection")),
            _ => Ok(()),
        }
    }

    /// Whether so much is noted that it is better sent before more is.
    pub fn is_full(&self) -> bool {
        self.to_send.len() >= SEND_BYTES
    }

    /// Sends what was noted. Not to be broken off: the connection is of no more use then.
    ///
    /// # Errors
    /// When the connection has ended, or takes nothing.
    pub async fn flush(&mut self) -> io::Result<()> {
        if self.to_send.is_empty() {
            return Ok(());
        }
        let result = self.send().await;
        self.to_send.clear();
        // Thousands of subscriptions may have gone at once; that much is not needed again soon.
        if self.to_send.capacity() > 2 * SEND_BYTES {
            self.to_send = BytesMut::new();
        }
        result
    }

    async fn send(&mut self) -> io::Result<()> {
        let takes_nothing = |_| io::Error::new(ErrorKind::TimedOut, "the server takes nothing");
        let mut rest = self.to_send.as_ref();
        while !rest.is_empty() {
            let sent = timeout(SEND_WITHIN, self.duplex.write(rest)).await.map_err(takes_nothing)??;
            if sent == 0 {
                return Err(ErrorKind::WriteZero.into());
            }
            rest = rest.get(sent..).unwrap_or_default();
        }
        timeout(SEND_WITHIN, self.duplex.flush()).await.map_err(takes_nothing)?
    }
}

/// What the server sent is not what it should be.
pub fn invalid(error: impl ToString) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error.to_string())
}
