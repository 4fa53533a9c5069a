//! How long live events take from amqp-ingest to the sockets: once per event and edge, however many sessions get it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use blackhole_common::{clock, nats::protocol::Message, wire};
use prometheus_client::metrics::histogram::Histogram;

use crate::metrics::{Exchange, Metrics};

/// More exchanges than a catalogue has. Events of further ones are not measured, so that no publisher makes series.
const MAX_EXCHANGES: usize = 64;
/// An event that took longer is worth a line in the log.
const LATE: Duration = Duration::from_secs(5);
/// At most one such line in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Measures events between their delivery and the flush that follows.
#[derive(Debug, Default)]
pub(super) struct Latency {
    exchanges: Vec<(Box<str>, Histogram)>,
    /// The exchange's index, and when amqp-ingest received the event, in milliseconds since 1970.
    delivered: Vec<(usize, u64)>,
    logged: Option<Instant>,
}

impl Latency {
    /// Notes an event that is being delivered. One of an older ingest has no time.
    pub(super) fn delivered(&mut self, message: &Message, metrics: &Metrics) {
        let received = message.header(wire::RECEIVED).and_then(|time| time.parse::<u64>().ok());
        if let (Some(received), Some(exchange)) = (received, message.header(wire::EXCHANGE))
            && let Some(index) = self.index(exchange, metrics)
        {
            self.delivered.push((index, received));
        }
    }

    fn index(&mut self, exchange: &str, metrics: &Metrics) -> Option<usize> {
        if let Some(index) = self.exchanges.iter().position(|(name, _)| **name == *exchange) {
            return Some(index);
        }
        if self.exchanges.len() == MAX_EXCHANGES {
            return None;
        }
        let labels = Exchange { exchange: exchange.to_owned() };
        self.exchanges.push((exchange.into(), metrics.delivery_seconds.get_or_create_owned(&labels)));
        Some(self.exchanges.len() - 1)
    }

    /// Measures what was delivered since the last call, and has just been written to the sockets.
    pub(super) fn written(&mut self) {
        if self.delivered.is_empty() {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut slowest = (Duration::ZERO, 0);
        for (index, received) in self.delivered.drain(..) {
            // The clocks of two machines differ a little.
            let took = now.saturating_sub(Duration::from_millis(received));
            if let Some((_, histogram)) = self.exchanges.get(index) {
                histogram.observe(took.as_secs_f64());
            }
            slowest = slowest.max((took, index));
        }
        let (took, index) = slowest;
        if took >= LATE && self.logged.is_none_or(|logged| clock::now() - logged >= LOG_INTERVAL) {
            self.logged = Some(clock::now());
            let exchange = self.exchanges.get(index).map(|(name, _)| &**name);
            tracing::warn!(
                exchange,
                seconds = took.as_secs_f64().round(),
                "an event reached its sessions late"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prometheus_client::registry::Registry;

    use super::*;

    fn message(exchange: &str, received: &str) -> Message {
        let headers = format!("NATS/1.0\r\nBh-Time: {received}\r\nBh-Exchange: {exchange}\r\n\r\n");
        Message {
            subscription: 9,
            subject: Bytes::new(),
            headers: headers.into(),
            payload: Bytes::new(),
            reply: Bytes::new(),
        }
    }

    #[test]
    fn each_event_is_measured_once_for_its_exchange() {
        let (metrics, mut latency) = (Metrics::default(), Latency::default());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        latency.delivered(&message("callevt", &(now - 300).to_string()), &metrics);
        latency.delivered(&message("callevt", &(now + 60_000).to_string()), &metrics);
        latency.delivered(&message("faxes", "no time"), &metrics);
        latency.written();
        latency.written();
        // Whatever is published, the series are bounded.
        for number in 0..200 {
            latency.delivered(&message(&format!("x{number}"), &now.to_string()), &metrics);
        }
        latency.written();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let call = "edge_delivery_seconds_count{exchange=\"callevt\"} 2";
        assert!(text.contains(call), "{text}");
        let fast = "edge_delivery_seconds_bucket{le=\"0.002\",exchange=\"callevt\"} 1";
        assert!(text.contains(fast), "a clock that is behind counts as no time: {text}");
        assert!(!text.contains("faxes"));
        assert_eq!(text.matches("edge_delivery_seconds_count").count(), MAX_EXCHANGES);
    }
}
