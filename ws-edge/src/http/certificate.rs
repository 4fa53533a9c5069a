//! The certificate of the edge's own TLS, which is read again when its files change.

use std::{io, sync::Arc};

use blackhole_common::{
    config::InvalidValue,
    file_changes::{FileChanges, Fingerprint, POLL_INTERVAL},
};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig, server::TlsStream};
use tokio_util::sync::CancellationToken;

use super::turns::Turns;
use crate::{
    config::TlsConfig,
    limits::client_network::ClientNetwork,
    metrics::{Metrics, Outcome},
};

/// A certificate and its key, for new connections. Open ones keep what they began with.
pub(crate) struct Certificate {
    files: TlsConfig,
    changes: Mutex<FileChanges>,
    current: Mutex<Arc<ServerConfig>>,
    turns: Turns,
    metrics: Arc<Metrics>,
}

impl Certificate {
    /// Reads the files. Must be called in a runtime.
    ///
    /// # Errors
    /// With the file, and what it has to be.
    pub(crate) fn open(files: TlsConfig, metrics: Arc<Metrics>) -> Result<Certificate, InvalidValue> {
        let changes = Mutex::new(FileChanges::since(version(&files)));
        let current = Mutex::new(Arc::new(files.read()?));
        Ok(Certificate { current, turns: Turns::on_half_of_the_threads(), changes, files, metrics })
    }

    /// Does the handshake of a new connection. Those of one client take turns with those of others.
    ///
    /// # Errors
    /// If the client does not speak TLS, or none that is spoken here.
    pub(crate) async fn accept(
        &self,
        client: ClientNetwork,
        tcp: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let config = Arc::clone(&self.current.lock());
        self.turns.run(client, TlsAcceptor::from(config).accept(tcp)).await
    }

    /// Reads the files again whenever they change, until `shutdown`. If they cannot be used, the certificate stays.
    pub(crate) async fn follow(self: Arc<Self>, shutdown: CancellationToken) {
        while shutdown.run_until_cancelled(tokio::time::sleep(POLL_INTERVAL)).await.is_some() {
            let certificate = Arc::clone(&self);
            // File systems can be slow, or hang.
            let polled = tokio::task::spawn_blocking(move || certificate.poll());
            if !matches!(shutdown.run_until_cancelled(polled).await, Some(Ok(()))) {
                return;
            }
        }
    }

    fn poll(&self) {
        if !self.changes.lock().poll(version(&self.files)) {
            return;
        }
        let outcome = match self.files.read() {
            Ok(config) => {
                *self.current.lock() = Arc::new(config);
                tracing::info!(file = %self.files.cert_file.display(), "the certificate was read again");
                "ok"
            }
            Err(InvalidValue { key, reason }) => {
                let error = reason;
                tracing::warn!(key, error, "the certificate cannot be read again, the earlier one stays");
                "failed"
            }
        };
        self.metrics.certificate_reloads.get_or_create(&Outcome { outcome }).inc();
    }
}

fn version(files: &TlsConfig) -> Fingerprint {
    Fingerprint::of([files.cert_file.clone(), files.key_file.clone()])
}
