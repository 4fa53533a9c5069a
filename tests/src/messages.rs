//! Every frame that [`Client`](crate::client::Client) receives, and every event of an
//! [`EventStream`](crate::event_stream::EventStream), is what `docs/asyncapi.yaml` says.

use std::sync::LazyLock;

use blackhole_common::catalogue::Catalogue;
use blackhole_dev::json_schema::Document;
use serde_json::Value;

static DOCUMENT: LazyLock<Document> = LazyLock::new(|| {
    let catalogue = Catalogue::load(None).unwrap();
    Document::new(ws_edge::schema::asyncapi(&catalogue)).unwrap()
});

/// The schemas of events, and the place of the pattern of their routing keys.
static EVENTS: LazyLock<Vec<(String, String)>> = LazyLock::new(|| {
    let schemas = DOCUMENT.get("#/components/schemas").unwrap().as_object().unwrap();
    let events = schemas.keys().filter(|name| name.ends_with("Event"));
    events
        .map(|name| {
            let at = format!("#/components/schemas/{name}");
            let keys = format!("{at}/allOf/1/properties/routing_key");
            (at, keys)
        })
        .collect()
});

fn check(name: &str, value: &Value) {
    let at = format!("#/components/schemas/{name}");
    if let Err(error) = DOCUMENT.check(&at, value) {
        panic!("{value} is no {name}: {error}");
    }
}

/// As [`check`], for a frame of the edge: it has no members that the schema does not know.
fn check_sent(name: &str, value: &Value) {
    check(name, value);
    let at = format!("#/components/schemas/{name}");
    // The body of an event is another schema's.
    let places = [("", value), ("/properties/data", &value["data"])];
    for (place, value) in places.into_iter().take(if name == "event" { 1 } else { 2 }) {
        let known = DOCUMENT.get(&format!("{at}{place}/properties")).and_then(Value::as_object);
        for name in value.as_object().into_iter().flatten().map(|(name, _)| name) {
            let is_known = known.is_none_or(|known| known.contains_key(name));
            assert!(is_known, "docs/asyncapi.yaml does not know {name} of {value}");
        }
    }
}

/// Checks a frame of the edge.
pub fn check_frame(frame: &Value) {
    match frame["action"].as_str() {
        Some("event") => {
            check_sent("event", frame);
            check_body(frame);
        }
        Some("state") => check_sent("state", frame),
        Some("revoked") => check_sent("revoked", frame),
        Some("reply") if frame["status"] == "error" => check_sent("error", frame),
        // Which action it answers is known to the request.
        Some("reply") => {}
        other => panic!("docs/asyncapi.yaml knows no {other:?}"),
    }
}

/// Checks an event of an event stream, which has this name.
pub fn check_stream_event(name: &str, data: &Value) {
    let messages = DOCUMENT.get("#/channels/events/x-event-names").and_then(|names| names[name].as_array());
    let messages = messages.unwrap_or_else(|| panic!("docs/asyncapi.yaml knows no event {name}: {data}"));
    match &messages[..] {
        [message] => check_sent(message.as_str().unwrap(), data),
        // The families.
        _ => {
            check_sent("event", data);
            assert_eq!(data.get("request_id"), None, "{data}");
            check_body(data);
        }
    }
}

/// Checks the answer to a request for an event stream that does not begin.
pub fn check_stream_refusal(status: u16, body: &Value) {
    let statuses = DOCUMENT.get("#/channels/events/x-refusals").and_then(Value::as_array).unwrap();
    assert!(statuses.contains(&status.into()), "docs/asyncapi.yaml knows no {status}");
    check_sent("eventsRefused", body);
}

/// Checks the body of an event of a family that the document knows. Tests that publish other bodies on purpose give them
/// a member `Odd`.
fn check_body(frame: &Value) {
    if frame["args"].get("Odd").or(frame["data"].get("odd")).is_some() {
        return;
    }
    for (event, keys) in EVENTS.iter() {
        if DOCUMENT.accepts(keys, &frame["routing_key"]) {
            assert_eq!(DOCUMENT.check(event, frame), Ok(()), "{frame}");
        }
    }
}

/// Checks a request that has succeeded, and its reply.
pub fn check_exchange(request: &Value, reply: &Value) {
    let action = match request["action"].as_str() {
        _ if reply["status"] != "success" => return,
        Some("relay.publish") => "relayPublish",
        Some("dialog.push") => "dialogPush",
        Some(action) => action,
        None => return,
    };
    check(action, request);
    check_sent(&format!("{action}Reply"), reply);
}
