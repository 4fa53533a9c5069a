//! Carries KAZOO's AMQP events into the NATS stream.
//!
//! ```text
//! exchanges ─► queue ─► consumer ─► publisher ─► stream (republished by the server)
//!                ▲          │           │
//!                └── ack ───┴─ settled ◄┘
//! ```
//!
//! | module | purpose |
//! |---|---|
//! | `config` | configuration |
//! | `body` | validates an event's body and extracts its name and tenant members |
//! | `tenant` | resolves an event's tenant |
//! | `message` | an event as published to NATS |
//! | `dialled`, `numbers` | the account of the dialled number: in the event, and asking auth-svc |
//! | `checkpoint` | an event's number, and how far a queue was acknowledged |
//! | `active` | whether this ingest is the active consumer of a queue |
//! | `amqp` | one consumer per broker: topology, deliveries, acknowledgements, reconnecting |
//! | `publish` | the publisher: order, acknowledgements, reconnecting, the stream |
//! | `state` | the last events of living things, for clients that ask for the present |
//! | `requests` | KAZOO's requests over AMQP, and the edges' messages to KAZOO |
//! | [`doctor`] | a command that looks at everything and says what is wrong |
//! | [`simulated`] | an ingest in the simulator |
//! | [`runtime`] | a single-threaded runtime that batches I/O under load |
//! | `connection_status` | readiness, metrics and log lines of a connection |
//! | `bound_part` | the same of what a broker serves, such as a family |
//! | `log_throttle` | limits log lines that external input can trigger |
//! | `metrics` | metrics |
//!
//! An event is acknowledged to AMQP only after the stream has acknowledged it. If any process dies, the broker still
//! has what the stream lacks. Events of one queue reach the stream in the queue's order; `publish` documents how.

mod active;
pub mod amqp;
pub mod body;
mod bound_part;
pub mod checkpoint;
mod config;
mod connection_status;
#[cfg(test)]
mod contract;
mod dialled;
pub mod doctor;
mod error;
mod log_throttle;
mod message;
mod metrics;
mod numbers;
pub mod publish;
pub mod requests;
pub mod runtime;
pub mod simulated;
pub mod state;
mod tenant;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use blackhole_common::{
    admin::AdminServer,
    catalogue::Catalogue,
    nats::{self, link::Servers},
    net::Tcp,
    readiness::Readiness,
    telemetry, version,
    wire::Subjects,
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

pub use config::IngestConfig;
pub use error::IngestError;
pub use tenant::{dialled as dialled_event, subject};

use active::ActiveConsumer;
use amqp::{BrokerContext, BrokerCounters, BrokerQueue, Consumer, Topology};
use connection_status::ConnectionStatus;
use metrics::Metrics;
use numbers::Numbers;
use publish::Publisher;
use requests::Requests;
use state::Keeper;

/// Capacity of the queue between consumers and publisher: room for a burst. When it is full, consumers stop reading,
/// which is back-pressure on their brokers.
const PUBLISH_QUEUE_LEN: usize = 1024;

/// How long the tasks may take to end after the shutdown. It is less than the 10 seconds that supervisors usually
/// grant; the broker requeues whatever is not acknowledged by then.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(8);

/// An ingest that listens on its admin address and does not carry events yet.
#[derive(Debug)]
struct Ingest {
    config: IngestConfig,
    catalogue: Arc<Catalogue>,
    readiness: Readiness,
    metrics: Metrics,
    admin: AdminServer,
    requests: Requests,
    keeper: Option<Keeper>,
}

impl Ingest {
    /// Checks everything that a retry cannot fix: catalogue, credentials, admin address.
    async fn bind(config: IngestConfig) -> Result<Ingest, IngestError> {
        let catalogue = Arc::new(Catalogue::load(config.catalogue.file.as_deref())?);
        nats::options(&config.nats, publish::CLIENT_NAME).await?;
        let mut registry = telemetry::registry("amqp-ingest");
        let metrics = Metrics::register(&mut registry, &catalogue);
        metrics.limited_to(config.amqp.prefetch);
        let readiness = Readiness::default();
        let admin = AdminServer::bind(&config.admin, registry, readiness.clone())
            .await
            .map_err(IngestError::Admin)?;
        let requests = Requests::new(&config, Arc::clone(&catalogue), &readiness, metrics.clone()).await?;
        let admin = requests.add_route(admin);
        let keeper = if Keeper::is_needed(&catalogue, &config.history) {
            Some(Keeper::new(&config, Arc::clone(&catalogue), &readiness, metrics.clone()).await?)
        } else {
            None
        };
        Ok(Ingest { config, catalogue, readiness, metrics, admin, requests, keeper })
    }

    fn admin_address(&self) -> std::io::Result<SocketAddr> {
        self.admin.address()
    }

    /// Carries events until `shutdown`. Reconnects to brokers and NATS as needed.
    async fn run(self, shutdown: CancellationToken) {
        let Ingest { config, catalogue, readiness, metrics, admin, requests, keeper } = self;
        let mut tasks = JoinSet::new();
        let (publisher_tx, publisher_rx) = mpsc::channel(PUBLISH_QUEUE_LEN);
        let (subjects, has_history) = (Subjects::new(&config.nats.prefix), !config.history.is_off());
        let nats =
            ConnectionStatus::new("nats", config.nats.url.to_string(), readiness.latch("nats"), &metrics);
        let zones = config.amqp.brokers().into_iter().map(|endpoint| endpoint.zone);
        let sources = zones.map(|zone| (zone, ActiveConsumer::default())).collect::<Vec<_>>();
        let brokers = config.amqp.brokers().into_iter().zip(&sources);
        for (source, (endpoint, (_, active))) in brokers.enumerate() {
            let latch = match endpoint.zone.as_str() {
                "" => readiness.latch("amqp"),
                // One zone suffices: an outage in one must not make the ingest unready for the others.
                zone => readiness.latch_in_group("amqp", zone),
            };
            let consumer = Consumer {
                status: ConnectionStatus::for_broker("amqp", &endpoint, latch, &metrics),
                blocked_at: None,
                topology: Topology::new(&config.amqp, &endpoint, &catalogue, &readiness, &metrics),
                broker: BrokerContext {
                    counters: BrokerCounters::for_zone(&endpoint.zone, &metrics),
                    source,
                    network: Arc::new(Tcp),
                    checkpoints: Arc::new(BrokerQueue::new(endpoint.url.clone(), &config.amqp)),
                    endpoint,
                    config: config.amqp.clone(),
                    has_history,
                    subject_root: if has_history { subjects.ingest() } else { subjects.event() },
                    catalogue: Arc::clone(&catalogue),
                    publisher: publisher_tx.clone(),
                    active: active.clone(),
                    metrics: metrics.clone(),
                },
            };
            tasks.spawn(consumer.run(shutdown.clone()));
        }
        // The publisher ends when the last consumer has dropped its sender.
        drop(publisher_tx);
        let numbers = Numbers::new(Some(Arc::new(requests.client())), subjects.auth_number());
        let publisher = Publisher::new(
            subjects,
            config.history.clone(),
            &sources,
            config.amqp.check_interval,
            publisher_rx,
            nats,
            metrics,
        )
        .asking(numbers, config.amqp.wait_limits());
        if let Some(keeper) = keeper {
            tasks.spawn(keeper.run(shutdown.clone()));
        }
        requests.spawn(&mut tasks, &shutdown);
        tasks.spawn(admin.serve(shutdown.clone()));
        tasks.spawn(publisher.run(Servers::new(config.nats)));
        shutdown.cancelled().await;
        let ended = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, ended).await.is_err() {
            tracing::warn!("shutdown timed out; the broker requeues unacknowledged events");
        }
    }
}

/// Runs an ingest until `shutdown`.
///
/// # Errors
/// [`IngestError::Catalogue`], [`IngestError::Nats`] or [`IngestError::Admin`] if it cannot start.
pub async fn run(config: IngestConfig, shutdown: CancellationToken) -> Result<(), IngestError> {
    let (amqp, nats) = (config.amqp.brokers(), config.nats.url.clone());
    let ingest = Ingest::bind(config).await?;
    let admin = ingest.admin_address().map_err(IngestError::Admin)?;
    let amqp = amqp.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    tracing::info!(version = version::with_commit(), amqp, %nats, %admin, "started");
    ingest.run(shutdown).await;
    Ok(())
}
