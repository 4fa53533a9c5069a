//! The ingest's side of `tests/contract/v1/` (docs/compatibility.md): how it writes events, their ids and checkpoints.

use blackhole_common::{owner::Owner, tenant::Tenant};
use bytes::Bytes;
use serde_json::Value;

use crate::{
    checkpoint::{Checkpoint, EventId},
    message::{EventMetadata, Message},
};

fn lines(file: &str) -> Vec<Value> {
    let file = format!("{}/../tests/contract/v1/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn events_are_written_as_in_the_contract() {
    for line in lines("events.jsonl") {
        let text = |name: &str| line[name].as_str().unwrap_or_default();
        let tenant = match (text("account"), text("realm")) {
            ("", realm) => Tenant::realm(realm),
            (account, _) => Tenant::account(account),
        };
        let event = EventMetadata {
            exchange: text("exchange"),
            routing_key: text("routing_key"),
            message_id: None,
            timestamp: None,
            zone: text("zone"),
        };
        let body = Bytes::copy_from_slice(text("body").as_bytes());
        let owner = line["owner"].as_object().map(|owner| {
            let value = |kind: &str| owner.get(kind).and_then(Value::as_str).map(str::to_owned);
            let document = value("document").map(Owner::Document);
            document.or(value("presence").map(Owner::Presence)).or(value("token").map(Owner::Token)).unwrap()
        });
        let (root, name) = ("blackhole.v1.ingest", text("event_name"));
        let message = Message::new(root, &tenant, owner.as_ref(), name, &event, body);
        let subject = format!("blackhole.v1.ingest.{}", text("subject"));
        let digest = format!("{:032x}", message.digest);
        assert_eq!(
            (message.subject.as_str(), std::str::from_utf8(&message.headers).unwrap(), digest.as_str()),
            (subject.as_str(), text("headers"), text("digest"))
        );
    }
}

#[test]
fn event_ids_and_checkpoints_are_those_of_the_contract() {
    for line in lines("event_ids.jsonl") {
        let text = line["text"].as_str().unwrap();
        let id = EventId {
            epoch: line["epoch"].as_u64().unwrap(),
            number: line["number"].as_u64().unwrap(),
            digest: u128::from_str_radix(line["digest"].as_str().unwrap(), 16).unwrap(),
        };
        assert_eq!(id.to_string(), text);
        assert_eq!(EventId::parse(text), Some(Ok(id)));
    }
    for line in lines("checkpoint.jsonl") {
        let checkpoint: Checkpoint = serde_json::from_value(line.clone()).unwrap();
        assert_eq!(serde_json::to_value(checkpoint).unwrap(), line);
    }
}
