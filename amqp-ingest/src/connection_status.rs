//! Whether one connection is up: readiness latch, metrics, and log lines that do not repeat.

use std::{fmt::Display, time::Instant};

use blackhole_common::readiness::Latch;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

use crate::{config::BrokerConfig, metrics::Metrics};

/// Distinct reasons logged per outage.
const MAX_REASONS: usize = 8;

/// The status of the connection to NATS or to one broker.
#[derive(Debug)]
pub(crate) struct ConnectionStatus {
    /// The metrics' label: `amqp`, `requests` or `nats`.
    side: &'static str,
    /// `None` with a single unnamed broker.
    zone: Option<String>,
    /// Without password.
    url: String,
    latch: Latch,
    up: Gauge,
    losses: Counter,
    down_since: Option<Instant>,
    /// The reasons logged in this outage.
    logged_reasons: Vec<String>,
}

impl ConnectionStatus {
    /// A connection to `url` (without password) that is not up yet.
    pub(crate) fn new(side: &'static str, url: String, latch: Latch, metrics: &Metrics) -> ConnectionStatus {
        ConnectionStatus::in_zone(side, "", url, latch, metrics)
    }

    /// A connection to a zone's broker that is not up yet.
    pub(crate) fn for_broker(
        side: &'static str,
        broker: &BrokerConfig,
        latch: Latch,
        metrics: &Metrics,
    ) -> ConnectionStatus {
        ConnectionStatus::in_zone(side, &broker.zone, broker.url.to_string(), latch, metrics)
    }

    fn in_zone(
        side: &'static str,
        zone: &str,
        url: String,
        latch: Latch,
        metrics: &Metrics,
    ) -> ConnectionStatus {
        ConnectionStatus {
            side,
            zone: Some(zone).filter(|zone| !zone.is_empty()).map(str::to_owned),
            url,
            latch,
            up: metrics.up(side, zone),
            losses: metrics.losses(side, zone),
            down_since: None,
            logged_reasons: Vec::new(),
        }
    }

    /// The connection failed. Each distinct reason is logged once per outage: a failed reconnect may show one that an
    /// operator has to act on.
    pub(crate) fn mark_down(&mut self, reason: &dyn Display) {
        if self.latch.set(false) {
            self.losses.inc();
        }
        self.up.set(0);
        let is_first = self.down_since.is_none();
        self.down_since.get_or_insert_with(Instant::now);
        let reason = reason.to_string();
        if self.logged_reasons.contains(&reason) || self.logged_reasons.len() >= MAX_REASONS {
            return;
        }
        let (side, zone, url) = (self.side, &self.zone, &self.url);
        if is_first {
            tracing::warn!(side, zone, url, reason, "not connected, retrying");
        } else {
            tracing::warn!(side, zone, url, reason, "still not connected, retrying");
        }
        self.logged_reasons.push(reason);
    }

    /// The connection works.
    pub(crate) fn mark_up(&mut self) {
        if !self.latch.set(true) {
            return;
        }
        self.up.set(1);
        self.logged_reasons.clear();
        let down_seconds = self.down_since.take().map(|since| since.elapsed().as_secs_f64());
        tracing::info!(side = self.side, zone = self.zone, url = self.url, down_seconds, "connected");
    }
}

#[cfg(test)]
mod tests {
    use blackhole_common::{catalogue::Catalogue, readiness::Readiness};
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn a_loss_is_counted_once_per_outage() {
        let metrics = Metrics::register(&mut Registry::default(), &Catalogue::load(None).unwrap());
        let latch = Readiness::default().latch("nats");
        let mut status = ConnectionStatus::new("nats", "nats://host".into(), latch.clone(), &metrics);
        let observed = || (latch.is_ready(), metrics.up("nats", "").get(), metrics.losses("nats", "").get());
        status.mark_down(&"refused");
        assert_eq!(observed(), (false, 0, 0), "it was never up");
        status.mark_up();
        status.mark_up();
        assert_eq!(observed(), (true, 1, 0));
        status.mark_down(&"reset");
        status.mark_down(&"refused");
        assert_eq!(observed(), (false, 0, 1));
        status.mark_up();
        assert_eq!(observed(), (true, 1, 1));
    }

    #[test]
    fn distinct_reasons_are_kept_up_to_a_bound_and_cleared_when_up() {
        let metrics = Metrics::register(&mut Registry::default(), &Catalogue::load(None).unwrap());
        let latch = Readiness::default().latch("nats");
        let mut status = ConnectionStatus::new("nats", "nats://host".into(), latch, &metrics);
        for number in (0..2 * MAX_REASONS).flat_map(|number| [number, number]) {
            status.mark_down(&number);
        }
        let expected: Vec<String> = (0..MAX_REASONS).map(|number| number.to_string()).collect();
        assert_eq!(status.logged_reasons, expected);
        status.mark_up();
        assert!(status.logged_reasons.is_empty());
    }
}
