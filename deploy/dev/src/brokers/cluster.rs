//! A cluster of three NATS servers.

use std::path::Path;

use anyhow::{Context, Result};

use super::Nats;
use crate::ports;

/// A NATS cluster of three servers with JetStream.
#[derive(Debug)]
pub struct NatsCluster {
    servers: Vec<Nats>,
}

impl NatsCluster {
    /// Starts a cluster below `dir` and waits until its servers accept connections. They do not advertise each other to
    /// clients, so clients connect only to the configured addresses.
    pub async fn start(dir: &Path) -> Result<Self> {
        let routes = [ports::free()?, ports::free()?, ports::free()?];
        let urls = routes.map(|port| format!("\"nats://127.0.0.1:{port}\"")).join(", ");
        let start = async |number: usize, port: u16| {
            let more = format!(
                "server_name: \"n{number}\"\n\
                 cluster {{ name: dev, listen: \"127.0.0.1:{port}\", routes: [{urls}], no_advertise: true }}"
            );
            Nats::with_config(&dir.join(format!("nats{number}")), &more).await
        };
        let (first, second, third) =
            tokio::join!(start(1, routes[0]), start(2, routes[1]), start(3, routes[2]));
        let servers = [first, second, third].into_iter().collect::<Result<Vec<_>>>();
        Ok(Self { servers: servers.context("the cluster did not start")? })
    }

    /// Its servers.
    pub fn servers(&self) -> &[Nats] {
        &self.servers
    }

    /// Where clients connect: all servers.
    pub fn url(&self) -> String {
        self.servers.iter().map(Nats::url).collect::<Vec<_>>().join(",")
    }
}
