use blackhole_common::catalogue::Catalogue;
use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::{
    delivery::frame::shown_key::ShownKey,
    outbox::{Outbox, tests::Kept},
    protocol::{cursor::StreamId, deflate},
};

const BODY: &str = r#"{"Event-Name":"CHANNEL_CREATE","Call-ID":"a.b","Server-ID":"s"}"#;

fn template(view: View, request_id: Option<&Value>, account: Option<&str>) -> FrameTemplate {
    let catalogue = Catalogue::load(None).unwrap();
    let event = catalogue.event("callevt", "call.CHANNEL_CREATE.a%2Eb").unwrap();
    FrameTemplate::new(
        view,
        request_id,
        account.unwrap_or("*"),
        "call.*.*",
        "call.acc.*.*",
        ShownKey::of(event, account),
    )
}

fn event(subject: &'static str) -> Event {
    named(subject, "CHANNEL_CREATE", BODY.as_bytes())
}

fn named(subject: &'static str, name: &'static str, body: &'static [u8]) -> Event {
    let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
    Event {
        subject: bytes(subject),
        name: bytes(name),
        body: Bytes::from_static(body),
        owner: Bytes::new(),
        position: None,
    }
}

fn frame(event: &Event, template: &FrameTemplate) -> String {
    let frame = EventFrames::read("bh.event", event).unwrap().frame(template, false).unwrap();
    payload(frame.ready().unwrap())
}

/// The text of a frame, read as RFC 6455 says.
pub(crate) fn payload(frame: &[u8]) -> String {
    assert_eq!(frame[0], 0x81, "a final text frame");
    let (length, rest) = match frame[1] {
        length @ 0..=125 => (usize::from(length), &frame[2..]),
        126 => (usize::from(u16::from_be_bytes([frame[2], frame[3]])), &frame[4..]),
        length => {
            assert_eq!(length, 127, "a server's frame is not masked");
            (u64::from_be_bytes(frame[2..10].try_into().unwrap()) as usize, &frame[10..])
        }
    };
    assert_eq!(length, rest.len());
    String::from_utf8(rest.to_vec()).unwrap()
}

fn parsed(frame: String) -> Value {
    serde_json::from_str(&frame).unwrap()
}

#[test]
fn a_frame_has_the_members_that_clients_know() {
    let event = event("bh.event.acc.call.CHANNEL_CREATE.a%2Eb");
    let frame = frame(&event, &template(View::Both, Some(&json!("r\"1")), Some("acc")));
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
fn a_kept_event_is_marked() {
    let event = event("bh.event.acc.call.CHANNEL_CREATE.a%2Eb");
    let template = template(View::Args, None, Some("acc"));
    let kept = EventFrames::read("bh.event", &event).unwrap().kept().frame(&template, false).unwrap();
    let unmarked = payload(kept.ready().unwrap()).replacen(r#""state":true,"#, "", 1);
    assert_eq!(unmarked, frame(&event, &template));
    assert_eq!(parsed(payload(kept.ready().unwrap()))["state"], true);
}

#[test]
fn a_view_chooses_the_members() {
    let event = event("bh.event.acc.call.CHANNEL_CREATE.a%2Eb");
    let args = frame(&event, &template(View::Args, None, Some("acc")));
    assert!(args.contains(&format!("\"args\":{BODY}}}")), "the body is spliced as it is: {args}");
    let args = parsed(args);
    assert!(args.get("data").is_none() && args.get("request_id").is_none());
    let data = parsed(frame(&event, &template(View::Data, None, Some("acc"))));
    assert!(data.get("args").is_none() && data.get("data").is_some());
}

#[test]
fn an_event_of_a_realm_is_shown_with_the_account_that_asked() {
    let event = event("bh.event.@kid=2Eexample.call.CHANNEL_CREATE.a%2Eb");
    let frame = parsed(frame(&event, &template(View::Args, None, Some("acc"))));
    assert_eq!(frame["routing_key"], "call.acc.CHANNEL_CREATE.a%2Eb");
}

#[test]
fn an_account_with_quotes_adds_nothing_to_a_frame() {
    let event = event(r#"bh.event.a","args":"b.call.CHANNEL_CREATE.x"#);
    let frame = parsed(frame(&event, &template(View::Data, None, None)));
    assert_eq!(frame["routing_key"], r#"call.a","args":"b.CHANNEL_CREATE.x"#);
    assert!(frame.get("args").is_none());
}

#[test]
fn odd_keys_come_back_as_they_were() {
    let event = event("bh.event.acc.call.CHANNEL_CREATE.\"=20=2A");
    let frame = parsed(frame(&event, &template(View::Args, None, Some("acc"))));
    assert_eq!(frame["routing_key"], "call.acc.CHANNEL_CREATE.\" *");
}

#[test]
fn a_cursor_comes_first_where_there_is_a_history() {
    let position = EventPosition { stream: StreamId::new("t"), sequence: 7 };
    let event = Event { position: Some(position), ..event("bh.event.acc.call.CHANNEL_CREATE.a%2Eb") };
    let text = frame(&event, &template(View::Args, None, Some("acc")));
    assert!(text.starts_with(r#"{"action":"event","cursor":""#), "{text}");
    let shown = parsed(text)["cursor"].as_str().map(Cursor::parse);
    assert_eq!(shown, Some(Ok(Cursor { position, rank: Rank::of("acc", "call.*.*") })));
}

#[test]
fn frames_of_every_size_say_how_long_they_are() {
    let template = template(View::Args, None, Some("acc"));
    for bytes in [0, 60, 60_000, 66_000, 200_000] {
        let body: &'static str = format!("{{\"x\":\"{}\"}}", "y".repeat(bytes)).leak();
        let text = frame(&named("bh.event.acc.call.X.1", "X", body.as_bytes()), &template);
        assert!(text.ends_with(&format!("{body}}}")));
    }
}

#[test]
fn compressed_frames_are_those_that_are_not() {
    let body: &'static str = format!(r#"{{"Call-ID":"a","Note":"{}"}}"#, "again ".repeat(200)).leak();
    let event = named("bh.event.acc.call.CHANNEL_CREATE.a", "CHANNEL_CREATE", body.as_bytes());
    let event = Event { position: Some(EventPosition { stream: StreamId::new("t"), sequence: 5 }), ..event };
    let outbox_gets = |frame: Frame| {
        let kept = Arc::new(Kept::default());
        let outbox = Outbox::new(1, 1 << 20, Arc::clone(&kept) as _, Arc::default()).compressed(true);
        outbox.push_own(frame);
        outbox.flush();
        kept.take()
    };
    // One event's frames share what they end with.
    let frames = EventFrames::read("bh.event", &event).unwrap();
    for view in [View::Args, View::Data, View::Both] {
        for (request_id, account) in [(None, None), (Some(json!("one")), None), (Some(json!(2)), Some("acc"))]
        {
            let template = || template(view, request_id.as_ref(), account);
            let plain = payload(&outbox_gets(frames.frame(&template(), true).unwrap()));
            let template = template().framed(Framing::CompressedWebSocket);
            let compressed = outbox_gets(frames.frame(&template, true).unwrap());
            assert_eq!(compressed[..2], [0xc1, 126], "{} bytes", compressed.len());
            let text = deflate::decompress(&compressed[4..], 10_000).unwrap();
            assert_eq!(String::from_utf8(text).unwrap(), plain);
            assert!(compressed.len() < 500, "{} bytes", compressed.len());
        }
    }
}

#[test]
fn what_amqp_ingest_did_not_publish_is_no_event() {
    for event in [
        named("bh.event.acc", "N", BODY.as_bytes()),
        named("other.event.acc.key", "N", BODY.as_bytes()),
        named("bh.event.acc.key", "N\",\"x\":\"", BODY.as_bytes()),
        named("bh.event.acc.key", "N", b"{\"a\":\"\xff\"}"),
    ] {
        assert!(EventFrames::read("bh.event", &event).is_none(), "{event:?}");
    }
}
