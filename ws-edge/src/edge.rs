//! What the sessions of an edge share.

use std::sync::Arc;

use blackhole_common::catalogue::Catalogue;
use tokio::sync::watch;

use crate::{
    access::{authorizer::Authorizer, families::Families},
    config::WsConfig,
    delivery::dispatcher::Dispatcher,
    kazoo::{crossbar::Crossbar, targeted::Targeted},
    limits::Limits,
    metrics::Metrics,
    operator::{drain::OpenSessions, registry::Registry},
    outbox::flusher::Flusher,
    upstream::{history::History, stream_info::StreamInfo},
};

/// What the sessions of an edge share.
#[derive(Debug)]
pub(crate) struct Edge {
    /// Limits and time-outs.
    pub(crate) config: WsConfig,
    /// All binding families.
    pub(crate) catalogue: Catalogue,
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
    /// Counters.
    pub(crate) metrics: Arc<Metrics>,
}
