//! An event as it goes to NATS: subject, headers, and the body byte for byte.

use async_nats::HeaderMap;
use blackhole_common::{
    subject,
    tenant::Tenant,
    wire::{self, header_text},
};
use bytes::Bytes;
use lapin::BasicProperties;
use ring::digest::{Context, SHA256};

/// How many bytes of the hash an id has. 128 bits are beyond accident, and ids are only compared within the
/// stream's duplicate window.
const ID_BYTES: usize = 16;

/// An event, ready to be published, again and again if need be.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// Where to: `<prefix>.ingest.<tenant>.<key>`.
    pub(crate) subject: String,
    /// The wire contract's headers.
    pub(crate) headers: HeaderMap,
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
        let mut headers = HeaderMap::new();
        headers.insert(wire::MESSAGE_ID, event.id(&body));
        headers.insert(wire::EXCHANGE, header_text(event.exchange));
        headers.insert(wire::ROUTING_KEY, header_text(event.key));
        headers.insert(wire::EVENT_NAME, header_text(name));
        if !event.zone.is_empty() {
            headers.insert(wire::ZONE, header_text(event.zone));
        }
        Message { subject, headers, body }
    }
}

/// What AMQP says about an event beside its body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin<'d> {
    /// The exchange.
    pub(crate) exchange: &'d str,
    /// The routing key.
    pub(crate) key: &'d str,
    /// The properties.
    pub(crate) properties: &'d BasicProperties,
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
        match self.properties.message_id() {
            Some(id) => part(id.as_str().as_bytes()),
            None => part(b""),
        }
        match self.properties.timestamp() {
            Some(timestamp) => part(&timestamp.to_be_bytes()),
            None => part(b""),
        }
        part(body);
        let digits = context.finish();
        digits.as_ref().iter().take(ID_BYTES).map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(exchange: &str, key: &str, properties: &BasicProperties, body: &[u8]) -> String {
        Origin { exchange, key, properties, zone: "" }.id(body)
    }

    #[test]
    fn ids_repeat_and_tell_apart() {
        let plain = BasicProperties::default();
        let same = id("callevt", "call.X.1", &plain, b"{}");
        assert_eq!(same, id("callevt", "call.X.1", &plain, b"{}"));
        // The same in every release and process, or an upgrade would repeat events.
        assert_eq!(same, "67fffb0fe8f5632c1453a3438ea8b558");
        let with_id = plain.clone().with_message_id("m".into());
        for other in [
            id("callevt", "call.X.1", &plain, b"{ }"),
            id("callevt", "call.X.2", &plain, b"{}"),
            id("callevtc", "all.X.1", &plain, b"{}"),
            id("callevt", "call.X.1", &with_id, b"{}"),
            id("callevt", "call.X.1", &plain.clone().with_timestamp(5), b"{}"),
            // One `Msg-ID` for two events.
            id("callevt", "call.X.1", &with_id, b"{\"Msg-ID\":\"m\"}"),
        ] {
            assert_ne!(same, other);
        }
    }

    #[test]
    fn odd_bytes_are_safe_in_subject_and_headers() {
        let properties = BasicProperties::default();
        let event =
            Origin { exchange: "e\r\n", key: "call.a b.>é\r\n", properties: &properties, zone: "us-east" };
        let body = Bytes::from_static(b"{\"Event-Name\":\"x\"}");
        let message =
            Message::new("b.ingest", &Tenant::Nobody, "n\r\nNats-Rollup: all\u{1F600}", &event, body.clone());
        assert_eq!(message.subject, "b.ingest._.call.a=20b.=3E=C3=A9=0D=0A");
        assert_eq!(message.body, body);
        let header = |name: &str| message.headers.get(name).map(|value| value.as_str().to_owned());
        assert_eq!(header("Bh-Exchange").as_deref(), Some("e\\u000d\\u000a"));
        assert_eq!(header("Bh-Key").as_deref(), Some("call.a b.>\\u00e9\\u000d\\u000a"));
        assert_eq!(header("Bh-Name").as_deref(), Some("n\\u000d\\u000aNats-Rollup: all\\ud83d\\ude00"));
        assert_eq!(header("Nats-Msg-Id").map(|id| id.len()), Some(32));
        assert_eq!(header("Bh-Zone").as_deref(), Some("us-east"));
        let without = Origin { zone: "", ..event };
        let message = Message::new("b.ingest", &Tenant::Nobody, "n", &without, body);
        assert_eq!(message.headers.get("Bh-Zone"), None);
        assert_eq!(
            message.headers.get("Nats-Msg-Id").map(|id| id.as_str().to_owned()),
            header("Nats-Msg-Id")
        );
    }

    #[test]
    fn the_longest_event_has_a_subject_that_nats_takes() {
        let properties = BasicProperties::default();
        let key = "é".repeat(127);
        let event = Origin { exchange: "e", key: &key, properties: &properties, zone: "" };
        let tenant = Tenant::account(&"é".repeat(127));
        let message = Message::new(&"x".repeat(71), &tenant, "n", &event, Bytes::new());
        assert!(message.subject.len() <= subject::MAX_SUBJECT_BYTES, "{}", message.subject.len());
    }
}
