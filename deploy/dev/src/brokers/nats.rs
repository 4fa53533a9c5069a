//! A NATS server with JetStream.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::Spec;
use crate::server::{Ready, Server};
use crate::{install, ports};

const READY_TIMEOUT: Duration = Duration::from_secs(20);

/// A NATS server. It keeps its port and store when [`Nats::server`] is stopped, killed or restarted.
#[derive(Debug)]
pub struct Nats {
    server: Server,
    port: u16,
    monitor: u16,
}

impl Nats {
    /// Starts a server with its configuration, store and log below `dir`, and waits until it is ready.
    pub async fn start(dir: &Path) -> Result<Self> {
        Self::with_config(dir, "").await
    }

    /// As [`Nats::start`], with additional lines in its configuration file.
    pub async fn with_config(dir: &Path, more: &str) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let program = install::find(install::NATS_SERVER)?;
        let (port, monitor) = (ports::free()?, ports::free()?);
        let file = dir.join("nats.conf");
        let store = serde_json::to_string(&dir.join("store"))?;
        let text = format!(
            "listen: \"127.0.0.1:{port}\"\n\
             http: \"127.0.0.1:{monitor}\"\n\
             jetstream {{ store_dir: {store}, max_memory_store: 256MB, max_file_store: 64GB }}\n\
             {more}\n"
        );
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        let spec = Spec::new(program).arg("--config").arg(&file).log(dir.join("nats.log"));
        let ready = Ready::Nats(format!("127.0.0.1:{port}"));
        let server = Server::start("nats-server", spec, ready, READY_TIMEOUT).await?;
        Ok(Self { server, port, monitor })
    }

    /// The process, to be killed, frozen, stopped and started.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The port of [`Nats::url`].
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host:port` of the server's monitoring endpoint (`/connz`, `/subsz`, `/jsz`, ...).
    pub fn monitor(&self) -> String {
        format!("127.0.0.1:{}", self.monitor)
    }
}
