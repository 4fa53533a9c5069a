//! An ingest in the simulator: consumer and publisher, over the caller's connections. It declares nothing at the broker, and
//! answers no requests.

use std::sync::Arc;

use blackhole_common::{
    backoff::Backoff,
    catalogue::Catalogue,
    nats::{link::Servers, requests::Requests},
    net::Dial,
    readiness::Readiness,
    telemetry,
    wire::Subjects,
};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    PUBLISH_QUEUE_LEN,
    active::ActiveConsumer,
    amqp::{self, BrokerContext, BrokerCounters, CheckpointQueue, MAX_BACKOFF, MIN_BACKOFF},
    config::IngestConfig,
    connection_status::ConnectionStatus,
    error::IngestError,
    metrics::Metrics,
    numbers::Numbers,
    publish::Publisher,
};

/// Carries the events of one broker until it is dropped, or until `shutdown`. The broker is reached over `network`; the queue
/// for its `checkpoints` is read by the caller. With `requests`, auth-svc is asked whose dialled numbers are.
pub async fn run(
    config: IngestConfig,
    catalogue: Arc<Catalogue>,
    servers: Servers,
    network: Arc<dyn Dial>,
    checkpoints: Arc<dyn CheckpointQueue>,
    requests: Option<Arc<dyn Requests>>,
    shutdown: CancellationToken,
) {
    let (readiness, subjects) = (Readiness::default(), Subjects::new(&config.nats.prefix));
    let metrics = Metrics::register(&mut telemetry::registry("amqp-ingest"), &catalogue);
    let status =
        ConnectionStatus::new("nats", config.nats.url.to_string(), readiness.latch("nats"), &metrics);
    let (publisher_tx, publisher_rx) = mpsc::channel(PUBLISH_QUEUE_LEN);
    let (check_interval, active) = (config.amqp.check_interval, ActiveConsumer::default());
    let zones = [(String::new(), active.clone())];
    let publisher = Publisher::new(
        subjects.clone(),
        config.history.clone(),
        &zones,
        check_interval,
        publisher_rx,
        status,
        metrics.clone(),
    )
    .asking(Numbers::new(requests, subjects.auth_number()), config.amqp.wait_limits());
    let Some(endpoint) = config.amqp.brokers().into_iter().next() else { return };
    let broker = BrokerContext {
        counters: BrokerCounters::for_zone(&endpoint.zone, &metrics),
        source: 0,
        active,
        network,
        checkpoints,
        endpoint,
        config: config.amqp,
        has_history: true,
        subject_root: subjects.ingest(),
        catalogue,
        publisher: publisher_tx,
        metrics,
    };
    tokio::join!(consume(broker, &shutdown), publisher.run(servers));
}

/// Consumes until `shutdown`, and connects again as often as it must.
async fn consume(broker: BrokerContext, shutdown: &CancellationToken) {
    let (mut backoff, mut blocked_at) = (Backoff::new(MIN_BACKOFF, MAX_BACKOFF), None);
    loop {
        let ended = async {
            let mut session = amqp::begin_session(&broker, blocked_at).await?;
            session.run(shutdown).await?;
            session.close().await
        };
        match ended.await {
            Err(error) if !shutdown.is_cancelled() => {
                tracing::debug!("the ingest's session with the broker ends: {error}");
                if matches!(error, IngestError::BrokerBlocked(_)) {
                    blocked_at = Some(Instant::now());
                }
            }
            _ => return,
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
}
