//! Events from NATS, and the frames that clients get.

use bytes::{Buf, Bytes};
use ws_edge::{
    delivery::frame::{builder::EventFrames, event::Event, shown_key::ShownKey, template::FrameTemplate},
    protocol::{
        cursor::{EventPosition, StreamId},
        event_stream::Framing,
        view::View,
    },
};

use crate::json::Json;

/// Lines: the subject below the event root, the name, the body. Of a body that the ingest accepts, a frame is JSON and has
/// what was published.
pub(crate) fn run(input: &[u8]) -> bool {
    let mut lines = input.splitn(3, |byte| *byte == b'\n');
    let mut line = || Bytes::copy_from_slice(lines.next().unwrap_or_default());
    let (below, name, body) = (line(), line(), line());
    let position = EventPosition { stream: StreamId::new("t"), sequence: input.len() as u64 };
    let event = Event {
        subject: [b"ev.", &below[..]].concat().into(),
        name,
        body: body.clone(),
        owner: Bytes::new(),
        position: input.len().is_multiple_of(2).then_some(position),
    };
    let Some(frames) = EventFrames::read("ev", &event) else { return false };
    assert_eq!(Some(frames.tenant()), std::str::from_utf8(&below).unwrap().split('.').next());
    let is_published = amqp_ingest::body::parse(&body, &[]).is_ok();
    for view in [View::Args, View::Data, View::Both] {
        let template = FrameTemplate::new(view, None, "*", "call.*.*", "call.*.*", ShownKey::AsPublished);
        let Some(frame) = frames.frame(&template, false) else {
            assert!(!is_published && view != View::Args);
            continue;
        };
        let json = payload(frame.ready().unwrap().clone());
        let streamed = frames.frame(&template.framed(Framing::EventStream), false).unwrap();
        let in_stream = data(streamed.ready().unwrap(), event.position.is_some());
        if !is_published {
            continue;
        }
        let json = Json::parse(&json).unwrap();
        assert_eq!(Some(&json), Json::parse(in_stream).as_ref());
        assert_eq!(json.text("action"), Some("event"));
        assert_eq!(json.text("cursor").is_some(), event.position.is_some());
        assert!(json.text("name").is_some() && json.text("routing_key").is_some());
        if view != View::Data {
            assert_eq!(json.get("args"), Json::parse(&body).as_ref());
        }
        assert_eq!(json.get("data").is_some(), view != View::Args);
    }
    is_published
}

/// The data of an event of an event stream: one line, perhaps after an id.
fn data(event: &[u8], has_id: bool) -> &[u8] {
    let text = event.strip_suffix(b"\n\n").unwrap();
    let is_line_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
    let lines: Vec<&[u8]> = text.split(is_line_end).collect();
    assert_eq!(lines.len(), 1 + usize::from(has_id));
    assert!(!has_id || lines[0].starts_with(b"id: "));
    lines.last().unwrap().strip_prefix(b"data: ").unwrap()
}

/// The payload of a final text frame without a mask.
fn payload(mut frame: Bytes) -> Bytes {
    assert_eq!(frame.get_u8(), 0x81);
    let length = match frame.get_u8() {
        126 => u64::from(frame.get_u16()),
        127 => frame.get_u64(),
        length => u64::from(length),
    };
    assert_eq!(length, frame.len() as u64);
    frame
}
