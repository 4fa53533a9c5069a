//! An event as it goes to NATS: subject, headers, and the body byte for byte.

use blackhole_common::{nats::protocol::HeaderBlock, subject, tenant::Tenant, wire};
use bytes::Bytes;
use ring::digest::{Context, SHA256};

/// How many bytes of the hash an id has. 128 bits are beyond accident, and ids are only compared within the
/// stream's duplicate window.
const ID_BYTES: usize = 16;

/// An event, ready to be published, again and again if need be.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// Where to: `<prefix>.ingest.<tenant>.<key>`.
    pub(crate) subject: String,
    /// The wire contract's headers, as a block.
    pub(crate) headers: Bytes,
    /// The AMQP body.
    pub(crate) body: Bytes,
}

impl Message {
    /// An event of `tenant` below `root`, from its AMQP delivery.
    pub(crate) fn new(root: &str, tenant: &Tenant, name: &str, event: &Origin<'_>, body: Bytes) -> Message {
        let mut subject = String::with_capacity(root.len() + event.key.len() + 64);
        subject.push_str(root);
        subject.push('.');
        tenant.push_to(&mut subject);
        subject::push_key(&mut subject, event.key.as_bytes());
        let mut headers = HeaderBlock::new();
        headers.add(wire::MESSAGE_ID, &event.id(&body));
        headers.add(wire::EXCHANGE, event.exchange);
        headers.add(wire::ROUTING_KEY, event.key);
        headers.add(wire::EVENT_NAME, name);
        if !event.zone.is_empty() {
            headers.add(wire::ZONE, event.zone);
        }
        Message { subject, headers: headers.finish(), body }
    }
}

/// What AMQP says about an event beside its body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin<'d> {
    /// The exchange.
    pub(crate) exchange: &'d str,
    /// The routing key.
    pub(crate) key: &'d str,
    /// The property `message-id`; any bytes.
    pub(crate) message_id: Option<&'d [u8]>,
    /// The property `timestamp`.
    pub(crate) timestamp: Option<u64>,
    /// The zone of its broker; empty where there is but one broker. It tells no two events apart: what is federated
    /// from one zone to another is one event.
    pub(crate) zone: &'d str,
}

impl Origin<'_> {
    /// What tells this event from all others: a hash of everything that a redelivery repeats, and nothing that it
    /// changes. KAZOO's `Msg-ID` is not enough: some events lack it, some share it. It is part of the body, so it
    /// tells apart two events that are alike otherwise.
    ///
    /// Each part is preceded by its length, so no two events can run together to the same bytes.
    fn id(&self, body: &[u8]) -> String {
        let mut context = Context::new(&SHA256);
        let mut part = |bytes: &[u8]| {
            context.update(&(bytes.len() as u64).to_be_bytes());
            context.update(bytes);
        };
        part(self.exchange.as_bytes());
        part(self.key.as_bytes());
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
    use blackhole_common::nats::protocol;

    use super::*;

    fn id(
        exchange: &str,
        key: &str,
        message_id: Option<&[u8]>,
        timestamp: Option<u64>,
        body: &[u8],
    ) -> String {
        Origin { exchange, key, message_id, timestamp, zone: "" }.id(body)
    }

    #[test]
    fn ids_repeat_and_tell_apart() {
        let same = id("callevt", "call.X.1", None, None, b"{}");
        assert_eq!(same, id("callevt", "call.X.1", None, None, b"{}"));
        // The same in every release and process, or an upgrade would repeat events.
        assert_eq!(same, "67fffb0fe8f5632c1453a3438ea8b558");
        let m = Some(&b"m"[..]);
        for other in [
            id("callevt", "call.X.1", None, None, b"{ }"),
            id("callevt", "call.X.2", None, None, b"{}"),
            id("callevtc", "all.X.1", None, None, b"{}"),
            id("callevt", "call.X.1", m, None, b"{}"),
            id("callevt", "call.X.1", None, Some(5), b"{}"),
            // One `Msg-ID` for two events.
            id("callevt", "call.X.1", m, None, b"{\"Msg-ID\":\"m\"}"),
        ] {
            assert_ne!(same, other);
        }
    }

    #[test]
    fn odd_bytes_are_safe_in_subject_and_headers() {
        let event = Origin {
            exchange: "e\r\n",
            key: "call.a b.>é\r\n",
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
        let without = Origin { zone: "", ..event };
        let message = Message::new("b.ingest", &Tenant::Nobody, "n", &without, body);
        assert_eq!(protocol::header(&message.headers, b"Bh-Zone"), None);
        assert_eq!(
            protocol::header(&message.headers, b"Nats-Msg-Id")
                .map(|id| String::from_utf8(id.to_vec()).unwrap()),
            header("Nats-Msg-Id")
        );
    }

    #[test]
    fn the_longest_event_has_a_subject_that_nats_takes() {
        let key = "é".repeat(127);
        let event = Origin { exchange: "e", key: &key, message_id: None, timestamp: None, zone: "" };
        let tenant = Tenant::account(&"é".repeat(127));
        let message = Message::new(&"x".repeat(71), &tenant, "n", &event, Bytes::new());
        assert!(message.subject.len() <= subject::MAX_SUBJECT_BYTES, "{}", message.subject.len());
    }
}
