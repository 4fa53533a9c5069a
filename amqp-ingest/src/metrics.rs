//! What is counted, under `blackhole_ingest_…`.

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

use crate::body::Rejection;

/// All metrics of the ingest.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// One for each family of the catalogue, in its order.
    received: Vec<Counter>,
    rejected: Family<ReasonLabel, Counter>,
    losses: Family<SideLabel, Counter>,
    /// Deliveries with a key that no family has.
    pub(crate) unknown: Counter,
    /// Deliveries that had been delivered before.
    pub(crate) redelivered: Counter,
    /// Events that the stream acknowledged.
    pub(crate) published: Counter,
    /// Of these, the ones that it had already.
    pub(crate) duplicates: Counter,
    /// Bytes of the bodies that the stream acknowledged.
    pub(crate) bytes: Counter,
    /// Deliveries that are not acknowledged to the broker yet.
    pub(crate) in_flight: Gauge,
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
struct SideLabel {
    side: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FamilyLabel {
    family: String,
}

impl Metrics {
    /// Registers them all.
    pub(crate) fn register(registry: &mut Registry, catalogue: &Catalogue) -> Metrics {
        let registry = registry.sub_registry_with_prefix("ingest");
        let received = Family::<FamilyLabel, Counter>::default();
        let metrics = Metrics {
            received: catalogue
                .families()
                .iter()
                .map(|family| received.get_or_create_owned(&FamilyLabel { family: family.name.clone() }))
                .collect(),
            rejected: Family::default(),
            losses: Family::default(),
            unknown: Counter::default(),
            redelivered: Counter::default(),
            published: Counter::default(),
            duplicates: Counter::default(),
            bytes: Counter::default(),
            in_flight: Gauge::default(),
            // 0.25 ms to 8 s; what takes longer is given up.
            ack_seconds: Histogram::new(exponential_buckets(0.000_25, 2.0, 16)),
            // 1 ms to 9 h: a queue may wait long.
            lag_seconds: Histogram::new(exponential_buckets(0.001, 4.0, 13)),
        };
        for reason in Rejection::ALL {
            metrics.rejected(reason);
        }
        registry.register("events_received", "Events received over AMQP, by family", received);
        registry.register(
            "events_unknown",
            "Events received over AMQP whose key no family has (a binding that an older catalogue left)",
            metrics.unknown.clone(),
        );
        registry.register(
            "events_redelivered",
            "Events received over AMQP that the broker had delivered before",
            metrics.redelivered.clone(),
        );
        registry.register(
            "events_rejected",
            "Events rejected to the dead-letter exchange, by reason",
            metrics.rejected.clone(),
        );
        registry.register(
            "events_published",
            "Events that the stream acknowledged",
            metrics.published.clone(),
        );
        registry.register(
            "events_duplicate",
            "Events that the stream acknowledged and had already",
            metrics.duplicates.clone(),
        );
        registry.register_with_unit(
            "published",
            "Bodies of the events that the stream acknowledged",
            Unit::Bytes,
            metrics.bytes.clone(),
        );
        registry.register(
            "events_in_flight",
            "Events received and not acknowledged to the broker yet",
            metrics.in_flight.clone(),
        );
        registry.register_with_unit(
            "publish_ack",
            "Time from publishing to the stream's acknowledgement",
            Unit::Seconds,
            metrics.ack_seconds.clone(),
        );
        registry.register_with_unit(
            "lag",
            "Time from the AMQP timestamp of an event, if it has one, to its arrival here",
            Unit::Seconds,
            metrics.lag_seconds.clone(),
        );
        registry.register(
            "connection_losses",
            "How often a side that was there was lost",
            metrics.losses.clone(),
        );
        metrics
    }

    /// Counts an event of the catalogue's family number `family`.
    pub(crate) fn received(&self, family: usize) {
        if let Some(counter) = self.received.get(family) {
            counter.inc();
        }
    }

    /// The counter of events rejected for this reason.
    pub(crate) fn rejected(&self, reason: Rejection) -> Counter {
        self.rejected.get_or_create_owned(&ReasonLabel { reason: reason.label() })
    }

    /// The counter of losses of `amqp` or `nats`.
    pub(crate) fn losses(&self, side: &'static str) -> Counter {
        self.losses.get_or_create_owned(&SideLabel { side })
    }
}
