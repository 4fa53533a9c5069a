//! The metrics of the edge.

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

/// The label `reason`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Reason {
    /// One of a fixed set of values.
    pub(crate) reason: &'static str,
}

/// The label `outcome`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Outcome {
    /// One of a fixed set of values.
    pub(crate) outcome: &'static str,
}

/// The label `exchange`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Exchange {
    /// An AMQP exchange of the catalogue.
    pub(crate) exchange: String,
}

/// All metrics of the edge.
#[derive(Debug)]
pub struct Metrics {
    /// TCP connections on the WebSocket port.
    pub(crate) connections: Gauge,
    /// Sessions.
    pub(crate) sessions: Gauge,
    /// Those of them that are event streams.
    pub(crate) event_streams: Gauge,
    /// Those of them whose events are compressed.
    pub(crate) compressed_sessions: Gauge,
    /// `ws.max_connections`.
    pub(crate) sessions_limit: Gauge,
    /// Whether the edge is stopping.
    pub(crate) draining: Gauge,
    /// Sessions that ended, by reason.
    pub(crate) sessions_closed: Family<Reason, Counter>,
    /// Overflows of session queues.
    pub(crate) sessions_overrun: Counter,
    /// Sessions that catch up from the stream, or wait to.
    pub(crate) sessions_lagging: Gauge,
    /// How many events a lagging session was behind when a replay started.
    pub(crate) lag: Histogram,
    /// Connections that did not become sessions, by reason.
    pub(crate) handshakes_refused: Family<Reason, Counter>,
    /// Attempts to read the certificate again, by outcome.
    pub(crate) certificate_reloads: Family<Outcome, Counter>,
    /// Requests of clients, by outcome.
    pub(crate) requests: Family<Outcome, Counter>,
    /// Requests of clients that a limit refused, by limit.
    pub(crate) requests_limited: Family<Reason, Counter>,
    /// Bindings of all sessions.
    pub(crate) subscriptions: Gauge,
    /// Distinct subjects subscribed at NATS.
    pub(crate) subjects: Gauge,
    /// Stopped binding families.
    pub(crate) families_stopped: Gauge,
    /// Events received from NATS.
    pub(crate) events: Counter,
    /// Positions at the stream's end up to which it is not known that live sessions have everything.
    pub(crate) unverified: Gauge,
    /// Seconds from amqp-ingest's receipt of live events to the sockets.
    pub(crate) delivery_seconds: Family<Exchange, Histogram, fn() -> Histogram>,
    /// Events missed live and read from the stream.
    pub(crate) events_repaired: Counter,
    /// Events replayed to lagging sessions.
    pub(crate) events_caught_up: Counter,
    /// Bytes of these events.
    pub(crate) replayed_bytes: Counter,
    /// Replays that ended early because their account had read its share.
    pub(crate) replays_throttled: Counter,
    /// Malformed events.
    pub(crate) events_unreadable: Counter,
    /// Frames sent to clients.
    pub(crate) frames: Counter,
    /// Bytes of these frames.
    pub(crate) frame_bytes: Counter,
    /// Bytes of frames before they were compressed.
    pub(crate) uncompressed_bytes: Counter,
    /// Bytes of these frames afterwards.
    pub(crate) compressed_bytes: Counter,
    /// Requests to auth-svc, by outcome.
    pub(crate) auth_calls: Family<Outcome, Counter>,
    /// Response time of auth-svc.
    pub(crate) auth_seconds: Histogram,
    /// Bindings that ended because they were no longer granted.
    pub(crate) bindings_revoked: Counter,
    /// Messages sent to single KAZOO processes, by outcome.
    pub(crate) messages_targeted: Family<Outcome, Counter>,
    /// Requests to Crossbar, by outcome.
    pub(crate) crossbar_calls: Family<Outcome, Counter>,
    /// Response time of Crossbar.
    pub(crate) crossbar_seconds: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            connections: Gauge::default(),
            sessions: Gauge::default(),
            event_streams: Gauge::default(),
            compressed_sessions: Gauge::default(),
            sessions_limit: Gauge::default(),
            draining: Gauge::default(),
            sessions_closed: Family::default(),
            sessions_overrun: Counter::default(),
            sessions_lagging: Gauge::default(),
            // 1 to 4,194,304 events.
            lag: Histogram::new(exponential_buckets(1.0, 4.0, 12)),
            handshakes_refused: Family::default(),
            certificate_reloads: Family::default(),
            requests: Family::default(),
            requests_limited: Family::default(),
            subscriptions: Gauge::default(),
            subjects: Gauge::default(),
            families_stopped: Gauge::default(),
            events: Counter::default(),
            unverified: Gauge::default(),
            // 0.5 ms to 16 s.
            delivery_seconds: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.000_5, 2.0, 16))
            }),
            events_repaired: Counter::default(),
            events_caught_up: Counter::default(),
            replayed_bytes: Counter::default(),
            replays_throttled: Counter::default(),
            events_unreadable: Counter::default(),
            frames: Counter::default(),
            frame_bytes: Counter::default(),
            uncompressed_bytes: Counter::default(),
            compressed_bytes: Counter::default(),
            auth_calls: Family::default(),
            auth_seconds: Histogram::new(exponential_buckets(0.0005, 2.0, 14)),
            bindings_revoked: Counter::default(),
            messages_targeted: Family::default(),
            crossbar_calls: Family::default(),
            crossbar_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
        }
    }
}

impl Metrics {
    /// Counts a request that a limit refuses, and returns the error that the client gets.
    pub(crate) fn limited(&self, reason: &'static str, error: String) -> String {
        self.requests_limited.get_or_create(&Reason { reason }).inc();
        error
    }

    /// Counts a session that begins.
    pub(crate) fn session_begins(&self, is_event_stream: bool, is_compressed: bool) {
        self.sessions.inc();
        if is_event_stream {
            self.event_streams.inc();
        }
        if is_compressed {
            self.compressed_sessions.inc();
        }
    }

    /// Counts a session that ends.
    pub(crate) fn session_ends(&self, is_event_stream: bool, is_compressed: bool) {
        self.sessions.dec();
        if is_event_stream {
            self.event_streams.dec();
        }
        if is_compressed {
            self.compressed_sessions.dec();
        }
    }

    /// Counts a frame that was compressed, for however many sessions.
    pub(crate) fn compressed(&self, before: usize, after: usize) {
        self.uncompressed_bytes.inc_by(before as u64);
        self.compressed_bytes.inc_by(after as u64);
    }

    /// Registers the metrics; the registry shares their values.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let edge = registry.sub_registry_with_prefix("edge");
        edge.register("connections", "Open TCP connections on the WebSocket port", self.connections.clone());
        edge.register("sessions", "Open sessions", self.sessions.clone());
        edge.register(
            "event_streams",
            "Open sessions that are event streams, not WebSockets",
            self.event_streams.clone(),
        );
        edge.register(
            "compressed_sessions",
            "Open sessions whose events are compressed",
            self.compressed_sessions.clone(),
        );
        edge.register(
            "sessions_limit",
            "The most sessions that may be open (ws.max_connections)",
            self.sessions_limit.clone(),
        );
        edge.register("draining", "1 while the edge is stopping, otherwise 0", self.draining.clone());
        edge.register("sessions_closed", "Sessions that ended, by reason", self.sessions_closed.clone());
        edge.register(
            "sessions_overrun",
            "Times that the queue of a session overflowed because its client read too slowly",
            self.sessions_overrun.clone(),
        );
        edge.register(
            "sessions_lagging",
            "Sessions that do not get live events because they catch up from the stream, or wait to",
            self.sessions_lagging.clone(),
        );
        edge.register(
            "lag_events",
            "Events that a lagging session was behind when a replay started",
            self.lag.clone(),
        );
        edge.register(
            "handshakes_refused",
            "Connections that did not become sessions, by reason",
            self.handshakes_refused.clone(),
        );
        edge.register(
            "certificate_reloads",
            "Attempts to read the certificate again because its files have changed, by outcome",
            self.certificate_reloads.clone(),
        );
        edge.register("requests", "Requests of clients, by outcome", self.requests.clone());
        edge.register(
            "requests_limited",
            "Requests of clients that a limit refused, by limit",
            self.requests_limited.clone(),
        );
        edge.register("subscriptions", "Bindings of all sessions", self.subscriptions.clone());
        edge.register("subjects", "Distinct subjects subscribed at NATS", self.subjects.clone());
        edge.register("families_stopped", "Stopped binding families", self.families_stopped.clone());
        edge.register(
            "events",
            "Events received from NATS, counted once per matching subject",
            self.events.clone(),
        );
        edge.register(
            "events_unverified",
            "Positions at the end of the stream up to which live events are not known to be complete",
            self.unverified.clone(),
        );
        edge.register_with_unit(
            "delivery",
            "Time from the receipt of a live event over AMQP to its writing to the sockets, by AMQP exchange",
            Unit::Seconds,
            self.delivery_seconds.clone(),
        );
        edge.register(
            "events_repaired",
            "Events missed live and then read from the stream",
            self.events_repaired.clone(),
        );
        edge.register(
            "events_caught_up",
            "Events read from the stream for lagging sessions, counted once per replay",
            self.events_caught_up.clone(),
        );
        edge.register_with_unit(
            "events_caught_up_size",
            "Size of the events read from the stream for lagging sessions",
            Unit::Bytes,
            self.replayed_bytes.clone(),
        );
        edge.register(
            "replays_throttled",
            "Replays that were interrupted because their account had used up ws.replay_bytes_per_second",
            self.replays_throttled.clone(),
        );
        edge.register(
            "events_unreadable",
            "Events that were malformed and not delivered",
            self.events_unreadable.clone(),
        );
        edge.register("frames", "Frames sent to clients", self.frames.clone());
        edge.register_with_unit(
            "frames_sent",
            "Size of the frames sent to clients",
            Unit::Bytes,
            self.frame_bytes.clone(),
        );
        edge.register_with_unit(
            "compression_input",
            "Size of the frames that were compressed, before, counted once for all their sessions",
            Unit::Bytes,
            self.uncompressed_bytes.clone(),
        );
        edge.register_with_unit(
            "compression_output",
            "Size of the frames that were compressed, afterwards, counted once for all their sessions",
            Unit::Bytes,
            self.compressed_bytes.clone(),
        );
        edge.register("auth_calls", "Requests to auth-svc, by outcome", self.auth_calls.clone());
        edge.register_with_unit(
            "auth_call_duration",
            "Response time of auth-svc",
            Unit::Seconds,
            self.auth_seconds.clone(),
        );
        edge.register(
            "bindings_revoked",
            "Bindings that ended because auth-svc no longer grants them",
            self.bindings_revoked.clone(),
        );
        edge.register(
            "messages_targeted",
            "Messages of clients to single KAZOO processes, by outcome",
            self.messages_targeted.clone(),
        );
        edge.register(
            "crossbar_calls",
            "Requests of clients to Crossbar, by outcome",
            self.crossbar_calls.clone(),
        );
        edge.register_with_unit(
            "crossbar_call_duration",
            "Response time of Crossbar, including the wait for a free slot",
            Unit::Seconds,
            self.crossbar_seconds.clone(),
        );
    }
}
