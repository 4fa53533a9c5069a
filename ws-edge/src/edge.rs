//! What the sessions of an edge share.

use std::sync::{Arc, OnceLock};

use blackhole_common::{
    catalogue::Catalogue,
    nats::{link::Servers, requests::Requests},
    readiness::Readiness,
    wire::Subjects,
};
use bytes::Bytes;
use tokio::sync::watch;

use crate::{
    access::{authorizer::Authorizer, families::Families},
    catchup::Catchup,
    config::WsConfig,
    delivery::dispatcher::Dispatcher,
    kazoo::{crossbar::Crossbar, targeted::Targeted},
    limits::Limits,
    metrics::Metrics,
    operator::{drain::OpenSessions, registry::Registry, releases::Releases},
    outbox::{flusher::Flusher, lagging_sessions::LaggingSessions},
    upstream::{
        history::{History, StoredStream},
        kept::Kept,
        reader::EventReader,
        stream_info::StreamInfo,
    },
};

/// What the sessions of an edge share.
#[derive(Debug)]
pub(crate) struct Edge {
    /// Limits and time-outs.
    pub(crate) config: WsConfig,
    /// All binding families.
    pub(crate) catalogue: Catalogue,
    /// The page `/asyncapi.json`, once somebody has asked for it.
    pub(crate) asyncapi: OnceLock<Bytes>,
    /// Which of them are stopped.
    pub(crate) families: Arc<Families>,
    /// The first words of every event's subject: `blackhole.v1.event`.
    pub(crate) event_root: String,
    /// Who gets which events.
    pub(crate) dispatcher: Arc<Dispatcher>,
    /// Writes outboxes to their sockets.
    pub(crate) flusher: Arc<Flusher>,
    /// Past events.
    pub(crate) history: History,
    /// The last events of living things; `None` in the simulator.
    pub(crate) kept: Option<Kept>,
    /// The stream's state, at most a second old; `None` if there is no stream.
    pub(crate) stream: watch::Receiver<Option<StreamInfo>>,
    /// Asks auth-svc.
    pub(crate) authorizer: Authorizer,
    /// Sends messages to single KAZOO processes.
    pub(crate) targeted: Targeted,
    /// Calls Crossbar, if it is configured.
    pub(crate) crossbar: Option<Crossbar>,
    /// What clients and accounts may take.
    pub(crate) limits: Limits,
    /// Open sessions, to be closed when the edge drains.
    pub(crate) sessions: Arc<OpenSessions>,
    /// Open sessions, as operators list them.
    pub(crate) registry: Arc<Registry>,
    /// The releases of all services that run.
    pub(crate) releases: Arc<Releases>,
    /// Counters.
    pub(crate) metrics: Arc<Metrics>,
}

impl Edge {
    /// An edge without sessions, which asks auth-svc and amqp-ingest by `requests`.
    pub(crate) fn new(
        config: WsConfig,
        catalogue: Catalogue,
        subjects: &Subjects,
        requests: Arc<dyn Requests>,
        events: Events,
        crossbar: Option<Crossbar>,
    ) -> Edge {
        let Events { dispatcher, flusher, history, stream, metrics, .. } = events;
        let timeout = config.request_timeout;
        let targeted = Targeted::new(Arc::clone(&requests), subjects, timeout, &config.host);
        let authorizer =
            Authorizer::new(requests, subjects, timeout, config.auth_cache, Arc::clone(&metrics));
        Edge {
            limits: Limits::new(&config),
            families: Arc::new(Families::new(&catalogue, Arc::clone(&metrics))),
            event_root: subjects.event(),
            dispatcher,
            flusher,
            history,
            kept: None,
            stream,
            authorizer,
            targeted,
            crossbar,
            sessions: Arc::default(),
            registry: Arc::new(Registry::new(&config.host)),
            releases: Arc::default(),
            metrics,
            catalogue,
            asyncapi: OnceLock::new(),
            config,
        }
    }
}

/// Where the events of sessions come from.
pub(crate) struct Events {
    /// See [`Edge`].
    pub(crate) dispatcher: Arc<Dispatcher>,
    /// See [`Edge`].
    pub(crate) flusher: Arc<Flusher>,
    /// See [`Edge`].
    pub(crate) history: History,
    /// See [`Edge`].
    pub(crate) stream: watch::Receiver<Option<StreamInfo>>,
    /// See [`Edge`].
    pub(crate) metrics: Arc<Metrics>,
    /// Replays the past.
    pub(crate) catchup: Arc<Catchup>,
}

impl Events {
    /// The events of the stream that is `stored`, and those that the reader, which is returned too, reads from `servers`.
    pub(crate) fn new(
        config: &WsConfig,
        subjects: &Subjects,
        servers: Servers,
        stored: Arc<dyn StoredStream>,
        metrics: Arc<Metrics>,
        readiness: &Readiness,
    ) -> (Events, EventReader) {
        let history = History::new(stored, subjects);
        let lagging = Arc::new(LaggingSessions::default());
        let flusher = Arc::new(Flusher::new(Arc::clone(&lagging)));
        let dispatcher = Arc::new(Dispatcher::new(
            &subjects.event(),
            config.linger,
            Arc::clone(&flusher),
            Arc::clone(&metrics),
        ));
        let (reader, stream) = EventReader::new(
            servers,
            subjects,
            Arc::clone(&dispatcher),
            history.clone(),
            Arc::clone(&metrics),
            readiness.latch("events"),
        );
        let catchup = Arc::new(Catchup::new(
            lagging,
            Arc::clone(&dispatcher),
            history.clone(),
            stream.clone(),
            config.replay_bytes_per_second.as_u64(),
            readiness.optional("history"),
            Arc::clone(&metrics),
        ));
        (Events { dispatcher, flusher, history, stream, metrics, catchup }, reader)
    }
}
