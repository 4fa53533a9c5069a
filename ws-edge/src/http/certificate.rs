//! The certificate of the edge's own TLS, which is read again when its files change.

use std::{fs, os::unix::fs::MetadataExt, path::Path, sync::Arc, time::Duration};

use blackhole_common::config::InvalidValue;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig, server::TlsStream};
use tokio_util::sync::CancellationToken;

use crate::{
    config::TlsConfig,
    metrics::{Metrics, Outcome},
};

/// Polled rather than watched: polling follows the symlinks that Kubernetes swaps. Files are read once two polls in a row
/// have seen the same, so that none is read while it is written.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// A certificate and its key, for new connections. Open ones keep what they began with.
pub(crate) struct Certificate {
    files: TlsConfig,
    /// The version that was read first.
    opened: Version,
    current: Mutex<Arc<ServerConfig>>,
    metrics: Arc<Metrics>,
}

/// Which version of the two files there is: their inodes, lengths and times.
type Version = [Option<(u64, u64, u64, i64, i64, i64, i64)>; 2];

impl Certificate {
    /// Reads the files.
    ///
    /// # Errors
    /// With the file, and what it has to be.
    pub(crate) fn open(files: TlsConfig, metrics: Arc<Metrics>) -> Result<Certificate, InvalidValue> {
        // Before reading, so that a write in the meantime counts as a change.
        let opened = version(&files);
        Ok(Certificate { current: Mutex::new(Arc::new(files.read()?)), opened, files, metrics })
    }

    /// Does the handshake of a new connection.
    ///
    /// # Errors
    /// If the client does not speak TLS, or none that is spoken here.
    pub(crate) async fn accept(&self, tcp: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let config = Arc::clone(&self.current.lock());
        TlsAcceptor::from(config).accept(tcp).await
    }

    /// Reads the files again whenever they change, until `shutdown`. If they cannot be used, the certificate stays.
    pub(crate) async fn follow(self: Arc<Self>, shutdown: CancellationToken) {
        let mut loaded = self.opened;
        let mut polled = loaded;
        while shutdown.run_until_cancelled(tokio::time::sleep(POLL_INTERVAL)).await.is_some() {
            let now = version(&self.files);
            let is_stable = now == std::mem::replace(&mut polled, now);
            if now == loaded || !is_stable {
                continue;
            }
            loaded = now;
            let outcome = match self.files.read() {
                Ok(config) => {
                    *self.current.lock() = Arc::new(config);
                    tracing::info!(file = %self.files.cert_file.display(), "the certificate was read again");
                    "ok"
                }
                Err(InvalidValue { key, reason }) => {
                    tracing::warn!(
                        key,
                        error = reason,
                        "the certificate cannot be read again, the earlier one stays"
                    );
                    "failed"
                }
            };
            self.metrics.certificate_reloads.get_or_create(&Outcome { outcome }).inc();
        }
    }
}

fn version(files: &TlsConfig) -> Version {
    let version = |file: &Path| {
        let data = fs::metadata(file).ok()?;
        let mtime = (data.mtime(), data.mtime_nsec());
        let ctime = (data.ctime(), data.ctime_nsec());
        Some((data.dev(), data.ino(), data.size(), mtime.0, mtime.1, ctime.0, ctime.1))
    };
    [version(&files.cert_file), version(&files.key_file)]
}
