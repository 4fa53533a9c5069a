//! A client's socket, with TLS or without.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;

use anyhow::{Context, Result};
use mio::net::TcpStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore};

/// The name in the server's certificate.
pub(crate) const SERVER_NAME: &str = "localhost";

/// A non-blocking socket.
pub(crate) struct Stream {
    tcp: TcpStream,
    tls: Option<Box<ClientConnection>>,
}

/// What sessions need to connect to a server with this certificate, in PEM. Each does a full handshake.
pub(crate) fn client_config(certificate: &str) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificate.as_bytes()).context("not a certificate")?)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

impl Stream {
    /// On a socket that is connecting.
    pub(crate) fn new(tcp: TcpStream, config: Option<&Arc<ClientConfig>>) -> Result<Stream> {
        let connection = |config: &Arc<ClientConfig>| {
            let name = ServerName::try_from(SERVER_NAME).context("not a server name")?;
            anyhow::Ok(Box::new(ClientConnection::new(Arc::clone(config), name)?))
        };
        Ok(Stream { tcp, tls: config.map(connection).transpose()? })
    }

    pub(crate) fn tcp(&mut self) -> &mut TcpStream {
        &mut self.tcp
    }

    /// Whether a read may leave something unread although it did not fill the buffer.
    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }
}

/// Sends what is encrypted, as far as the socket takes it.
fn send(tls: &mut ClientConnection, tcp: &mut TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        match tls.write_tls(tcp) {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.tcp.read(buffer) };
        loop {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return read,
            }
            tls.read_tls(&mut self.tcp)?;
            tls.process_new_packets().map_err(io::Error::other)?;
            send(tls, &mut self.tcp)?;
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.tcp.write(bytes) };
        match tls.writer().write(bytes)? {
            0 => Err(ErrorKind::WouldBlock.into()),
            written => send(tls, &mut self.tcp).map(|()| written),
        }
    }

    /// Sends what TLS has to say by itself, and what it could not send before.
    fn flush(&mut self) -> io::Result<()> {
        self.tls.as_mut().map_or(Ok(()), |tls| send(tls, &mut self.tcp))
    }
}
