//! Saying once that something is away, and once that it is back.

use std::{fmt::Display, time::Instant};

use blackhole_common::readiness::Latch;
use prometheus_client::metrics::counter::Counter;

use crate::metrics::Metrics;

/// More different reasons than this are not told in one outage.
const MOST_REASONS: usize = 8;

/// Whether one side is there: its readiness latch, its log lines, its count of losses.
#[derive(Debug)]
pub(crate) struct Outage {
    side: &'static str,
    place: String,
    latch: Latch,
    losses: Counter,
    /// Since when it is away; at the start it is.
    since: Option<Instant>,
    /// The reasons that were logged in this outage.
    told: Vec<String>,
}

impl Outage {
    /// A side that is not there yet, at `place` (a URL without password).
    pub(crate) fn new(side: &'static str, place: String, latch: Latch, metrics: &Metrics) -> Outage {
        let losses = metrics.losses(side);
        Outage { side, place, latch, losses, since: None, told: Vec::new() }
    }

    /// It is away or does not work, for this reason. Every different reason is logged once per outage, since an
    /// attempt to connect again may show one that an operator has to act on.
    pub(crate) fn began(&mut self, reason: &dyn Display) {
        if self.latch.set(false) {
            self.losses.inc();
        }
        let first = self.since.is_none();
        self.since.get_or_insert_with(Instant::now);
        let reason = reason.to_string();
        if self.told.contains(&reason) || self.told.len() >= MOST_REASONS {
            return;
        }
        if first {
            tracing::warn!(side = self.side, url = self.place, reason, "not there, trying until it is");
        } else {
            tracing::warn!(side = self.side, url = self.place, reason, "still not there");
        }
        self.told.push(reason);
    }

    /// It is there and works.
    pub(crate) fn ended(&mut self) {
        if !self.latch.set(true) {
            return;
        }
        self.told.clear();
        let away = self.since.take().map(|since| since.elapsed().as_secs_f64());
        tracing::info!(side = self.side, url = self.place, away_seconds = away, "connected");
    }
}
