//! Carries KAZOO's AMQP events into the NATS stream.
//!
//! ```text
//! exchanges ─► queue ─► source ─► delivery ─► publisher ─► stream (republished by the server)
//!                ▲         │                      │
//!                └─ ack ───┴────── settled ◄──────┘
//! ```
//!
//! | module | idea |
//! |---|---|
//! | [`config`] | the configuration |
//! | `body` | what is read from an event's body, in one pass |
//! | `owner` | whose an event is |
//! | `message` | an event as it goes to NATS |
//! | `amqp` | one of the brokers: topology, deliveries, acknowledgements, connecting again |
//! | `publish` | the one publisher: order, acknowledgements, connecting again, the stream |
//! | `requests` | what KAZOO asks of a Blackhole over AMQP, and what edges have for KAZOO |
//! | [`runtime`] | one thread that takes events together while there are many |
//! | `outage` | saying once that something is away, and once that it is back |
//! | `seldom` | log lines that others cause, one in a while |
//! | `metrics` | what is counted |
//!
//! An event is acknowledged to AMQP only after the stream has acknowledged it, so that what neither has is still
//! with the broker, whatever dies. Events of one queue reach the stream in the queue's order; `publish` says how
//! that is kept.

mod amqp;
mod body;
pub mod config;
mod error;
mod message;
mod metrics;
mod outage;
mod owner;
mod publish;
mod requests;
pub mod runtime;
mod seldom;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use blackhole_common::{
    admin::AdminServer, catalogue::Catalogue, nats, readiness::Readiness, telemetry, wire::Subjects,
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

pub use config::IngestConfig;
pub use error::IngestError;
pub use owner::subject;

use amqp::{Broker, BrokerCounters, Source};
use metrics::Metrics;
use outage::Outage;
use publish::Publisher;
use requests::Requests;

/// How long the tasks may take to end after the shutdown; what they have not given back by then, the broker takes
/// when it sees the connection gone. Leaves room within the 10 seconds that supervisors usually grant.
const STOP_WITHIN: Duration = Duration::from_secs(8);

/// An ingest that listens on its admin address and has not begun to work.
#[derive(Debug)]
pub struct Ingest {
    config: IngestConfig,
    catalogue: Arc<Catalogue>,
    readiness: Readiness,
    metrics: Metrics,
    admin: AdminServer,
    requests: Requests,
}

impl Ingest {
    /// Checks what waiting does not mend (catalogue, credentials, admin address).
    ///
    /// # Errors
    /// [`IngestError::Catalogue`], [`IngestError::Nats`] and [`IngestError::Admin`].
    pub async fn bind(config: IngestConfig) -> Result<Ingest, IngestError> {
        let catalogue = Arc::new(Catalogue::load(config.catalogue.file.as_deref())?);
        nats::options(&config.nats, publish::CLIENT_NAME).await?;
        let mut registry = telemetry::registry("amqp-ingest", env!("CARGO_PKG_VERSION"));
        let metrics = Metrics::register(&mut registry, &catalogue);
        let readiness = Readiness::default();
        let admin = AdminServer::bind(&config.admin, registry, readiness.clone())
            .await
            .map_err(IngestError::Admin)?;
        let requests = Requests::new(&config, Arc::clone(&catalogue), metrics.clone()).await?;
        let admin = requests.add_route(admin);
        Ok(Ingest { config, catalogue, readiness, metrics, admin, requests })
    }

    /// Where `/metrics`, `/health/*` and `/sessions` are.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn admin_address(&self) -> std::io::Result<SocketAddr> {
        self.admin.address()
    }

    /// Carries events until `shutdown`. Brokers that are away are waited for.
    pub async fn run(self, shutdown: CancellationToken) {
        let Ingest { config, catalogue, readiness, metrics, admin, requests } = self;
        let mut tasks = JoinSet::new();
        // Room for a burst; beyond it a source waits, and with it its broker.
        let (outgoing, from_sources) = mpsc::channel(1024);
        let (subjects, has_history) = (Subjects::new(&config.nats.prefix), !config.history.is_off());
        let nats = Outage::new("nats", config.nats.url.to_string(), readiness.latch("nats"), &metrics);
        for place in config.amqp.brokers() {
            let latch = match place.zone.as_str() {
                "" => readiness.latch("amqp"),
                // One zone that is away must not stop the ingest from being used for the others.
                zone => readiness.latch_in_group("amqp", zone),
            };
            let source = Source {
                outage: Outage::of_broker("amqp", &place, latch, &metrics),
                broker: Broker {
                    counters: BrokerCounters::of(&place.zone, &metrics),
                    place,
                    config: config.amqp.clone(),
                    root: if has_history { subjects.ingest() } else { subjects.event() },
                    catalogue: Arc::clone(&catalogue),
                    outgoing: outgoing.clone(),
                    metrics: metrics.clone(),
                },
            };
            tasks.spawn(source.run(shutdown.clone()));
        }
        // The publisher ends when the last source has.
        drop(outgoing);
        let publisher =
            Publisher::new(config.nats.clone(), config.history.clone(), from_sources, nats, metrics);
        requests.spawn(&mut tasks, &shutdown);
        tasks.spawn(admin.serve(shutdown.clone()));
        tasks.spawn(publisher.run());
        shutdown.cancelled().await;
        let ended = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_WITHIN, ended).await.is_err() {
            tracing::warn!("did not end in time, the broker keeps what is not acknowledged");
        }
    }
}

/// [`Ingest::bind`] and [`Ingest::run`].
///
/// # Errors
/// Those of [`Ingest::bind`].
pub async fn run(config: IngestConfig, shutdown: CancellationToken) -> Result<(), IngestError> {
    let (amqp, nats) = (config.amqp.brokers(), config.nats.url.clone());
    let ingest = Ingest::bind(config).await?;
    let admin = ingest.admin_address().map_err(IngestError::Admin)?;
    let amqp = amqp.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    tracing::info!(version = env!("CARGO_PKG_VERSION"), amqp, %nats, %admin, "started");
    ingest.run(shutdown).await;
    Ok(())
}
