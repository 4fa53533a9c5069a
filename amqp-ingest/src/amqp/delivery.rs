//! What becomes of a delivery: an event for the stream, a dead letter, or nothing.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Broker, frame::Delivery};
use crate::{
    body::{self, Rejection},
    message::{Message, Origin},
    owner,
};
use blackhole_common::catalogue::{Catalogue, Event};

/// Seconds from year 0, where KAZOO's clock begins, to 1970.
const GREGORIAN_EPOCH: f64 = 62_167_219_200.0;

/// What becomes of a delivery.
#[derive(Debug)]
pub(super) enum Fate {
    /// It is published.
    Publish(Message),
    /// It is rejected to the dead-letter exchange.
    Reject(Rejection),
    /// It is acknowledged and forgotten: no family of the catalogue has its key.
    Forget,
}

/// Decides and counts.
pub(super) fn decide(delivery: &Delivery, broker: &Broker) -> Fate {
    let Broker { catalogue, root, metrics, counters, place, .. } = broker;
    if delivery.redelivered {
        metrics.redelivered.inc();
    }
    // AMQP's short strings are bytes. KAZOO never writes such a key, but anyone who may publish to its exchanges can.
    let (Ok(exchange), Ok(key)) = (str::from_utf8(&delivery.exchange), str::from_utf8(&delivery.key)) else {
        return Fate::Reject(Rejection::Unreadable);
    };
    let Some((family, event)) = find(catalogue, exchange, key) else {
        metrics.unknown.inc();
        return Fate::Forget;
    };
    if let Some(counter) = counters.received.get(family) {
        counter.inc();
    }
    if let Some(lag) = delivery.timestamp.and_then(lag) {
        metrics.lag_seconds.observe(lag.as_secs_f64());
    }
    let Some(body) = &delivery.body else { return Fate::Reject(Rejection::TooLarge) };
    match body::read(body, &owner::body_paths(event)) {
        Ok(facts) => {
            let tenant = owner::tenant(event, key, &facts.members);
            let Delivery { message_id, timestamp, .. } = delivery;
            let origin = Origin {
                exchange,
                key,
                message_id: message_id.as_deref(),
                timestamp: *timestamp,
                zone: &place.zone,
            };
            Fate::Publish(Message::new(root, &tenant, &facts.name, &origin, body.clone()))
        }
        Err(rejection) => Fate::Reject(rejection),
    }
}

/// The kind of an event, with the number of its family.
fn find<'c>(catalogue: &'c Catalogue, exchange: &str, key: &str) -> Option<(usize, &'c Event)> {
    let event = catalogue.event(exchange, key)?;
    let holds = |family: &blackhole_common::catalogue::Family| {
        family.event.iter().any(|own| std::ptr::eq(own, event))
    };
    Some((catalogue.families().iter().position(holds)?, event))
}

/// How long ago the event was published, by its timestamp.
///
/// AMQP's timestamp has seconds since 1970; KAZOO's releases write microseconds, and may count them from year 0. The
/// magnitudes do not overlap. What lies in the future or more than a day back is no timestamp but a mistake.
fn lag(timestamp: u64) -> Option<Duration> {
    let timestamp = timestamp as f64;
    let mut seconds = match timestamp {
        ..1e11 => timestamp,
        ..1e14 => timestamp / 1e3,
        _ => timestamp / 1e6,
    };
    if seconds > GREGORIAN_EPOCH {
        seconds -= GREGORIAN_EPOCH;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
    let day = 0.0..86_400.0;
    let lag = now - seconds;
    // A clock that is a little ahead of ours is no mistake.
    let lag = if (-1.0..0.0).contains(&lag) { 0.0 } else { lag };
    day.contains(&lag).then(|| Duration::from_secs_f64(lag))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use blackhole_common::config::ServerUrl;
    use bytes::Bytes;
    use prometheus_client::registry::Registry;
    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        amqp::BrokerCounters,
        config::{AmqpConfig, BrokerConfig},
        metrics::Metrics,
    };

    fn fate(exchange: &str, key: &[u8], body: Option<&[u8]>) -> Fate {
        let catalogue = Arc::new(Catalogue::load(None).unwrap());
        let metrics = Metrics::register(&mut Registry::default(), &catalogue);
        let broker = Broker {
            place: BrokerConfig { zone: "east".into(), url: ServerUrl::new("amqp://east") },
            config: AmqpConfig::default(),
            root: "blackhole.v1.ingest".into(),
            catalogue,
            outgoing: mpsc::channel(1).0,
            counters: BrokerCounters::of("east", &metrics),
            metrics,
        };
        let bytes = Bytes::copy_from_slice;
        let delivery = Delivery {
            tag: 1,
            exchange: bytes(exchange.as_bytes()),
            key: bytes(key),
            body: body.map(bytes),
            ..Delivery::default()
        };
        decide(&delivery, &broker)
    }

    #[test]
    fn deliveries_are_told_apart() {
        let body = br#"{"Event-Name":"CHANNEL_HOLD","Custom-Channel-Vars":{"Account-ID":"acc1"}}"#;
        let Fate::Publish(message) = fate("callevt", b"call.CHANNEL_HOLD.c%2E1", Some(body)) else {
            panic!()
        };
        assert_eq!(message.subject, "blackhole.v1.ingest.acc1.call.CHANNEL_HOLD.c%2E1");
        assert_eq!(message.body, body.as_slice());
        let forgotten =
            |exchange, key: &str| matches!(fate(exchange, key.as_bytes(), Some(body)), Fate::Forget);
        assert!(forgotten("callevt", "call.UNHEARD_OF.x") && forgotten("faxes", "call.CHANNEL_HOLD.x"));
        for (key, body, reason) in [
            (&b"call.CHANNEL_HOLD.x"[..], Some(&b"["[..]), Rejection::NotAnObject),
            (b"call.CHANNEL_HOLD.x", Some(b"{}"), Rejection::NoName),
            (b"call.CHANNEL_HOLD.x", None, Rejection::TooLarge),
            (b"call.CHANNEL_HOLD.\xff", Some(body), Rejection::Unreadable),
        ] {
            assert!(matches!(fate("callevt", key, body), Fate::Reject(why) if why == reason), "{reason:?}");
        }
    }

    #[test]
    fn timestamps_come_in_several_units() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let gregorian = now + GREGORIAN_EPOCH as u64;
        let lag_of = |timestamp: u64| lag(timestamp).map(|lag| lag.as_secs());
        for timestamp in
            [now, now * 1_000, now * 1_000_000, gregorian, gregorian * 1_000, gregorian * 1_000_000]
        {
            let seconds = lag_of(timestamp).unwrap();
            assert!(seconds <= 2, "{timestamp}: {seconds}");
        }
        for timestamp in [0, 1, now - 100_000, now + 100, u64::MAX] {
            assert_eq!(lag_of(timestamp), None, "{timestamp}");
        }
    }
}
