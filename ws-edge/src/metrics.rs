//! What the edge counts.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

/// One label: why.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    /// A fixed word, never a client's text.
    pub reason: &'static str,
}

/// One label: what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// A fixed word, never a client's text.
    pub outcome: &'static str,
}

/// All metrics of the edge.
#[derive(Debug)]
pub struct Metrics {
    /// TCP connections on the WebSocket port.
    pub connections: Gauge,
    /// WebSocket sessions.
    pub sessions: Gauge,
    /// Sessions that ended, by the reason.
    pub sessions_closed: Family<Reason, Counter>,
    /// How often a session's queue overran.
    pub sessions_overrun: Counter,
    /// Sessions that are brought up to date from the stream, or wait for it.
    pub sessions_lagging: Gauge,
    /// How many events such a session was behind.
    pub lag: Histogram,
    /// Connections that became no session, by the reason.
    pub handshakes_refused: Family<Reason, Counter>,
    /// Requests of clients, by the outcome.
    pub requests: Family<Outcome, Counter>,
    /// Bindings of all sessions.
    pub subscriptions: Gauge,
    /// Distinct NATS subjects.
    pub subjects: Gauge,
    /// Families that are stopped.
    pub families_stopped: Gauge,
    /// Events from NATS.
    pub events: Counter,
    /// Events that were missed live and brought from the stream.
    pub events_repaired: Counter,
    /// Events read from the stream for sessions that lag.
    pub events_caught_up: Counter,
    /// Events that no frame could be made of.
    pub events_unreadable: Counter,
    /// Frames sent.
    pub frames: Counter,
    /// Bytes of frames sent.
    pub frame_bytes: Counter,
    /// Questions to auth-svc, by the outcome.
    pub auth_calls: Family<Outcome, Counter>,
    /// How long auth-svc took.
    pub auth_seconds: Histogram,
    /// Messages of clients for KAZOO, by the outcome.
    pub messages_targeted: Family<Outcome, Counter>,
    /// Requests passed on to Crossbar, by the outcome.
    pub crossbar_calls: Family<Outcome, Counter>,
    /// How long Crossbar took.
    pub crossbar_seconds: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            connections: Gauge::default(),
            sessions: Gauge::default(),
            sessions_closed: Family::default(),
            sessions_overrun: Counter::default(),
            sessions_lagging: Gauge::default(),
            // 1 to 4 million events.
            lag: Histogram::new(exponential_buckets(1.0, 4.0, 12)),
            handshakes_refused: Family::default(),
            requests: Family::default(),
            subscriptions: Gauge::default(),
            subjects: Gauge::default(),
            families_stopped: Gauge::default(),
            events: Counter::default(),
            events_repaired: Counter::default(),
            events_caught_up: Counter::default(),
            events_unreadable: Counter::default(),
            frames: Counter::default(),
            frame_bytes: Counter::default(),
            auth_calls: Family::default(),
            auth_seconds: Histogram::new(exponential_buckets(0.0005, 2.0, 14)),
            messages_targeted: Family::default(),
            crossbar_calls: Family::default(),
            crossbar_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
        }
    }
}

impl Metrics {
    /// Makes the metrics visible; the registry shares their values.
    pub fn register(&self, registry: &mut Registry) {
        let edge = registry.sub_registry_with_prefix("edge");
        edge.register("connections", "Open TCP connections on the WebSocket port", self.connections.clone());
        edge.register("sessions", "Open WebSocket sessions", self.sessions.clone());
        edge.register(
            "sessions_closed",
            "WebSocket sessions that ended, by reason",
            self.sessions_closed.clone(),
        );
        edge.register(
            "sessions_overrun",
            "Times that a session read too slowly for its queue",
            self.sessions_overrun.clone(),
        );
        edge.register(
            "sessions_lagging",
            "Sessions that are not live: they are brought up to date from the stream, or wait for it",
            self.sessions_lagging.clone(),
        );
        edge.register(
            "lag_events",
            "How many events of the stream a lagging session was behind when it was brought further",
            self.lag.clone(),
        );
        edge.register(
            "handshakes_refused",
            "Connections that became no session, by reason",
            self.handshakes_refused.clone(),
        );
        edge.register("requests", "Requests of clients, by outcome", self.requests.clone());
        edge.register("subscriptions", "Bindings of all sessions", self.subscriptions.clone());
        edge.register("subjects", "Distinct subjects subscribed at NATS", self.subjects.clone());
        edge.register(
            "families_stopped",
            "Binding families that are stopped at the moment",
            self.families_stopped.clone(),
        );
        edge.register(
            "events",
            "Events received from NATS, once for each subject that matched",
            self.events.clone(),
        );
        edge.register(
            "events_repaired",
            "Events missed live and read from the stream for all sessions",
            self.events_repaired.clone(),
        );
        edge.register(
            "events_caught_up",
            "Events read from the stream for sessions that lag, once for all that are served together",
            self.events_caught_up.clone(),
        );
        edge.register(
            "events_unreadable",
            "Events that no frame could be made of",
            self.events_unreadable.clone(),
        );
        edge.register("frames", "Frames sent to clients", self.frames.clone());
        edge.register_with_unit(
            "frames_sent",
            "Size of the frames sent to clients",
            Unit::Bytes,
            self.frame_bytes.clone(),
        );
        edge.register("auth_calls", "Questions to auth-svc, by outcome", self.auth_calls.clone());
        edge.register_with_unit(
            "auth_call_duration",
            "Time until auth-svc answered",
            Unit::Seconds,
            self.auth_seconds.clone(),
        );
        edge.register(
            "messages_targeted",
            "Messages of clients to one process of KAZOO, by outcome",
            self.messages_targeted.clone(),
        );
        edge.register(
            "crossbar_calls",
            "Requests passed on to Crossbar, by outcome",
            self.crossbar_calls.clone(),
        );
        edge.register_with_unit(
            "crossbar_call_duration",
            "Time until Crossbar had answered",
            Unit::Seconds,
            self.crossbar_seconds.clone(),
        );
    }
}
