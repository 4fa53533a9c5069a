//! Saying once that something is away, and once that it is back.

use std::{fmt::Display, time::Instant};

use blackhole_common::readiness::Latch;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

use crate::{config::BrokerConfig, metrics::Metrics};

/// More different reasons than this are not told in one outage.
const MOST_REASONS: usize = 8;

/// Whether one side is there: its readiness latch, its log lines, its count of losses.
#[derive(Debug)]
pub(crate) struct Outage {
    side: &'static str,
    /// Where there are several.
    zone: Option<String>,
    place: String,
    latch: Latch,
    up: Gauge,
    losses: Counter,
    /// Since when it is away; at the start it is.
    since: Option<Instant>,
    /// The reasons that were logged in this outage.
    told: Vec<String>,
}

impl Outage {
    /// A side that is not there yet, at `place` (a URL without password).
    pub(crate) fn new(side: &'static str, place: String, latch: Latch, metrics: &Metrics) -> Outage {
        Outage::in_zone(side, "", place, latch, metrics)
    }

    /// The same at a zone's broker.
    pub(crate) fn of_broker(
        side: &'static str,
        broker: &BrokerConfig,
        latch: Latch,
        metrics: &Metrics,
    ) -> Outage {
        Outage::in_zone(side, &broker.zone, broker.url.to_string(), latch, metrics)
    }

    fn in_zone(side: &'static str, zone: &str, place: String, latch: Latch, metrics: &Metrics) -> Outage {
        Outage {
            side,
            zone: Some(zone).filter(|zone| !zone.is_empty()).map(str::to_owned),
            place,
            latch,
            up: metrics.up(side, zone),
            losses: metrics.losses(side, zone),
            since: None,
            told: Vec::new(),
        }
    }

    /// It is away or does not work, for this reason. Every different reason is logged once per outage, since an
    /// attempt to connect again may show one that an operator has to act on.
    pub(crate) fn began(&mut self, reason: &dyn Display) {
        if self.latch.set(false) {
            self.losses.inc();
        }
        self.up.set(0);
        let first = self.since.is_none();
        self.since.get_or_insert_with(Instant::now);
        let reason = reason.to_string();
        if self.told.contains(&reason) || self.told.len() >= MOST_REASONS {
            return;
        }
        if first {
            tracing::warn!(
                side = self.side,
                zone = self.zone,
                url = self.place,
                reason,
                "not there, trying until it is"
            );
        } else {
            tracing::warn!(side = self.side, zone = self.zone, url = self.place, reason, "still not there");
        }
        self.told.push(reason);
    }

    /// It is there and works.
    pub(crate) fn ended(&mut self) {
        if !self.latch.set(true) {
            return;
        }
        self.up.set(1);
        self.told.clear();
        let away = self.since.take().map(|since| since.elapsed().as_secs_f64());
        tracing::info!(
            side = self.side,
            zone = self.zone,
            url = self.place,
            away_seconds = away,
            "connected"
        );
    }
}
