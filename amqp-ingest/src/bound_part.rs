//! Whether one part of what the ingest does is served by the broker: a family, the dead letters. Readiness tells it
//! without depending on it; the log tells each change once.

use blackhole_common::readiness::{Latch, Readiness};
use prometheus_client::metrics::gauge::Gauge;

use crate::metrics::Metrics;

/// A part, which is served until it is known not to be.
#[derive(Debug)]
pub(crate) struct BoundPart {
    name: String,
    /// `None` with a single unnamed broker.
    zone: Option<String>,
    latch: Latch,
    gauge: Gauge,
    /// Why it is not served.
    reason: Option<String>,
}

impl BoundPart {
    /// The part `name` of a zone.
    pub(crate) fn new(name: &str, zone: &str, readiness: &Readiness, metrics: &Metrics) -> BoundPart {
        let zone = Some(zone).filter(|zone| !zone.is_empty());
        let gauge = metrics.bound(name, zone.unwrap_or_default());
        gauge.set(1);
        BoundPart {
            name: name.to_owned(),
            latch: readiness.optional(&zone.map_or_else(|| name.to_owned(), |zone| format!("{name} {zone}"))),
            zone: zone.map(str::to_owned),
            gauge,
            reason: None,
        }
    }

    /// Records whether the broker serves it, or why not.
    pub(crate) fn set_bound(&mut self, bound: Result<(), String>) {
        let reason = bound.err();
        if reason == self.reason {
            return;
        }
        self.latch.set(reason.is_none());
        self.gauge.set(reason.is_none().into());
        let (part, zone) = (&self.name, &self.zone);
        match &reason {
            Some(reason) => tracing::warn!(part, zone, reason, "the broker does not serve a part"),
            None => tracing::info!(part, zone, "the broker serves the part again"),
        }
        self.reason = reason;
    }
}
