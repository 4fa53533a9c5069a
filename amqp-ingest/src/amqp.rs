//! The consumer of one broker: connects, declares the topology, consumes the queue, and reconnects.
//!
//! lapin declares; events are consumed on a [`connection`] of our own. After a lost connection everything is declared
//! and bound again, because KAZOO's exchanges, and with them the queue's bindings, do not survive a restart of the
//! broker. The broker redelivers what was not acknowledged, in order.

mod broker;
mod checkpoints;
pub mod connection;
mod delivery;
pub mod frame;
mod session;
mod topology;
mod window;

use std::time::Duration;

use blackhole_common::{backoff::Backoff, config::ServerUrl};
use lapin::{Connection, ConnectionProperties, uri::AMQPUri};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::{connection_status::ConnectionStatus, error::IngestError};
pub(crate) use broker::{BrokerContext, BrokerCounters};
use connection::ConsumerConnection;
use session::ConsumerSession;
pub(crate) use topology::{declare_exchange, short_string};

/// Connecting and declaring must complete within this.
const SETUP_TIMEOUT: Duration = Duration::from_secs(10);

/// The default heartbeat interval, for URLs without `?heartbeat=`. The connection is dropped after two intervals of
/// silence.
const HEARTBEAT_SECONDS: u16 = 10;

/// How long to wait for the broker to confirm that the connection is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Reconnect backoff. It is short because a restarted broker has lost the queue's bindings: what KAZOO publishes before
/// they are declared again is lost. The few ingests of a deployment cannot overload a broker.
const MIN_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(1);

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
        let set_up = async {
            let BrokerContext { endpoint, config, catalogue, .. } = &self.broker;
            let setup = connect(&endpoint.url, "amqp-ingest set-up").await?;
            let channel = setup.create_channel().await?;
            topology::declare(&setup, &channel, config, catalogue).await?;
            setup.close(200, "declared".into()).await?;
            let uri = parse_uri(&endpoint.url)?;
            let is_blocked = self.blocked_at.is_some_and(|at| at.elapsed() < BLOCKED_FOR);
            let is_transactional = self.broker.has_history && !is_blocked;
            let connection = ConsumerConnection::open(&uri, "amqp-ingest", config, is_transactional).await?;
            Ok::<_, IngestError>(ConsumerSession::new(connection, &self.broker))
        };
        let mut session = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            result = timeout(SETUP_TIMEOUT, set_up) => {
                result.map_err(|_| IngestError::AmqpTimeout(SETUP_TIMEOUT.as_secs()))??
            }
        };
        self.status.mark_up();
        let result = session.run(shutdown).await;
        if result.is_ok() {
            // The broker then requeues unacknowledged deliveries at once and activates a standby consumer, if any.
            let _ = timeout(CLOSE_TIMEOUT, session.close()).await;
        }
        result
    }
}

/// Connects with lapin. The broker lists the connection as `name`.
pub(crate) async fn connect(url: &ServerUrl, name: &str) -> Result<Connection, IngestError> {
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    Ok(Connection::connect_uri(parse_uri(url)?, properties).await?)
}

fn parse_uri(url: &ServerUrl) -> Result<AMQPUri, IngestError> {
    let mut uri: AMQPUri = url.reveal().parse().map_err(IngestError::AmqpUrl)?;
    uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
    Ok(uri)
}
