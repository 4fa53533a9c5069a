//! Decides what happens to a delivery: publish, reject to the dead-letter exchange, or discard.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::{broker::BrokerContext, frame::Delivery};
use crate::{
    body::{self, Rejection},
    message::{EventMetadata, Message},
    tenant,
};
use blackhole_common::catalogue::{Catalogue, Event, Family};

/// Seconds from year 0, the epoch of KAZOO's Gregorian timestamps, to 1970.
const GREGORIAN_EPOCH: f64 = 62_167_219_200.0;

/// What happens to a delivery.
#[derive(Debug)]
pub(super) enum Disposition {
    /// Publish it.
    Publish(Message),
    /// Reject it to the dead-letter exchange.
    Reject(Rejection),
    /// Acknowledge it without publishing: its routing key belongs to no family.
    Discard,
}

/// Decides what happens to a delivery, and counts it.
pub(super) fn classify(delivery: &Delivery, broker: &BrokerContext) -> Disposition {
    let BrokerContext { catalogue, subject_root, metrics, counters, endpoint, .. } = broker;
    if delivery.redelivered {
        metrics.redelivered.inc();
    }
    // AMQP allows any bytes. KAZOO sends UTF-8 only, but others can publish to its exchanges.
    let exchange = str::from_utf8(&delivery.exchange);
    let (Ok(exchange), Ok(routing_key)) = (exchange, str::from_utf8(&delivery.routing_key)) else {
        return Disposition::Reject(Rejection::Unreadable);
    };
    let Some((family, event)) = find_event(catalogue, exchange, routing_key) else {
        metrics.unknown.inc();
        return Disposition::Discard;
    };
    if let Some(counter) = counters.received.get(family) {
        counter.inc();
    }
    if let Some(timestamp) = delivery.timestamp
        && let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH)
        && let Some(lag) = lag(timestamp, now)
    {
        metrics.lag_seconds.observe(lag.as_secs_f64());
    }
    let Some(body) = &delivery.body else { return Disposition::Reject(Rejection::TooLarge) };
    let body = match body::repair(body) {
        Some(repaired) => {
            metrics.repaired.inc();
            &Bytes::from(repaired)
        }
        None => body,
    };
    match body::parse(body, &tenant::body_paths(event)) {
        Ok(parsed) => {
            let (tenant, owner) = tenant::resolve(event, routing_key, &parsed.members);
            let metadata = EventMetadata {
                exchange,
                routing_key,
                message_id: delivery.message_id.as_deref(),
                timestamp: delivery.timestamp,
                zone: &endpoint.zone,
            };
            let (name, owner) = (&parsed.name, owner.as_ref());
            let mut message = Message::new(subject_root, &tenant, owner, name, &metadata, body.clone());
            message.look_up(event, routing_key, &tenant, subject_root);
            Disposition::Publish(message)
        }
        Err(rejection) => Disposition::Reject(rejection),
    }
}

/// The catalogue's event for a delivery, with the index of its family.
fn find_event<'c>(catalogue: &'c Catalogue, exchange: &str, key: &str) -> Option<(usize, &'c Event)> {
    let event = catalogue.event(exchange, key)?;
    let contains = |family: &Family| family.event.iter().any(|own| std::ptr::eq(own, event));
    Some((catalogue.families().iter().position(contains)?, event))
}

/// The time from an event's AMQP timestamp to `now`, both since 1970.
///
/// AMQP timestamps are seconds since 1970. KAZOO's releases send microseconds, some of them since year 0. The
/// magnitudes do not overlap. `None` if the timestamp is in the future or at least a day old.
fn lag(timestamp: u64, now: Duration) -> Option<Duration> {
    let timestamp = timestamp as f64;
    let mut seconds = match timestamp {
        ..1e11 => timestamp,
        ..1e14 => timestamp / 1e3,
        _ => timestamp / 1e6,
    };
    if seconds > GREGORIAN_EPOCH {
        seconds -= GREGORIAN_EPOCH;
    }
    let day = 0.0..86_400.0;
    let lag = now.as_secs_f64() - seconds;
    // Tolerate a clock that is slightly ahead of ours.
    let lag = if (-1.0..0.0).contains(&lag) { 0.0 } else { lag };
    day.contains(&lag).then(|| Duration::from_secs_f64(lag))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use blackhole_common::{config::ServerUrl, net::Tcp};
    use prometheus_client::registry::Registry;
    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        amqp::{broker::BrokerCounters, checkpoints::BrokerQueue},
        config::{AmqpConfig, BrokerConfig},
        metrics::Metrics,
    };

    const BODY: &[u8] = br#"{"Event-Name":"CHANNEL_HOLD","Custom-Channel-Vars":{"Account-ID":"acc1"}}"#;

    fn broker() -> BrokerContext {
        let catalogue = Arc::new(Catalogue::load(None).unwrap());
        let metrics = Metrics::register(&mut Registry::default(), &catalogue);
        let (url, config) = (ServerUrl::new("amqp://east"), AmqpConfig::default());
        BrokerContext {
            source: 0,
            network: Arc::new(Tcp),
            checkpoints: Arc::new(BrokerQueue::new(url.clone(), &config)),
            has_history: true,
            endpoint: BrokerConfig { zone: "east".into(), url },
            config,
            subject_root: "blackhole.v1.ingest".into(),
            catalogue,
            active: crate::active::ActiveConsumer::default(),
            publisher: mpsc::channel(1).0,
            counters: BrokerCounters::for_zone("east", &metrics),
            metrics,
        }
    }

    fn delivery(exchange: &[u8], routing_key: &[u8], body: Option<&[u8]>) -> Delivery {
        Delivery {
            tag: 1,
            exchange: Bytes::copy_from_slice(exchange),
            routing_key: Bytes::copy_from_slice(routing_key),
            body: body.map(Bytes::copy_from_slice),
            ..Delivery::default()
        }
    }

    /// Received by family, unknown, redelivered.
    fn counts(broker: &BrokerContext) -> (u64, u64, u64) {
        let received = broker.counters.received.iter().map(|counter| counter.get()).sum();
        (received, broker.metrics.unknown.get(), broker.metrics.redelivered.get())
    }

    #[test]
    fn a_known_event_is_published_below_its_tenant() {
        let broker = broker();
        let delivery =
            Delivery { redelivered: true, ..delivery(b"callevt", b"call.CHANNEL_HOLD.c%2E1", Some(BODY)) };
        let disposition = classify(&delivery, &broker);
        let Disposition::Publish(message) = disposition else { panic!("{disposition:?}") };
        assert_eq!(message.subject, "blackhole.v1.ingest.acc1.call.CHANNEL_HOLD.c%2E1");
        assert_eq!(message.body, BODY);
        let call = broker.catalogue.families().iter().position(|family| family.name == "call").unwrap();
        assert_eq!(broker.counters.received[call].get(), 1);
        assert_eq!(counts(&broker), (1, 0, 1));
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_replaced() {
        let broker = broker();
        let body = b"{\"Event-Name\":\"CHANNEL_HOLD\",\"User-Agent\":\"T\xe9l \xff\"}";
        let disposition = classify(&delivery(b"callevt", b"call.CHANNEL_HOLD.x", Some(body)), &broker);
        let Disposition::Publish(message) = disposition else { panic!("{disposition:?}") };
        let expected = "{\"Event-Name\":\"CHANNEL_HOLD\",\"User-Agent\":\"T\u{fffd}l \u{fffd}\"}";
        assert_eq!(message.body, expected);
        assert_eq!(broker.metrics.repaired.get(), 1);
    }

    #[test]
    fn unknown_routing_keys_and_exchanges_are_discarded() {
        for (exchange, key) in
            [(&b"callevt"[..], &b"call.UNHEARD_OF.x"[..]), (b"faxes", b"call.CHANNEL_HOLD.x")]
        {
            let broker = broker();
            let disposition = classify(&delivery(exchange, key, Some(BODY)), &broker);
            assert!(matches!(disposition, Disposition::Discard), "{disposition:?}");
            assert_eq!(counts(&broker), (0, 1, 0));
        }
    }

    #[test]
    fn invalid_events_are_rejected_with_a_reason() {
        let known = &b"call.CHANNEL_HOLD.x"[..];
        for (exchange, key, body, expected) in [
            (&b"callevt"[..], known, Some(&b"["[..]), Rejection::NotAnObject),
            (b"callevt", known, Some(b"{}"), Rejection::NoName),
            (b"callevt", known, None, Rejection::TooLarge),
            (b"callevt", b"call.CHANNEL_HOLD.\xff", Some(BODY), Rejection::Unreadable),
            (b"callevt\xff", known, Some(BODY), Rejection::Unreadable),
        ] {
            let disposition = classify(&delivery(exchange, key, body), &broker());
            let Disposition::Reject(reason) = disposition else { panic!("{disposition:?}") };
            assert_eq!(reason, expected);
        }
    }

    #[test]
    fn timestamps_in_all_units_and_epochs_are_recognized() {
        let now = Duration::from_secs(1_795_473_603);
        let sent = now.as_secs() - 5;
        let gregorian = sent + GREGORIAN_EPOCH as u64;
        let lag_seconds = |timestamp: u64| lag(timestamp, now).map(|lag| lag.as_secs_f64().round());
        for timestamp in
            [sent, sent * 1_000, sent * 1_000_000, gregorian, gregorian * 1_000, gregorian * 1_000_000]
        {
            assert_eq!(lag_seconds(timestamp), Some(5.0), "{timestamp}");
        }
        // A day is the limit, and a clock that is a second ahead is tolerated.
        assert_eq!(lag_seconds(now.as_secs() - 86_399), Some(86_399.0));
        assert_eq!(lag_seconds(now.as_secs() + 1), Some(0.0));
        for timestamp in [0, 1, now.as_secs() - 86_400, now.as_secs() + 2, u64::MAX] {
            assert_eq!(lag_seconds(timestamp), None, "{timestamp}");
        }
    }
}
