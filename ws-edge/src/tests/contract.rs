//! The edge's side of `tests/contract/v1/` (docs/compatibility.md): how it reads events, and reads and writes cursors.

use blackhole_common::{nats::protocol, owner::Own, wire};
use bytes::Bytes;
use serde_json::Value;

use crate::{
    delivery::{
        frame::{builder::EventFrames, event::Event},
        testing,
    },
    protocol::cursor::{Cursor, EventPosition, Rank, StreamId},
};

fn lines(file: &str) -> Vec<Value> {
    let file = format!("{}/../tests/contract/v1/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn events_are_read_as_in_the_contract() {
    for line in lines("events.jsonl") {
        let text = |name: &str| line[name].as_str().unwrap_or_default();
        let headers = text("headers").as_bytes();
        let owner = protocol::header(headers, wire::OWNER.as_bytes()).unwrap_or_default();
        let is_listed = line["own"]
            .as_array()
            .is_some_and(|own| own.iter().any(|own| own.as_str().unwrap().as_bytes() == owner));
        let event = Event {
            subject: Bytes::from(format!("blackhole.v1.event.{}", text("subject"))),
            name: Bytes::copy_from_slice(protocol::header(headers, wire::EVENT_NAME.as_bytes()).unwrap()),
            body: Bytes::copy_from_slice(text("body").as_bytes()),
            owner: Bytes::copy_from_slice(owner),
            position: None,
        };
        let own: Option<Own> = serde_json::from_value(line["own"].clone()).unwrap();
        assert_eq!(own.is_some_and(|own| own.has(&event.owner)), is_listed);
        let frames = EventFrames::read("blackhole.v1.event", &event).unwrap();
        let tenant = match (text("account"), text("realm")) {
            ("", "") => "_".to_owned(),
            ("", realm) => format!("@{}", realm.to_ascii_lowercase().replace('.', "=2E")),
            (account, _) => account.to_owned(),
        };
        assert_eq!(frames.tenant(), tenant);
        let frame = frames.frame(&testing::template("call.*.*"), true).unwrap();
        let frame = frame.ready().unwrap();
        let json = frame.iter().position(|byte| *byte == b'{').unwrap();
        let frame: Value = serde_json::from_slice(&frame[json..]).unwrap();
        assert_eq!((&frame["name"], &frame["routing_key"]), (&line["event_name"], &line["routing_key"]));
    }
}

#[test]
fn cursors_are_those_of_the_contract() {
    for line in lines("cursors.jsonl") {
        let text = |name: &str| line[name].as_str().unwrap();
        let stream = StreamId::new(text("created"));
        let position = EventPosition { stream, sequence: line["sequence"].as_u64().unwrap() };
        let cursor = Cursor { position, rank: Rank::of(text("account"), text("binding")) };
        assert_eq!(cursor.to_text(), text("text").as_bytes());
        assert_eq!(Cursor::parse(text("text")), Ok(cursor));
    }
}
