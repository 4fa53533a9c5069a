//! KAZOO's requests to Blackhole over AMQP, and the edges' messages to KAZOO.
//!
//! | module | purpose |
//! |---|---|
//! | `responder` | consumes one broker's requests and publishes the responses |
//! | `topology` | the queue of one broker's requests, and its bindings |
//! | `envelope` | the members that all requests and responses share |
//! | `handler` | what the handlers of all request types share |
//! | `listing` | the list of sessions |
//! | `modules` | starting and stopping families |
//! | `stopped_families` | the families that are stopped persistently |
//! | `targeted` | the edges' messages to one KAZOO process |
//! | `broker_channel` | publishes to the exchange `targeted` of a broker |
//! | `gather` | one request to all edges, and their replies |
//! | `edges` | which edges are alive |
//!
//! None of this takes part in carrying events, and readiness does not depend on it.

mod broker_channel;
mod edges;
pub mod envelope;
mod gather;
mod handler;
pub mod listing;
pub mod modules;
mod responder;
mod stopped_families;
mod targeted;
mod topology;

use std::{sync::Arc, time::Duration};

use async_nats::{Client, connection::State, service::ServiceExt};
use blackhole_common::{
    admin::{AdminServer, Verb},
    catalogue::Catalogue,
    nats::{self, NatsError},
    readiness::Readiness,
    version,
    wire::Subjects,
};
use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    bound_part::BoundPart, config::IngestConfig, connection_status::ConnectionStatus,
    log_throttle::LogThrottle, metrics::Metrics,
};
use broker_channel::BrokerChannel;
use edges::Edges;
use gather::EdgeRequester;
use handler::RequestHandler;
use responder::Responder;
use stopped_families::StoppedFamilies;

/// The name of the connection in the server's listings.
const CLIENT_NAME: &str = "amqp-ingest requests";
/// How long the last replies may take to be sent after the shutdown.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Everything that handles requests, not started yet.
#[derive(Debug)]
pub(crate) struct Requests {
    handler: Arc<RequestHandler>,
    edges: Arc<Edges>,
    responders: Vec<Responder>,
}

impl Requests {
    /// Connects to NATS, in the background if no server is available.
    ///
    /// # Errors
    /// If NATS cannot be used as configured.
    pub(crate) async fn new(
        config: &IngestConfig,
        catalogue: Arc<Catalogue>,
        readiness: &Readiness,
        metrics: Metrics,
    ) -> Result<Requests, NatsError> {
        // The ingest carries events without these connections.
        let separate_readiness = Readiness::default();
        let edges = Arc::new(Edges::new());
        let observer = Arc::clone(&edges);
        let options = nats::options(&config.nats, CLIENT_NAME).await?;
        let latch = nats::Latches::new(readiness, readiness.optional("requests over nats"));
        let client = nats::connect_with(&config.nats, options, latch, move |event| {
            observer.on_connection_event(event);
        })
        .await?;
        let subjects = Subjects::new(&config.nats.prefix);
        let (mut brokers, mut endpoints) = (Vec::new(), Vec::new());
        for endpoint in config.amqp.brokers() {
            let (sender, channel) = watch::channel(None);
            brokers.push(BrokerChannel { zone: endpoint.zone.clone(), channel });
            endpoints.push((endpoint, sender));
        }
        let handler = Arc::new(RequestHandler {
            requester: EdgeRequester::new(client.clone(), Arc::clone(&edges)),
            stopped: StoppedFamilies::new(
                client.clone(),
                subjects.stopped_families(),
                config.history.replicas,
            ),
            client,
            subjects,
            catalogue,
            brokers,
            node: format!("blackhole@{}", gethostname::gethostname().to_string_lossy()),
            metrics: metrics.clone(),
            malformed_log: Mutex::new(LogThrottle::new()),
            failure_log: Mutex::new(LogThrottle::new()),
            admin_listing: Semaphore::new(1),
        });
        let responders = endpoints.into_iter().map(|(endpoint, channel)| Responder {
            status: ConnectionStatus::for_broker(
                "requests",
                &endpoint,
                separate_readiness.latch("requests"),
                &metrics,
            ),
            part: BoundPart::new("requests", &endpoint.zone, readiness, &metrics),
            publishing: BoundPart::new("publishing", &endpoint.zone, readiness, &metrics),
            endpoint,
            queue: config.amqp.requests_queue(),
            former_queue: config.amqp.former_requests_queue(),
            check_interval: config.amqp.check_interval,
            handler: Arc::clone(&handler),
            edges: Arc::clone(&edges),
            channel,
        });
        let responders = responders.collect();
        Ok(Requests { handler, edges, responders })
    }

    /// The connection to NATS.
    pub(crate) fn client(&self) -> Client {
        self.handler.client.clone()
    }

    /// Adds `GET /sessions`.
    pub(crate) fn add_route(&self, admin: AdminServer) -> AdminServer {
        let handler = Arc::clone(&self.handler);
        admin.route(Verb::Get, "/sessions", move |request| {
            let handler = Arc::clone(&handler);
            async move { handler.get_sessions(request).await }
        })
    }

    /// Starts to handle requests, until `shutdown`.
    pub(crate) fn spawn(self, tasks: &mut JoinSet<()>, shutdown: &CancellationToken) {
        let Requests { handler, edges, responders } = self;
        for responder in responders {
            tasks.spawn(responder.run(shutdown.clone()));
        }
        let (listener, ended) = (Arc::clone(&handler), shutdown.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = edges.listen(&listener.client, listener.subjects.edges()) => {}
            }
        });
        tasks.spawn(announce(handler.client.clone(), shutdown.clone()));
        let ended = shutdown.clone();
        tasks.spawn(async move {
            Arc::clone(&handler).relay(ended).await;
            if handler.client.connection_state() == State::Connected {
                let _ = tokio::time::timeout(FLUSH_TIMEOUT, handler.client.flush()).await;
            }
        });
    }
}

/// Makes `nats micro ls` list this ingest with its release, until `shutdown`. It serves nothing there.
async fn announce(client: Client, shutdown: CancellationToken) {
    let service = client
        .service_builder()
        .description("carries KAZOO's AMQP events into the stream")
        .metadata([("commit".to_owned(), version::COMMIT.to_owned())].into())
        .start("blackhole-ingest", version::RELEASE);
    match service.await {
        Ok(service) => {
            shutdown.cancelled().await;
            // Not connected, it is not listed anyway.
            let _ = tokio::time::timeout(FLUSH_TIMEOUT, service.stop()).await;
        }
        Err(error) => tracing::warn!(%error, "this ingest is not listed as a nats micro service"),
    }
}
