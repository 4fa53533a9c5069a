//! `[ws.tls]`: TLS on the edge itself.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use blackhole_common::config::InvalidValue;
use serde::{Deserialize, Serialize};
use tokio_rustls::rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

const CERT_FILE: &str = "ws.tls.cert_file";
const KEY_FILE: &str = "ws.tls.key_file";
/// What the files have to be.
const CERT: &str = "a PEM file with the certificate and then its chain";
const KEY: &str = "a PEM file with the certificate's key, not encrypted";

/// `[ws.tls]`: TLS on the edge itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file with the certificate and then its chain.
    pub cert_file: PathBuf,
    /// PEM file with its key.
    pub key_file: PathBuf,
    /// Where TLS is spoken, beside `ws.listen`. `None`: at `ws.listen`, and nothing else is spoken there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
}

impl TlsConfig {
    /// Reads the files: TLS 1.2 and 1.3, for HTTP/1.1.
    ///
    /// # Errors
    /// With the file, and what it has to be.
    pub(crate) fn read(&self) -> Result<ServerConfig, InvalidValue> {
        let invalid = |key, reason| InvalidValue { key, reason };
        for (key, file, what) in [(CERT_FILE, &self.cert_file, CERT), (KEY_FILE, &self.key_file, KEY)] {
            if file.as_os_str().is_empty() {
                return Err(invalid(key, format!("is required in [ws.tls]: {what}")));
            }
        }
        let (cert, key) = (self.cert_file.display(), self.key_file.display());
        let unreadable = |error| invalid(CERT_FILE, format!("{cert}: {error}; it has to be {CERT}"));
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&self.cert_file)
            .and_then(Iterator::collect)
            .map_err(|error| unreadable(error.to_string()))?;
        if chain.is_empty() {
            return Err(unreadable("there is no certificate in it".to_owned()));
        }
        let private = PrivateKeyDer::from_pem_file(&self.key_file)
            .map_err(|error| invalid(KEY_FILE, format!("{key}: {error}; it has to be {KEY}")))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| invalid(CERT_FILE, error.to_string()))?
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .map_err(|error| {
                invalid(
                    KEY_FILE,
                    format!("{key} and {cert} do not fit together: {error}; it has to be {KEY}"),
                )
            })?;
        // Browsers must not try WebSockets over HTTP/2.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Who comes back needs no signature: after a restart of another edge all do so at once.
        config.ticketer = ring::Ticketer::new().map_err(|error| invalid(CERT_FILE, error.to_string()))?;
        Ok(config)
    }
}
