//! The measured servers. Each is started on free ports of the loopback address.

mod nchan;
mod node;
mod ours;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use blackhole_dev::bench::Rival;
use blackhole_dev::brokers::{Nats, RabbitMq};
use blackhole_dev::ports;

use crate::clients::protocol::{Protocol, Target};
use crate::control::{Answer, Order, Phase, Sink, Worker};
use crate::event::Keys;
use crate::load::{Load, Pattern};

pub(crate) use ours::Ours;

/// A measured server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// Blackhole, with the history on or off.
    Ours {
        /// Whether the stream stores events.
        history: bool,
    },
    /// Another server.
    Rival(Rival),
}

impl Name {
    /// Its name in tables.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Ours { history: true } => "blackhole",
            Self::Ours { history: false } => "blackhole, history off",
            Self::Rival(Rival::None) => "none",
            Self::Rival(Rival::Floor) => "floor",
            Self::Rival(Rival::FloorCoalescing) => "floor, coalescing",
            Self::Rival(Rival::Nats) => "NATS WebSocket",
            Self::Rival(Rival::WebStomp) => "Web STOMP",
            Self::Rival(Rival::Nchan) => "nchan",
            Self::Rival(Rival::Node) => "Node bridge",
        }
    }

    /// Whether it can serve a pattern. Where a session is determined by its path alone, it has one lane.
    pub(crate) fn serves(self, pattern: Pattern) -> bool {
        let one_lane = matches!(pattern, Pattern::Fanout | Pattern::Sharded | Pattern::Single);
        let path_only = matches!(self, Self::Rival(Rival::Floor | Rival::FloorCoalescing | Rival::Nchan));
        one_lane || !path_only
    }
}

/// A running server. Dropping it kills its processes.
pub(crate) struct Contender {
    /// Which server it is.
    pub(crate) name: Name,
    confirms: bool,
    dir: PathBuf,
    server: Server,
}

// Only one exists at a time.
#[allow(clippy::large_enum_variant)]
enum Server {
    Ours(Box<Ours>),
    Floor { worker: Option<Worker>, port: u16, coalesce: bool },
    Nats { nats: Nats, port: u16 },
    WebStomp { rabbitmq: RabbitMq, port: u16 },
    Nchan(nchan::Nchan),
    Node(node::Node),
}

impl Contender {
    /// Starts a server. `accounts` is the number of accounts that Blackhole has to know.
    pub(crate) async fn start(
        name: Name,
        dir: &Path,
        accounts: u32,
        options: &blackhole_dev::bench::Options,
    ) -> Result<Self> {
        let server = match name {
            Name::Ours { history } => {
                Server::Ours(Box::new(Ours::start(dir, accounts, history, options).await?))
            }
            Name::Rival(Rival::Floor) => {
                Server::Floor { worker: None, port: ports::free()?, coalesce: false }
            }
            Name::Rival(Rival::FloorCoalescing) => {
                Server::Floor { worker: None, port: ports::free()?, coalesce: true }
            }
            Name::Rival(Rival::Nats) => {
                let port = ports::free()?;
                let listener = format!("websocket {{ listen: \"127.0.0.1:{port}\", no_tls: true }}");
                Server::Nats { nats: Nats::with_config(dir, &listener).await?, port }
            }
            Name::Rival(Rival::WebStomp) => {
                let port = ports::free()?;
                let rabbitmq =
                    RabbitMq::with_plugins(dir, &["rabbitmq_web_stomp"], &web_stomp(port)?).await?;
                Server::WebStomp { rabbitmq, port }
            }
            Name::Rival(Rival::Nchan) => Server::Nchan(nchan::Nchan::start(dir).await?),
            Name::Rival(Rival::Node) => Server::Node(node::Node::start(dir).await?),
            Name::Rival(Rival::None) => bail!("there is no such server"),
        };
        Ok(Self { name, confirms: options.confirms, dir: dir.to_owned(), server })
    }

    /// Restarts the processes that serve the sessions, so that no state of the last measurement is left.
    pub(crate) async fn renew(&mut self, load: Load, edges: usize, settings: &[(&str, &str)]) -> Result<()> {
        let renewed = self.is_renewed(load);
        match &mut self.server {
            Server::Ours(ours) => ours.renew(edges, settings).await,
            Server::Floor { worker, port, coalesce } => {
                // The port of the old worker is free only once it has ended.
                worker.take();
                let new = worker.insert(Worker::start("floor", &self.dir).await?);
                new.ask(&Order::Serve { port: *port, load, coalesce: *coalesce }).await.map(drop)
            }
            Server::Nats { nats, .. } => nats.server().restart().await,
            Server::WebStomp { rabbitmq, .. } if renewed => rabbitmq.server().restart().await,
            Server::WebStomp { .. } => Ok(()),
            Server::Nchan(nchan) => nchan.renew().await,
            Server::Node(node) => node.renew(edges).await,
        }
    }

    /// Whether [`Contender::renew`] restarts the process that holds the sessions, so that their memory can be measured.
    /// RabbitMQ takes seconds to start, so it is restarted only for shapes that measure memory.
    pub(crate) fn is_renewed(&self, load: Load) -> bool {
        !matches!(self.server, Server::WebStomp { .. }) || load.pattern == Pattern::Single
    }

    /// The directory of its logs.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Address and protocol for clients.
    pub(crate) fn target(&self) -> Target {
        let (ports, protocol) = match &self.server {
            Server::Ours(ours) => (ours.ports(), Protocol::Blackhole(ours.view.clone())),
            Server::Floor { port, .. } => (vec![*port], Protocol::Path("/".into())),
            Server::Nats { port, .. } => (vec![*port], Protocol::Nats),
            Server::WebStomp { port, .. } => (vec![*port], Protocol::Stomp),
            Server::Nchan(nchan) => (vec![nchan.port()], Protocol::Path("/sub/".into())),
            Server::Node(node) => (node.ports(), Protocol::Blackhole("args".into())),
        };
        let tls = match &self.server {
            Server::Ours(ours) => ours.certificate.clone(),
            _ => None,
        };
        Target { ports, protocol, tls }
    }

    /// Where events are published; none for the floor, which generates them.
    pub(crate) fn sink(&self) -> Option<Sink> {
        let amqp = |url, keys| Some(Sink::Amqp { url, keys, confirms: self.confirms });
        match &self.server {
            Server::Ours(ours) => amqp(ours.amqp_url(), Keys::Kazoo),
            Server::Floor { .. } => None,
            Server::Nats { nats, .. } => Some(Sink::Nats(format!("127.0.0.1:{}", nats.port()))),
            Server::WebStomp { rabbitmq, .. } => amqp(rabbitmq.url(), Keys::WithAccount),
            Server::Nchan(nchan) => Some(Sink::Nchan(format!("127.0.0.1:{}", nchan.port()))),
            Server::Node(node) => amqp(node.amqp_url(), Keys::Kazoo),
        }
    }

    /// Makes the floor publish.
    pub(crate) async fn publish(&mut self, phase: Phase) -> Result<Answer> {
        match &mut self.server {
            Server::Floor { worker: Some(worker), .. } => worker.ask(&Order::Publish(phase)).await,
            _ => bail!("{} does not generate events", self.name.text()),
        }
    }

    /// Its process groups and their names. The first one holds the sessions.
    pub(crate) fn groups(&self) -> Result<Vec<(&'static str, i32)>> {
        let id = |server: &blackhole_dev::server::Server| Ok::<_, anyhow::Error>(server.process()?.id());
        Ok(match &self.server {
            Server::Ours(ours) => ours.groups()?,
            Server::Floor { worker, .. } => worker.iter().map(|worker| ("floor", worker.id())).collect(),
            Server::Nats { nats, .. } => vec![("nats-server", id(nats.server())?)],
            Server::WebStomp { rabbitmq, .. } => vec![("rabbitmq", id(rabbitmq.server())?)],
            Server::Nchan(nchan) => vec![("nginx", id(nchan.server())?)],
            Server::Node(node) => node.groups()?,
        })
    }
}

/// How long a server other than Blackhole may take to start.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// Configures Web STOMP. The plugin also opens a plain STOMP listener, which gets an unused port. Each session takes
/// some 200 KiB, so the broker gets more memory than in the tests; otherwise its memory alarm would block the
/// publisher.
fn web_stomp(port: u16) -> Result<String> {
    let stomp = ports::free()?;
    Ok(format!(
        "web_stomp.tcp.ip = 127.0.0.1\nweb_stomp.tcp.port = {port}\nweb_stomp.tcp.backlog = 4096\n\
         stomp.listeners.tcp.1 = 127.0.0.1:{stomp}\n\
         vm_memory_high_watermark.absolute = 6GB\n"
    ))
}
