//! What KAZOO asks of a Blackhole over AMQP, and what edges have for KAZOO.
//!
//! | module | idea |
//! |---|---|
//! | `responder` | one broker's requests: taken from a queue, answered |
//! | `envelope` | what all requests and answers have in common |
//! | `listing` | the list of sessions |
//! | `modules` | starting and stopping a family |
//! | `stopped` | families that are stopped for good |
//! | `targeted` | messages of edges to one process of KAZOO |
//! | `gather` | one question to all edges, and their answers |
//! | `edges` | which edges are there |
//!
//! Nothing here takes part in carrying events, and nothing of it is needed to be ready.

mod edges;
mod envelope;
mod gather;
mod listing;
mod modules;
mod responder;
mod stopped;
mod targeted;

use std::{fmt::Display, sync::Arc, time::Duration};

use async_nats::{Client, connection::State};
use blackhole_common::{
    admin::{AdminServer, Verb},
    catalogue::Catalogue,
    nats::{self, NatsError},
    readiness::Readiness,
    wire::Subjects,
};
use lapin::Channel;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::IngestConfig,
    metrics::{Metrics, RequestKind, RequestOutcome},
    outage::Outage,
    seldom::Seldom,
};
use edges::Edges;
use envelope::Envelope;
use gather::Asker;
use responder::Responder;
use stopped::StoppedFamilies;

/// How the connection is called in the server's lists.
const CLIENT_NAME: &str = "amqp-ingest requests";
/// The last answers get so long to leave.
const FLUSH_WITHIN: Duration = Duration::from_secs(1);

/// Everything that answers, not at work yet.
#[derive(Debug)]
pub(crate) struct Requests {
    desk: Arc<Desk>,
    edges: Arc<Edges>,
    responders: Vec<Responder>,
}

/// What answers are made with.
#[derive(Debug)]
struct Desk {
    client: Client,
    subjects: Subjects,
    asker: Asker,
    catalogue: Arc<Catalogue>,
    stopped: StoppedFamilies,
    /// To the brokers.
    lines: Vec<Line>,
    /// What we are called in KAZOO's words.
    node: String,
    metrics: Metrics,
    malformed_log: Mutex<Seldom>,
    failed_log: Mutex<Seldom>,
    /// For the list on the admin port.
    shown: Semaphore,
}

/// The way to one broker.
#[derive(Debug)]
struct Line {
    zone: String,
    channel: watch::Receiver<Option<Channel>>,
}

/// An answer, and the `Server-ID` of whom it is for.
#[derive(Debug)]
struct Reply {
    server_id: String,
    body: Vec<u8>,
}

impl Requests {
    /// Connects to NATS, now or later.
    ///
    /// # Errors
    /// When it cannot be used as it is configured.
    pub(crate) async fn new(
        config: &IngestConfig,
        catalogue: Arc<Catalogue>,
        metrics: Metrics,
    ) -> Result<Requests, NatsError> {
        // Shown in metrics and in the log: the ingest is ready without.
        let not_needed = Readiness::default();
        let edges = Arc::new(Edges::new());
        let listening = Arc::clone(&edges);
        let options = nats::options(&config.nats, CLIENT_NAME).await?;
        let client = nats::connect_with(&config.nats, options, not_needed.latch("nats"), move |event| {
            listening.notice(event);
        })
        .await?;
        let subjects = Subjects::new(&config.nats.prefix);
        let (mut lines, mut connections) = (Vec::new(), Vec::new());
        for place in config.amqp.brokers() {
            let (sender, channel) = watch::channel(None);
            lines.push(Line { zone: place.zone.clone(), channel });
            connections.push((place, sender));
        }
        let desk = Arc::new(Desk {
            asker: Asker::new(client.clone(), Arc::clone(&edges)),
            stopped: StoppedFamilies::new(
                client.clone(),
                subjects.stopped_families(),
                config.history.replicas,
            ),
            client,
            subjects,
            catalogue,
            lines,
            node: format!("blackhole@{}", gethostname::gethostname().to_string_lossy()),
            metrics: metrics.clone(),
            malformed_log: Mutex::new(Seldom::new()),
            failed_log: Mutex::new(Seldom::new()),
            shown: Semaphore::new(1),
        });
        let responders = connections.into_iter().map(|(place, channel)| Responder {
            outage: Outage::of_broker("requests", &place, not_needed.latch("requests"), &metrics),
            place,
            queue: responder::queue_name(&config.amqp),
            desk: Arc::clone(&desk),
            edges: Arc::clone(&edges),
            channel,
        });
        let responders = responders.collect();
        Ok(Requests { desk, edges, responders })
    }

    /// Adds `GET /sessions`.
    pub(crate) fn add_route(&self, admin: AdminServer) -> AdminServer {
        let desk = Arc::clone(&self.desk);
        admin.route(Verb::Get, "/sessions", move |request| {
            let desk = Arc::clone(&desk);
            async move { desk.show(request).await }
        })
    }

    /// Begins to answer; the tasks end with `shutdown`.
    pub(crate) fn spawn(self, tasks: &mut JoinSet<()>, shutdown: &CancellationToken) {
        let Requests { desk, edges, responders } = self;
        for responder in responders {
            tasks.spawn(responder.run(shutdown.clone()));
        }
        let (listening, ended) = (Arc::clone(&desk), shutdown.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = edges.listen(&listening.client, listening.subjects.edges()) => {}
            }
        });
        let ended = shutdown.clone();
        tasks.spawn(async move {
            Arc::clone(&desk).relay(ended).await;
            if desk.client.connection_state() == State::Connected {
                let _ = tokio::time::timeout(FLUSH_WITHIN, desk.client.flush()).await;
            }
        });
    }
}

impl Desk {
    /// An answer called `name` to whoever sent `envelope`, if he wants one.
    fn reply(&self, name: &'static str, envelope: &Envelope, answer: &impl Serialize) -> Option<Reply> {
        let server_id = envelope.server_id.clone()?;
        match envelope::write(name, envelope, &self.node, answer) {
            Ok(body) => Some(Reply { server_id, body }),
            Err(error) => {
                tracing::error!(%error, name, "an answer cannot be written");
                None
            }
        }
    }

    fn drop_malformed(&self, kind: RequestKind, reason: &str) {
        self.metrics.requests(kind, RequestOutcome::Malformed).inc();
        if let Some(left_out) = self.malformed_log.lock().pass() {
            tracing::warn!(?kind, reason, left_out, "dropped a request that cannot be read");
        }
    }

    fn log_failed(&self, what: &'static str, reason: &dyn Display) {
        if let Some(left_out) = self.failed_log.lock().pass() {
            tracing::warn!(%reason, left_out, "{what}");
        }
    }
}
