use blackhole_common::catalogue::Catalogue;
use serde_json::{Value, json};

use super::*;

const BODY: &str = r#"{"Event-Name":"CHANNEL_CREATE","Call-ID":"a.b","Server-ID":"s"}"#;

fn shape(view: View, request_id: Option<&Value>, account: Option<&str>) -> Shape {
    let catalogue = Catalogue::load(None).unwrap();
    let event = catalogue.event("callevt", "call.CHANNEL_CREATE.a%2Eb").unwrap();
    Shape::new(view, request_id, "call.*.*", "call.acc.*.*", ShownKey::of(event, account))
}

fn event(subject: &str) -> EventFrames {
    EventFrames::read("bh.event", subject, "CHANNEL_CREATE", Bytes::from_static(BODY.as_bytes())).unwrap()
}

fn parsed(frame: Utf8Bytes) -> Value {
    serde_json::from_str(&frame).unwrap()
}

#[test]
fn a_frame_has_the_members_that_clients_know() {
    let event = event("bh.event.acc.call.CHANNEL_CREATE.a%2Eb");
    let frame = event.frame(&shape(View::Both, Some(&json!("r\"1")), Some("acc"))).unwrap();
    assert_eq!(
        parsed(frame),
        json!({
            "action": "event",
            "request_id": "r\"1",
            "subscribed_key": "call.*.*",
            "subscription_key": "call.acc.*.*",
            "name": "CHANNEL_CREATE",
            "routing_key": "call.acc.CHANNEL_CREATE.a%2Eb",
            "args": { "Event-Name": "CHANNEL_CREATE", "Call-ID": "a.b", "Server-ID": "s" },
            "data": { "event_name": "CHANNEL_CREATE", "call_id": "a.b" },
        })
    );
}

#[test]
fn a_view_chooses_the_members() {
    let event = event("bh.event.acc.call.CHANNEL_CREATE.a%2Eb");
    let args = event.frame(&shape(View::Args, None, Some("acc"))).unwrap();
    assert!(args.contains(&format!("\"args\":{BODY}}}")), "the body is spliced as it is: {args}");
    let args = parsed(args);
    assert!(args.get("data").is_none() && args.get("request_id").is_none());
    let data = parsed(event.frame(&shape(View::Data, None, Some("acc"))).unwrap());
    assert!(data.get("args").is_none() && data.get("data").is_some());
}

#[test]
fn an_event_of_a_realm_is_shown_with_the_account_that_asked() {
    let event = event("bh.event.@kid=2Eexample.call.CHANNEL_CREATE.a%2Eb");
    let frame = parsed(event.frame(&shape(View::Args, None, Some("acc"))).unwrap());
    assert_eq!(frame["routing_key"], "call.acc.CHANNEL_CREATE.a%2Eb");
}

#[test]
fn odd_keys_come_back_as_they_were() {
    let event = event("bh.event.acc.call.CHANNEL_CREATE.\"=20=2A");
    let frame = parsed(event.frame(&shape(View::Args, None, Some("acc"))).unwrap());
    assert_eq!(frame["routing_key"], "call.acc.CHANNEL_CREATE.\" *");
}

#[test]
fn what_amqp_ingest_did_not_publish_is_no_event() {
    let body = || Bytes::from_static(BODY.as_bytes());
    assert!(EventFrames::read("bh.event", "bh.event.acc", "N", body()).is_none());
    assert!(EventFrames::read("bh.event", "other.event.acc.key", "N", body()).is_none());
    assert!(EventFrames::read("bh.event", "bh.event.acc.key", "N\",\"x\":\"", body()).is_none());
    assert!(
        EventFrames::read("bh.event", "bh.event.acc.key", "N", Bytes::from_static(b"{\"a\":\"\xff\"}"))
            .is_none()
    );
}
