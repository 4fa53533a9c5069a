//! The consumer of one broker: connects, declares the topology, consumes the queue, and reconnects.
//!
//! Events are consumed, and exchanges declared, on [`connection`]s of our own. After a lost connection everything is
//! declared and bound again, because KAZOO's exchanges, and with them the queue's bindings, do not survive a restart of
//! the broker. The broker redelivers what was not acknowledged, in order.

mod broker;
mod checkpoints;
pub mod connection;
mod declarations;
mod declarer;
mod delivery;
pub mod frame;
mod session;
mod topology;
mod window;

use std::{net::SocketAddr, time::Duration};

use blackhole_common::{backoff::Backoff, config::ServerUrl};
use lapin::{
    AsyncTcpStream, ConnectionProperties,
    tcp::TLSConfig,
    types::ShortString,
    uri::{AMQPScheme, AMQPUri},
};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::{connection_status::ConnectionStatus, error::IngestError};
pub(crate) use broker::{BrokerContext, BrokerCounters};
pub(crate) use checkpoints::BrokerQueue;
pub use checkpoints::CheckpointQueue;
use connection::{ANSWER_TIMEOUT, Connection};
pub(crate) use declarations::{ForeignExchanges, WantedExchange, WantedQueue};
pub(crate) use declarer::Declarer;
use session::ConsumerSession;
pub(crate) use topology::Topology;

/// The broker lists connection and consumer by this name.
const CLIENT_NAME: &str = "amqp-ingest";

/// The default heartbeat interval, for URLs without `?heartbeat=`. The connection is dropped after two intervals of
/// silence.
const HEARTBEAT_SECONDS: u16 = 10;

/// How long to wait for the broker to confirm that the connection is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Reconnect backoff. It is short because a restarted broker has lost the queue's bindings: what KAZOO publishes before
/// they are declared again is lost. The few ingests of a deployment cannot overload a broker.
pub(crate) const MIN_BACKOFF: Duration = Duration::from_millis(100);
pub(crate) const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// A broker that is short of memory or disk space reads nothing from a connection that publishes, not even the
/// acknowledgements that would relieve it. For this long after that, new connections store no checkpoints.
const BLOCKED_FOR: Duration = Duration::from_secs(60);

/// A connection that lasted longer than this resets the backoff.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// Consumes the events of one broker.
#[derive(Debug)]
pub(crate) struct Consumer {
    /// The broker.
    pub(crate) broker: BrokerContext,
    /// What it relies on there.
    pub(crate) topology: Topology,
    /// The status of the connection to it.
    pub(crate) status: ConnectionStatus,
    /// When the broker refused messages, so that no checkpoint can be stored for a while.
    pub(crate) blocked_at: Option<Instant>,
}

impl Consumer {
    /// Consumes until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut backoff = Backoff::new(MIN_BACKOFF, MAX_BACKOFF);
        loop {
            let started = Instant::now();
            let Err(error) = self.connect_and_consume(&shutdown).await else { return };
            self.status.mark_down(&error);
            if matches!(error, IngestError::BrokerBlocked(_)) {
                self.blocked_at = Some(Instant::now());
            }
            if started.elapsed() > STABLE_AFTER {
                backoff.reset();
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(backoff.next_wait()) => {}
            }
        }
    }

    /// Returns `Ok` after the shutdown, or the error that ended the connection.
    async fn connect_and_consume(&mut self, shutdown: &CancellationToken) -> Result<(), IngestError> {
        let Consumer { broker, topology, status, blocked_at } = self;
        let set_up = async {
            let declarer = topology.declare().await?;
            Ok::<_, IngestError>((declarer, begin_session(broker, *blocked_at).await?))
        };
        let (declarer, mut session) = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            result = set_up => result?,
        };
        status.mark_up();
        let result = tokio::select! {
            result = session.run(shutdown) => result,
            error = topology.watch(declarer) => Err(error),
        };
        broker.active.set(false);
        if result.is_ok() {
            // The broker then requeues unacknowledged deliveries at once and activates a standby consumer, if any.
            let _ = timeout(CLOSE_TIMEOUT, session.close()).await;
        }
        result
    }
}

/// Connects and starts to consume. `blocked_at` is when the broker last refused messages.
///
/// # Errors
/// If the broker cannot be reached or refuses.
pub(crate) async fn begin_session(
    broker: &BrokerContext,
    blocked_at: Option<Instant>,
) -> Result<ConsumerSession<'_>, IngestError> {
    let uri = parse_uri(&broker.endpoint.url)?;
    let mut connection = Connection::open(broker.network.as_ref(), &uri, CLIENT_NAME).await?;
    let is_blocked = blocked_at.is_some_and(|at| at.elapsed() < BLOCKED_FOR);
    let is_transactional = broker.has_history && !is_blocked;
    broker.active.set(connection.consume(CLIENT_NAME, &broker.config, is_transactional).await?);
    Ok(ConsumerSession::new(connection, broker))
}

/// Connects with lapin to a broker that has answered a [`Declarer`] at the address `peer`. The broker lists the connection
/// as `name`.
pub(crate) async fn connect(
    (uri, peer): (AMQPUri, SocketAddr),
    name: &str,
) -> Result<lapin::Connection, IngestError> {
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let open = async move |uri: AMQPUri, runtime| {
        let stream = AsyncTcpStream::connect(&runtime, peer).await?;
        match uri.scheme {
            AMQPScheme::AMQP => Ok(stream),
            AMQPScheme::AMQPS => Ok(stream.into_tls(&uri.authority.host, TLSConfig::default()).await?),
        }
    };
    let runtime = lapin::runtime::default_runtime()?;
    let connecting = lapin::Connection::connector(uri, runtime, open, properties);
    let timed_out = |_| IngestError::AmqpTimeout(ANSWER_TIMEOUT.as_secs());
    Ok(timeout(ANSWER_TIMEOUT, connecting).await.map_err(timed_out)??)
}

/// Converts to an AMQP short string; lapin's own conversion panics on more than 255 bytes.
pub(crate) fn short_string(name: &str) -> Result<ShortString, IngestError> {
    ShortString::try_new(name).map_err(|error| IngestError::AmqpName(name.to_owned(), error.to_string()))
}

fn parse_uri(url: &ServerUrl) -> Result<AMQPUri, IngestError> {
    let mut uri: AMQPUri = url.reveal().parse().map_err(IngestError::AmqpUrl)?;
    uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
    Ok(uri)
}
