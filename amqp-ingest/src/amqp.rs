//! One broker: connects, declares, reads the queue, and does it again after a loss.
//!
//! lapin declares, a connection of our own ([`link`]) reads. After a loss everything is declared and bound anew, since
//! KAZOO's exchanges and with them the queue's bindings do not survive a restart of the broker; and the deliveries that
//! were not acknowledged come again, in their order, so that there is no state to recover here.

mod delivery;
mod frame;
mod link;
mod session;
mod topology;
mod window;

use std::{sync::Arc, time::Duration};

use blackhole_common::{backoff::Backoff, catalogue::Catalogue, config::ServerUrl};
use lapin::{Connection, ConnectionProperties, uri::AMQPUri};
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{AmqpConfig, BrokerConfig},
    error::IngestError,
    metrics::Metrics,
    outage::Outage,
    publish::Outgoing,
};
use link::Link;
use session::Session;
pub(crate) use topology::{declare_exchange, short};

/// What connects and declares must have been answered within this.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Seconds between heartbeats, unless the URL says otherwise. A broker that gives no sign for twice this is given up.
const HEARTBEAT_SECONDS: u16 = 10;

/// A broker that is asked to end the connection gets so long.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// Between attempts to connect. Short, because a restarted broker has lost the queue's bindings with KAZOO's exchanges:
/// what KAZOO publishes before they are declared anew is lost. A handful of ingests is no storm.
const LEAST_WAIT: Duration = Duration::from_millis(100);
const MOST_WAIT: Duration = Duration::from_secs(1);

/// A connection that lasted this long was no failure: the next attempt comes soon.
const GOOD_AFTER: Duration = Duration::from_secs(10);

/// Keeps one broker's events carried.
#[derive(Debug)]
pub(crate) struct Source {
    /// The broker.
    pub(crate) broker: Broker,
    /// Whether it is there.
    pub(crate) outage: Outage,
}

/// One broker, and what is done with its events.
#[derive(Debug)]
pub(crate) struct Broker {
    /// Where it is, and in which zone.
    pub(crate) place: BrokerConfig,
    /// The queue there.
    pub(crate) config: AmqpConfig,
    /// What subjects begin with.
    pub(crate) root: String,
    /// What is bound and how it is understood.
    pub(crate) catalogue: Arc<Catalogue>,
    /// To the publisher.
    pub(crate) outgoing: mpsc::Sender<Outgoing>,
    /// Counters.
    pub(crate) metrics: Metrics,
    /// Those of this broker.
    pub(crate) counters: BrokerCounters,
}

/// What is counted for each broker.
#[derive(Debug)]
pub(crate) struct BrokerCounters {
    /// Events received, by the number of their family in the catalogue.
    pub(crate) received: Vec<Counter>,
    /// Deliveries that are not acknowledged yet.
    pub(crate) in_flight: Gauge,
}

impl BrokerCounters {
    /// Those of a zone.
    pub(crate) fn of(zone: &str, metrics: &Metrics) -> BrokerCounters {
        BrokerCounters { received: metrics.received(zone), in_flight: metrics.in_flight(zone) }
    }
}

impl Source {
    /// Carries events until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut backoff = Backoff::new(LEAST_WAIT, MOST_WAIT);
        loop {
            let began = Instant::now();
            let Err(error) = self.connect_and_carry(&shutdown).await else { return };
            self.outage.began(&error);
            if began.elapsed() > GOOD_AFTER {
                backoff.reset();
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(backoff.next_wait()) => {}
            }
        }
    }

    /// Comes back after the shutdown, or with the reason of a loss.
    async fn connect_and_carry(&mut self, shutdown: &CancellationToken) -> Result<(), IngestError> {
        let set_up = async {
            let Broker { place, config, catalogue, .. } = &self.broker;
            let connection = connect(&place.url, "amqp-ingest set-up").await?;
            let channel = connection.create_channel().await?;
            topology::declare(&connection, &channel, config, catalogue).await?;
            connection.close(200, "declared".into()).await?;
            let link = Link::open(&uri(&place.url)?, "amqp-ingest", &config.queue, config.prefetch).await?;
            Ok::<_, IngestError>(Session::new(link, &self.broker))
        };
        let mut session = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            result = timeout(ANSWER_WITHIN, set_up) => {
                result.map_err(|_| IngestError::AmqpTimeout(ANSWER_WITHIN.as_secs()))??
            }
        };
        self.outage.ended();
        let result = session.carry(shutdown).await;
        if result.is_ok() {
            // The broker takes back at once what is not acknowledged, and turns to the standby if there is one.
            let _ = timeout(CLOSE_WITHIN, session.close()).await;
        }
        result
    }
}

/// Connects; the broker lists the connection under `name`.
pub(crate) async fn connect(url: &ServerUrl, name: &str) -> Result<Connection, IngestError> {
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    Ok(Connection::connect_uri(uri(url)?, properties).await?)
}

fn uri(url: &ServerUrl) -> Result<AMQPUri, IngestError> {
    let mut uri: AMQPUri = url.reveal().parse().map_err(IngestError::AmqpUrl)?;
    uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
    Ok(uri)
}
