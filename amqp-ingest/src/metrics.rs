//! The metrics, named `blackhole_ingest_…`.

use blackhole_common::catalogue::Catalogue;
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

use crate::{
    body::Rejection,
    numbers::{Found, Unknown},
};

/// The label of dialled numbers that an account has.
const ASSIGNED: &str = "assigned";

/// All metrics of the ingest.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    families: Vec<String>,
    received: Family<FamilyLabels, Counter>,
    rejected: Family<ReasonLabel, Counter>,
    numbers: Family<ResultLabel, Counter>,
    losses: Family<SideLabels, Counter>,
    up: Family<SideLabels, Gauge>,
    bound: Family<PartLabels, Gauge>,
    /// Deliveries whose routing key belongs to no family.
    pub(crate) unknown: Counter,
    /// Redeliveries.
    pub(crate) redelivered: Counter,
    /// Events that the stream acknowledged.
    pub(crate) published: Counter,
    /// Acknowledged events that the stream already had.
    pub(crate) duplicates: Counter,
    /// Events whose body was not UTF-8.
    pub(crate) repaired: Counter,
    /// Refusals of NATS, each of which ends a connection.
    pub(crate) refusals: Counter,
    /// Body bytes of the acknowledged events.
    pub(crate) bytes: Counter,
    in_flight: Family<ZoneLabel, Gauge>,
    in_flight_limit: Gauge,
    stream_bytes: Gauge,
    stream_limit: Gauge,
    requests: Family<RequestLabels, Counter>,
    /// Things whose last events this ingest keeps.
    pub(crate) state_things: Gauge,
    /// Last events of things that were written.
    pub(crate) state_writes: Counter,
    /// Seconds from publishing to the stream's acknowledgement.
    pub(crate) ack_seconds: Histogram,
    /// Seconds from the event's AMQP timestamp to its arrival.
    pub(crate) lag_seconds: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SideLabels {
    side: &'static str,
    zone: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartLabels {
    part: String,
    zone: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ZoneLabel {
    zone: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FamilyLabels {
    family: String,
    zone: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    kind: &'static str,
    outcome: &'static str,
}

/// The kind of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestKind {
    /// KAZOO lists sessions.
    Sessions,
    /// KAZOO starts or stops a family.
    Module,
    /// An edge has a message for KAZOO.
    Targeted,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestOutcome {
    /// Done.
    Done,
    /// Some edges did not answer.
    Partial,
    /// Answered with an error.
    Refused,
    /// Unparsable and dropped.
    Malformed,
    /// A broker or NATS was not available.
    Unavailable,
}

impl RequestKind {
    fn label(self) -> &'static str {
        match self {
            RequestKind::Sessions => "sessions",
            RequestKind::Module => "module",
            RequestKind::Targeted => "targeted",
        }
    }
}

impl RequestOutcome {
    fn label(self) -> &'static str {
        match self {
            RequestOutcome::Done => "done",
            RequestOutcome::Partial => "partial",
            RequestOutcome::Refused => "refused",
            RequestOutcome::Malformed => "malformed",
            RequestOutcome::Unavailable => "unavailable",
        }
    }
}

impl Metrics {
    /// Creates and registers all metrics.
    pub(crate) fn register(registry: &mut Registry, catalogue: &Catalogue) -> Metrics {
        let registry = registry.sub_registry_with_prefix("ingest");
        let metrics = Metrics {
            families: catalogue.families().iter().map(|family| family.name.clone()).collect(),
            received: Family::default(),
            rejected: Family::default(),
            numbers: Family::default(),
            losses: Family::default(),
            up: Family::default(),
            bound: Family::default(),
            unknown: Counter::default(),
            redelivered: Counter::default(),
            published: Counter::default(),
            duplicates: Counter::default(),
            repaired: Counter::default(),
            refusals: Counter::default(),
            bytes: Counter::default(),
            in_flight: Family::default(),
            in_flight_limit: Gauge::default(),
            stream_bytes: Gauge::default(),
            stream_limit: Gauge::default(),
            requests: Family::default(),
            state_things: Gauge::default(),
            state_writes: Counter::default(),
            // 0.25 ms to 8 s: above the acknowledgement timeout.
            ack_seconds: Histogram::new(exponential_buckets(0.000_25, 2.0, 16)),
            // 1 ms to 4.7 h: events may wait in the queue for long.
            lag_seconds: Histogram::new(exponential_buckets(0.001, 4.0, 13)),
        };
        for reason in Rejection::ALL {
            metrics.rejected(reason);
        }
        metrics.number_results();
        registry.register("events_received", "Events received over AMQP", metrics.received.clone());
        registry.register(
            "events_unknown",
            "Events received over AMQP whose routing key belongs to no family (an older catalogue left the binding)",
            metrics.unknown.clone(),
        );
        registry.register(
            "events_redelivered",
            "Events that the broker delivered again",
            metrics.redelivered.clone(),
        );
        registry.register(
            "events_rejected",
            "Events rejected to the dead-letter exchange, by reason",
            metrics.rejected.clone(),
        );
        registry.register(
            "events_dialled",
            "Events without an account, by what was found out about the dialled number",
            metrics.numbers.clone(),
        );
        registry.register("events_published", "Events acknowledged by the stream", metrics.published.clone());
        registry.register(
            "events_duplicate",
            "Events that the stream had already when they were to be published",
            metrics.duplicates.clone(),
        );
        registry.register(
            "events_repaired",
            "Events whose body was not UTF-8: the invalid bytes were replaced",
            metrics.repaired.clone(),
        );
        registry.register(
            "nats_refusals",
            "Times that NATS refused an event or reported an error",
            metrics.refusals.clone(),
        );
        registry.register_with_unit(
            "published",
            "Bodies of the events acknowledged by the stream",
            Unit::Bytes,
            metrics.bytes.clone(),
        );
        registry.register(
            "events_in_flight",
            "Events received but not yet acknowledged to the broker",
            metrics.in_flight.clone(),
        );
        registry.register(
            "events_in_flight_limit",
            "The most events that may be in flight in one zone (amqp.prefetch)",
            metrics.in_flight_limit.clone(),
        );
        registry.register_with_unit(
            "stream",
            "Events that the stream holds, as it last said",
            Unit::Bytes,
            metrics.stream_bytes.clone(),
        );
        registry.register_with_unit(
            "stream_limit",
            "Events that the stream may hold (history.max_bytes)",
            Unit::Bytes,
            metrics.stream_limit.clone(),
        );
        registry.register(
            "requests",
            "Requests from KAZOO and messages to it, by kind and outcome",
            metrics.requests.clone(),
        );
        registry.register(
            "state_things",
            "Living things whose last events this ingest keeps; 0 while another ingest does",
            metrics.state_things.clone(),
        );
        registry.register(
            "state_writes",
            "Last events of living things that were written",
            metrics.state_writes.clone(),
        );
        registry.register_with_unit(
            "publish_ack",
            "Time from publishing an event to the stream's acknowledgement",
            Unit::Seconds,
            metrics.ack_seconds.clone(),
        );
        registry.register_with_unit(
            "lag",
            "Time from the AMQP timestamp of an event, if it has one, to its arrival",
            Unit::Seconds,
            metrics.lag_seconds.clone(),
        );
        registry.register(
            "connection_losses",
            "Established connections that were lost",
            metrics.losses.clone(),
        );
        registry.register("connection_up", "1 while the connection is up, otherwise 0", metrics.up.clone());
        registry.register(
            "bound",
            "1 while the broker serves the part: a family, the dead letters, the requests; otherwise 0",
            metrics.bound.clone(),
        );
        metrics
    }

    /// The counters of events received from a zone, one per family, in the catalogue's order.
    pub(crate) fn received(&self, zone: &str) -> Vec<Counter> {
        let labels = |family: &String| FamilyLabels { family: family.clone(), zone: zone.to_owned() };
        self.families.iter().map(|family| self.received.get_or_create_owned(&labels(family))).collect()
    }

    /// Counts an event that named no account, and whose the dialled number is.
    pub(crate) fn number(&self, found: &Found) {
        let result = match found {
            Found::Account(_) => ASSIGNED,
            Found::None(why) => why.label(),
        };
        self.numbers.get_or_create(&ResultLabel { result }).inc();
    }

    /// How many events of dialled numbers had this result.
    #[cfg(test)]
    pub(crate) fn numbers(&self, found: &Found) -> u64 {
        let Found::None(why) = found else { return 0 };
        self.numbers.get_or_create(&ResultLabel { result: why.label() }).get()
    }

    /// Shows all results from the beginning.
    fn number_results(&self) {
        let labels = Unknown::ALL.iter().map(|why| why.label()).chain([ASSIGNED]);
        labels.for_each(|result| drop(self.numbers.get_or_create(&ResultLabel { result })));
    }

    /// Sets `amqp.prefetch`.
    pub(crate) fn limited_to(&self, in_flight: u16) {
        self.in_flight_limit.set(in_flight.into());
    }

    /// Sets how many bytes the stream holds, and may hold.
    pub(crate) fn stream_holds(&self, bytes: u64, limit: i64) {
        self.stream_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.stream_limit.set(limit);
    }

    /// A zone's deliveries that are not yet acknowledged to the broker.
    pub(crate) fn in_flight(&self, zone: &str) -> Gauge {
        self.in_flight.get_or_create_owned(&ZoneLabel { zone: zone.to_owned() })
    }

    /// The counter of events rejected for this reason.
    pub(crate) fn rejected(&self, reason: Rejection) -> Counter {
        self.rejected.get_or_create_owned(&ReasonLabel { reason: reason.label() })
    }

    /// The counter of requests of this kind and outcome.
    pub(crate) fn requests(&self, kind: RequestKind, outcome: RequestOutcome) -> Counter {
        self.requests.get_or_create_owned(&RequestLabels { kind: kind.label(), outcome: outcome.label() })
    }

    /// The counter of lost connections of the side `amqp`, `requests` or `nats`.
    pub(crate) fn losses(&self, side: &'static str, zone: &str) -> Counter {
        self.losses.get_or_create_owned(&SideLabels { side, zone: zone.to_owned() })
    }

    /// Whether a zone's broker serves a part.
    pub(crate) fn bound(&self, part: &str, zone: &str) -> Gauge {
        self.bound.get_or_create_owned(&PartLabels { part: part.to_owned(), zone: zone.to_owned() })
    }

    /// Whether the connection of the side `amqp`, `requests` or `nats` is up.
    pub(crate) fn up(&self, side: &'static str, zone: &str) -> Gauge {
        self.up.get_or_create_owned(&SideLabels { side, zone: zone.to_owned() })
    }
}
