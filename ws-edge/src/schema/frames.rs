//! What the edge sends: replies, events, and the messages that answer no request.

use std::collections::BTreeSet;

use blackhole_common::catalogue::{Catalogue, Family};
use serde_json::{Value, json};

use super::{bindings, bodies::Body, with};
use crate::protocol::close::Close;

/// The `request_id` of a frame.
fn request_id() -> Value {
    json!({ "type": ["string", "number"] })
}

/// A reply to a request that succeeded.
pub(super) fn reply(data: &Value) -> Value {
    json!({
        "type": "object",
        "required": ["action", "request_id", "status", "data"],
        "properties": {
            "action": { "const": "reply" }, "request_id": request_id(), "status": { "const": "success" }, "data": data,
        },
    })
}

/// A reply to a request that failed.
pub(super) fn error() -> Value {
    with(reply(&errors()), json!({ "properties": { "status": { "const": "error" } } }))
}

/// The data of an error.
fn errors() -> Value {
    let errors = json!({ "type": "array", "items": { "type": "string" }, "minItems": 1, "maxItems": 1 });
    json!({ "type": "object", "required": ["errors"], "properties": { "errors": errors } })
}

/// The body of a refused request for an event stream: an error without an id.
pub(super) fn refused() -> Value {
    json!({
        "type": "object",
        "required": ["action", "status", "data"],
        "properties": { "action": { "const": "reply" }, "status": { "const": "error" }, "data": errors() },
    })
}

/// That events may be missing from an event stream.
pub(super) fn gap() -> Value {
    json!({
        "type": "object",
        "required": ["action", "reason"],
        "properties": { "action": { "const": "gap" }, "reason": { "type": "string" } },
    })
}

/// Why an event stream ends.
pub(super) fn close() -> Value {
    let codes: BTreeSet<u16> = Close::ALL.into_iter().map(Close::code).collect();
    json!({
        "type": "object",
        "required": ["action", "code", "reason"],
        "properties": {
            "action": { "const": "close" },
            "code": { "enum": codes, "description": "As the close codes of a WebSocket" },
            "reason": { "type": "string" },
        },
    })
}

/// The end of the state that a subscription began with.
pub(super) fn state() -> Value {
    json!({
        "type": "object",
        "required": ["action", "complete", "events"],
        "properties": {
            "action": { "const": "state" },
            "complete": { "const": true },
            "cursor": { "$ref": "#/components/schemas/cursor" },
            "events": { "type": "integer", "minimum": 0, "description": "How many frames the state had" },
            "kept_since": { "type": "integer", "description": "Older things may be missing: milliseconds since 1970" },
            "request_id": request_id(),
        },
    })
}

/// Bindings that have ended.
pub(super) fn revoked() -> Value {
    let text = json!({ "type": "string" });
    let one = json!({
        "type": "object",
        "required": ["account_id", "binding", "reason"],
        "properties": { "account_id": text, "binding": text, "reason": text },
    });
    json!({
        "type": "object",
        "required": ["action", "data"],
        "properties": {
            "action": { "const": "revoked" },
            "data": {
                "type": "object",
                "required": ["revoked", "subscriptions"],
                "properties": {
                    "revoked": { "type": "array", "items": one }, "subscriptions": { "type": "array", "items": text },
                },
            },
        },
    })
}

/// What all events have in common.
pub(super) fn event() -> Value {
    json!({
        "type": "object",
        "required": ["action", "subscribed_key", "subscription_key", "name", "routing_key"],
        "properties": {
            "action": { "const": "event" },
            "state": { "const": true, "description": "It tells what lives, and was published before" },
            "cursor": { "$ref": "#/components/schemas/cursor" },
            "request_id": request_id(),
            "subscribed_key": { "type": "string", "description": "The binding, exactly as the client wrote it" },
            "subscription_key": { "type": "string", "description": "The binding as an AMQP pattern" },
            "name": { "type": "string", "description": "The body's Event-Name" },
            "routing_key": { "type": "string", "description": "The event's AMQP routing key" },
            "args": { "type": "object", "description": "The body as KAZOO published it, with view=args and view=both" },
            "data": { "type": "object", "description": "The body normalized, with view=data and view=both" },
        },
    })
}

/// An event of one family. Its routing key tells it from others.
pub(super) fn family_event(family: &Family) -> Value {
    let keys = family.event.iter().map(|event| json!({ "pattern": bindings::key_pattern(event) }));
    let name = &family.name;
    json!({
        "allOf": [
            { "$ref": "#/components/schemas/event" },
            {
                "properties": {
                    "routing_key": { "anyOf": keys.collect::<Vec<_>>() },
                    "args": { "$ref": format!("#/components/schemas/{name}Args") },
                    "data": { "$ref": format!("#/components/schemas/{name}Data") },
                },
            },
        ],
    })
}

/// The schemas of a family: its name with an ending, and the schema.
pub(super) fn of_family(catalogue: &Catalogue, body: &Body) -> Vec<(String, Value)> {
    let Some(family) = catalogue.families().iter().find(|family| family.name == body.family) else {
        return Vec::new();
    };
    let name = &body.family;
    vec![
        (format!("{name}Event"), family_event(family)),
        (format!("{name}Args"), body.args.body_schema("Event-Name")),
        (format!("{name}Data"), body.data.body_schema("event_name")),
    ]
}
