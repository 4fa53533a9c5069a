//! An event as published to NATS: subject, headers (without its id and time, which differ between deliveries), and body.

use std::time::{SystemTime, UNIX_EPOCH};

use blackhole_common::{
    catalogue::Event, nats::protocol::HeaderBlock, owner::Owner, subject, tenant::Tenant, wire,
};
use bytes::Bytes;
use ring::digest::{Context, SHA256};

use crate::{checkpoint::Digest, dialled::Dialled};

/// An event, ready to be published, repeatedly if necessary.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// `<root>.<tenant>.<routing key>`.
    pub(crate) subject: String,
    /// The header block, without the id.
    pub(crate) headers: Bytes,
    /// The AMQP body.
    pub(crate) body: Bytes,
    /// Recognises another delivery of the event.
    pub(crate) digest: Digest,
    /// When it was received, in milliseconds since 1970. Another delivery has another time, so it is no part of the headers.
    pub(crate) received: u64,
    /// How many words of the subject follow the one that names its call, if events of this call may have to wait.
    pub(crate) words_after_call: Option<usize>,
    /// What was dialled, if the event is to be given the account of it.
    pub(crate) dialled: Option<Box<Dialled>>,
}

impl Message {
    /// An event of `tenant`, and within it of `owner`, below the subject `root`.
    pub(crate) fn new(
        root: &str,
        tenant: &Tenant,
        owner: Option<&Owner>,
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
        headers.add(wire::EXCHANGE, event.exchange);
        headers.add(wire::ROUTING_KEY, event.routing_key);
        headers.add(wire::EVENT_NAME, name);
        if !event.zone.is_empty() {
            headers.add(wire::ZONE, event.zone);
        }
        if let Some(owner) = owner {
            headers.add_text(wire::OWNER, &owner.to_text());
        }
        let digest = event.digest(&body);
        let received = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64);
        Message {
            subject,
            headers: headers.finish(),
            body,
            digest,
            received,
            words_after_call: None,
            dialled: None,
        }
    }

    /// Notes what was dialled, if this event of `tenant` names no account, and is of a kind that belongs to that of the number.
    pub(crate) fn look_up(&mut self, event: &Event, routing_key: &str, tenant: &Tenant, root: &str) {
        self.words_after_call = event.words_after_call();
        if !matches!(tenant, Tenant::Account(_)) && event.is_dialled(routing_key) {
            let path = event.account_member().unwrap_or_default();
            self.dialled = Dialled::read(&self.body, path, root.len()).map(Box::new);
        }
    }

    /// The word of the routing key that names the call, if events of this call may have to wait.
    pub(crate) fn call(&self) -> Option<&str> {
        self.subject.rsplit('.').nth(self.words_after_call?)
    }

    /// Gives the event to the account of the number that was dialled, as KAZOO would. What recognises another delivery of it
    /// stays as it is.
    pub(crate) fn give_to(&mut self, account_id: &str) {
        let Some(dialled) = self.dialled.take() else { return };
        let (Some(body), Some(root), Some(rest)) = (
            dialled.with_account(&self.body, account_id),
            self.subject.get(..dialled.root_bytes),
            self.subject.get(dialled.root_bytes + 1..),
        ) else {
            return;
        };
        let mut subject = String::with_capacity(self.subject.len() + 32);
        subject.push_str(root);
        subject.push('.');
        Tenant::account(account_id).push_to(&mut subject);
        // A tenant is one word.
        if let Some((_, key)) = rest.split_once('.') {
            subject.push('.');
            subject.push_str(key);
        }
        (self.subject, self.body) = (subject, body);
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
    /// The broker's zone; empty with a single unnamed broker.
    pub(crate) zone: &'d str,
}

impl EventMetadata<'_> {
    /// The event's digest: a hash of everything that a redelivery repeats, and of nothing that it changes. KAZOO's
    /// `Msg-ID` alone is not enough: some events lack it, others share it. It is part of the body, so it still
    /// distinguishes events that are otherwise equal. 128 bits make collisions negligible.
    ///
    /// Each part is prefixed with its length, so that different parts never concatenate to the same bytes.
    fn digest(&self, body: &[u8]) -> Digest {
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
        hash.as_ref().first_chunk().map_or(0, |bytes| Digest::from_be_bytes(*bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use blackhole_common::nats::protocol;

    use super::*;

    fn digest(
        exchange: &str,
        routing_key: &str,
        message_id: Option<&[u8]>,
        timestamp: Option<u64>,
        body: &[u8],
    ) -> Digest {
        EventMetadata { exchange, routing_key, message_id, timestamp, zone: "" }.digest(body)
    }

    #[test]
    fn digests_are_stable_and_distinguish_events() {
        // A digest must not change between releases, or an upgrade would duplicate events.
        assert_eq!(
            digest("callevt", "call.X.1", None, None, b"{}"),
            0x67ff_fb0f_e8f5_632c_1453_a343_8ea8_b558
        );
        let m = Some(&b"m"[..]);
        let digests = [
            digest("callevt", "call.X.1", None, None, b"{}"),
            digest("callevt", "call.X.1", None, None, b"{ }"),
            digest("callevt", "call.X.2", None, None, b"{}"),
            digest("callevtc", "all.X.1", None, None, b"{}"),
            digest("callevt", "call.X.1", m, None, b"{}"),
            digest("callevt", "call.X.1", None, Some(5), b"{}"),
            // Two events that share a `Msg-ID`.
            digest("callevt", "call.X.1", m, None, b"{\"Msg-ID\":\"m\"}"),
        ];
        assert_eq!(digests.iter().collect::<BTreeSet<_>>().len(), digests.len(), "{digests:?}");
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
        let owner = Owner::Document("u\r\nNats-Rollup: all".into());
        let message = Message::new(
            "b.ingest",
            &Tenant::Nobody,
            Some(&owner),
            "n\r\nNats-Rollup: all\u{1F600}",
            &event,
            body.clone(),
        );
        assert_eq!(message.subject, "b.ingest._.call.a=20b.=3E=C3=A9=0D=0A");
        assert_eq!(message.body, body);
        let header = |name: &str| {
            protocol::header(&message.headers, name.as_bytes())
                .map(|value| String::from_utf8(value.to_vec()).unwrap())
        };
        assert_eq!(header("Bh-Exchange").as_deref(), Some("e\\u000d\\u000a"));
        assert_eq!(header("Bh-Key").as_deref(), Some("call.a b.>\\u00e9\\u000d\\u000a"));
        assert_eq!(header("Bh-Name").as_deref(), Some("n\\u000d\\u000aNats-Rollup: all\\ud83d\\ude00"));
        assert_eq!(header("Bh-Owner").as_deref(), Some("id:u\\u000d\\u000aNats-Rollup: all"));
        assert_eq!(header("Nats-Msg-Id"), None, "it is added when the event is published");
        assert_eq!(header("Bh-Zone").as_deref(), Some("us-east"));
        let without_zone = EventMetadata { zone: "", ..event };
        let message = Message::new("b.ingest", &Tenant::Nobody, None, "n", &without_zone, body);
        assert_eq!(protocol::header(&message.headers, b"Bh-Zone"), None);
        assert_eq!(protocol::header(&message.headers, b"Bh-Owner"), None);
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
        let message = Message::new(&root, &Tenant::realm(&longest), None, "n", &event, Bytes::new());
        assert_eq!(message.subject.len(), 71 + ".@".len() + 3 * 255 + ".".len() + 3 * 255);
        assert!(message.subject.len() <= subject::MAX_SUBJECT_BYTES, "{}", message.subject.len());
    }
}
