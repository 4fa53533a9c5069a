//! The Node bridge of `tests/reference`, one or several of them, with their own RabbitMQ.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use blackhole_dev::brokers::RabbitMq;
use blackhole_dev::process::{Process, Spec};
use blackhole_dev::server::{Ready, Server};
use blackhole_dev::{install, ports, workspace};

use crate::clients::protocol::SECRET;

const FILES: [&str; 3] = ["bridge.js", "package.json", "package-lock.json"];

/// The bridges and their broker.
pub(crate) struct Node {
    program: PathBuf,
    dir: PathBuf,
    bridges: Vec<(Server, u16)>,
    rabbitmq: RabbitMq,
}

impl Node {
    /// Installs the bridge with its libraries below `target`, and starts its broker.
    pub(crate) async fn start(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let program = installed(dir).await?.join("bridge.js");
        let rabbitmq = RabbitMq::start(&dir.join("rabbitmq")).await?;
        Ok(Self { program, dir: dir.to_owned(), bridges: Vec::new(), rabbitmq })
    }

    /// Replaces the bridges by new ones.
    pub(crate) async fn renew(&mut self, count: usize) -> Result<()> {
        self.bridges.clear();
        for number in 0..count {
            let port = ports::free()?;
            let spec = Spec::new(install::find(install::NODE)?)
                .arg(&self.program)
                .env("PORT", port.to_string())
                .env("AMQP_URL", self.rabbitmq.url())
                .env("SECRET", SECRET)
                .env("NODE_ENV", "production")
                .log(self.dir.join(format!("bridge-{number}.log")));
            let ready = Ready::Http(format!("127.0.0.1:{port}"), "/ready".into());
            let bridge = Server::start("the Node bridge", spec, ready, super::READY_TIMEOUT).await?;
            self.bridges.push((bridge, port));
        }
        Ok(())
    }

    /// The ports for clients.
    pub(crate) fn ports(&self) -> Vec<u16> {
        self.bridges.iter().map(|(_, port)| *port).collect()
    }

    /// The URL of the AMQP broker.
    pub(crate) fn amqp_url(&self) -> String {
        self.rabbitmq.url()
    }

    /// Its process groups.
    pub(crate) fn groups(&self) -> Result<Vec<(&'static str, i32)>> {
        let id = |server: &Server| Ok::<_, anyhow::Error>(server.process()?.id());
        let bridges = self.bridges.iter().map(|(bridge, _)| Ok(("node", id(bridge)?)));
        bridges.chain([Ok(("rabbitmq", id(self.rabbitmq.server())?))]).collect()
    }
}

/// A copy of the bridge with its libraries, below `target` to keep the sources clean.
async fn installed(log_dir: &Path) -> Result<PathBuf> {
    let from = workspace::root()?.join("tests/reference");
    let place = workspace::target_dir()?.join("bench/reference");
    std::fs::create_dir_all(&place).with_context(|| format!("cannot create {}", place.display()))?;
    let mut changed = !place.join("node_modules/ws").is_dir();
    for file in FILES {
        let (new, old) = (std::fs::read(from.join(file))?, std::fs::read(place.join(file)).ok());
        changed |= file != "bridge.js" && old.as_ref() != Some(&new);
        std::fs::write(place.join(file), new)?;
    }
    if changed {
        let npm = Spec::new(install::find(install::NPM)?)
            .args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"])
            .dir(&place)
            .log(log_dir.join("npm.log"));
        let process = Process::start(&npm)?;
        let status = process.exited().await?;
        if !status.success() {
            bail!("npm could not install the bridge's libraries ({status}); {}", process.log_tail(5));
        }
    }
    Ok(place)
}
