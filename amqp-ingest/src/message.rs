//! An event as published to NATS: subject, headers, and the unchanged body.

use blackhole_common::{nats::protocol::HeaderBlock, subject, tenant::Tenant, wire};
use bytes::Bytes;
use ring::digest::{Context, SHA256};

/// Bytes of the hash that form an id. 128 bits make collisions negligible, and ids are compared only within the
/// stream's duplicate window.
const ID_BYTES: usize = 16;

/// An event, ready to be published, repeatedly if necessary.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// `<root>.<tenant>.<routing key>`.
    pub(crate) subject: String,
    /// The header block.
    pub(crate) headers: Bytes,
    /// The AMQP body.
    pub(crate) body: Bytes,
}

impl Message {
    /// An event of `tenant` below the subject `root`.
    pub(crate) fn new(
        root: &str,
        tenant: &Tenant,
        name: &str,
        event: &EventMetadata<'_>,
        body: Bytes,
    ) -> Message {
        let mut subject = String::with_capacity(root.len() + event.routing_key.len() + 64);
        subject.push_str(root);
        subject.push('.');
        tenant.push_to(&mut subject);
        subject::push_key(&mut subject, event.routing_key.as_bytes());
        let mut headers = HeaderBlock::new();
        headers.add(wire::MESSAGE_ID, &event.id(&body));
        headers.add(wire::EXCHANGE, event.exchange);
        headers.add(wire::ROUTING_KEY, event.routing_key);
        headers.add(wire::EVENT_NAME, name);
        if !event.zone.is_empty() {
            headers.add(wire::ZONE, event.zone);
        }
        Message { subject, headers: headers.finish(), body }
    }
}

/// The metadata of an event's AMQP delivery.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EventMetadata<'d> {
    /// The exchange.
    pub(crate) exchange: &'d str,
    /// The routing key.
    pub(crate) routing_key: &'d str,
    /// The property `message-id`: arbitrary bytes.
    pub(crate) message_id: Option<&'d [u8]>,
    /// The property `timestamp`.
    pub(crate) timestamp: Option<u64>,
    /// The broker's zone; empty with a single unnamed broker. Not part of the id: an event federated from one zone to
    /// another is one event.
    pub(crate) zone: &'d str,
}

impl EventMetadata<'_> {
    /// The event's id for deduplication: a hash of everything that a redelivery repeats, and of nothing that it
    /// changes. KAZOO's `Msg-ID` alone is not enough: some events lack it, others share it. It is part of the body,
    /// so it still distinguishes events that are otherwise equal.
    ///
    /// Each part is prefixed with its length, so that different parts never concatenate to the same bytes.
    fn id(&self, body: &[u8]) -> String {
        let mut context = Context::new(&SHA256);
        let mut part = |bytes: &[u8]| {
            context.update(&(bytes.len() as u64).to_be_bytes());
            context.update(bytes);
        };
        part(self.exchange.as_bytes());
        part(self.routing_key.as_bytes());
        part(self.message_id.unwrap_or_default());
        match self.timestamp {
            Some(timestamp) => part(&timestamp.to_be_bytes()),
            None => part(b""),
        }
        part(body);
        let hash = context.finish();
        let bytes = hash.as_ref().iter().take(ID_BYTES);
        let digits = bytes.flat_map(|byte| [byte >> 4, byte & 0xf]);
        digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use blackhole_common::nats::protocol;

    use super::*;

    fn id(
        exchange: &str,
        routing_key: &str,
        message_id: Option<&[u8]>,
        timestamp: Option<u64>,
        body: &[u8],
    ) -> String {
        EventMetadata { exchange, routing_key, message_id, timestamp, zone: "" }.id(body)
    }

    #[test]
    fn ids_are_stable_and_distinguish_events() {
        // The id must not change between releases, or an upgrade would duplicate events.
        assert_eq!(id("callevt", "call.X.1", None, None, b"{}"), "67fffb0fe8f5632c1453a3438ea8b558");
        let m = Some(&b"m"[..]);
        let ids = [
            id("callevt", "call.X.1", None, None, b"{}"),
            id("callevt", "call.X.1", None, None, b"{ }"),
            id("callevt", "call.X.2", None, None, b"{}"),
            id("callevtc", "all.X.1", None, None, b"{}"),
            id("callevt", "call.X.1", m, None, b"{}"),
            id("callevt", "call.X.1", None, Some(5), b"{}"),
            // Two events that share a `Msg-ID`.
            id("callevt", "call.X.1", m, None, b"{\"Msg-ID\":\"m\"}"),
        ];
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "{ids:?}");
    }

    #[test]
    fn special_characters_are_escaped_in_subject_and_headers() {
        let event = EventMetadata {
            exchange: "e\r\n",
            routing_key: "call.a b.>é\r\n",
            message_id: None,
            timestamp: None,
            zone: "us-east",
        };
        let body = Bytes::from_static(b"{\"Event-Name\":\"x\"}");
        let message =
            Message::new("b.ingest", &Tenant::Nobody, "n\r\nNats-Rollup: all\u{1F600}", &event, body.clone());
        assert_eq!(message.subject, "b.ingest._.call.a=20b.=3E=C3=A9=0D=0A");
        assert_eq!(message.body, body);
        let header = |name: &str| {
            protocol::header(&message.headers, name.as_bytes())
                .map(|value| String::from_utf8(value.to_vec()).unwrap())
        };
        assert_eq!(header("Bh-Exchange").as_deref(), Some("e\\u000d\\u000a"));
        assert_eq!(header("Bh-Key").as_deref(), Some("call.a b.>\\u00e9\\u000d\\u000a"));
        assert_eq!(header("Bh-Name").as_deref(), Some("n\\u000d\\u000aNats-Rollup: all\\ud83d\\ude00"));
        assert_eq!(header("Nats-Msg-Id").map(|id| id.len()), Some(32));
        assert_eq!(header("Bh-Zone").as_deref(), Some("us-east"));
        let without_zone = EventMetadata { zone: "", ..event };
        let message = Message::new("b.ingest", &Tenant::Nobody, "n", &without_zone, body);
        assert_eq!(protocol::header(&message.headers, b"Bh-Zone"), None);
        assert_eq!(
            protocol::header(&message.headers, b"Nats-Msg-Id")
                .map(|id| String::from_utf8(id.to_vec()).unwrap()),
            header("Nats-Msg-Id")
        );
    }

    #[test]
    fn the_longest_subject_fits_the_nats_limit() {
        // Every byte is escaped as three. The prefix has at most 64 bytes.
        let longest = "*".repeat(255);
        let event = EventMetadata {
            exchange: "e",
            routing_key: &longest,
            message_id: None,
            timestamp: None,
            zone: "",
        };
        let root = format!("{}.ingest", "x".repeat(64));
        let message = Message::new(&root, &Tenant::realm(&longest), "n", &event, Bytes::new());
        assert_eq!(message.subject.len(), 71 + ".@".len() + 3 * 255 + ".".len() + 3 * 255);
        assert!(message.subject.len() <= subject::MAX_SUBJECT_BYTES, "{}", message.subject.len());
    }
}
