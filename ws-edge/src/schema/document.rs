//! The AsyncAPI document.

use blackhole_common::{catalogue::Catalogue, version};
use serde_json::{Map, Value, json};

use super::{bindings, bodies, event_streams, frames, requests};
use crate::protocol::close::Close;

/// What the document describes once, and its channels and operations refer to.
#[derive(Default)]
struct Components {
    messages: Map<String, Value>,
    schemas: Map<String, Value>,
}

impl Components {
    /// Adds a message, whose payload has this schema.
    fn add(&mut self, name: &str, summary: &str, schema: Value) {
        let payload = json!({ "$ref": format!("#/components/schemas/{name}") });
        self.messages
            .insert(name.to_owned(), json!({ "name": name, "summary": summary, "payload": payload }));
        self.schemas.insert(name.to_owned(), schema);
    }
}

/// The whole document, for a catalogue.
pub fn asyncapi(catalogue: &Catalogue) -> Value {
    let mut components = Components::default();
    let mut operations = Map::new();

    components.add("error", "A request failed", frames::error());
    for action in requests::actions() {
        let name = camel(action.name);
        let reply = format!("{name}Reply");
        components.add(&name, action.about, action.request);
        components.add(&reply, &format!("{} succeeded", action.name), frames::reply(&action.reply));
        let operation = json!({
            "action": "receive",
            "summary": action.about,
            "channel": channel(),
            "messages": [message(&name)],
            "reply": { "channel": channel(), "messages": [message(&reply), message("error")] },
        });
        operations.insert(name, operation);
    }

    let mut families = Vec::new();
    let mut bodies_of_families = Vec::new();
    for body in bodies::all(catalogue) {
        for (name, schema) in frames::of_family(catalogue, &body) {
            if name.ends_with("Event") {
                components.add(&name, &format!("An event of the family {}", body.family), schema);
                families.push(name);
            } else {
                bodies_of_families.push((name, schema));
            }
        }
    }
    operations.insert(
        "event".into(),
        json!({
            "action": "send", "summary": "An event of what is subscribed", "channel": channel(),
            "messages": families.iter().map(|name| message(name)).collect::<Vec<_>>(),
        }),
    );
    for (name, summary, schema) in [
        ("state", "The state that a subscription began with is complete", frames::state()),
        ("revoked", "Bindings have ended, because they are no longer granted", frames::revoked()),
    ] {
        components.add(name, summary, schema);
        operations.insert(
            name.into(),
            json!({
                "action": "send", "summary": summary, "channel": channel(), "messages": [message(name)],
            }),
        );
    }

    let of_session: Map<String, Value> = components
        .messages
        .keys()
        .map(|name| (name.clone(), json!({ "$ref": format!("#/components/messages/{name}") })))
        .collect();

    for (name, summary, schema) in event_streams::messages() {
        components.add(name, summary, schema);
    }
    let Components { mut messages, mut schemas } = components;
    messages.insert("eventsRequest".into(), event_streams::request());
    operations
        .extend(event_streams::operations(&families).map(|(name, operation)| (name.to_owned(), operation)));

    schemas.extend(bodies_of_families);
    schemas.insert("event".into(), frames::event());
    schemas.insert("binding".into(), bindings::schema(catalogue));
    let cursor = "A position in the history, for `since`. Opaque; its form has versions";
    schemas.insert("cursor".into(), json!({ "type": "string", "maxLength": 256, "description": cursor }));
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Blackhole",
            "version": version::RELEASE,
            "description": "KAZOO's events over WebSockets and as Server-Sent Events. The edge's view: it receives requests, and sends replies and events. There may be more members than these: ignore unknown ones.",
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "defaultContentType": "application/json",
        "servers": {
            "edge": {
                "host": "localhost:5555",
                "protocol": "ws",
                "description": "An edge. Behind a proxy with TLS it is wss.",
            },
            "edgeHttp": {
                "host": "localhost:5555",
                "protocol": "http",
                "description": "The same port. Behind a proxy with TLS it is https.",
            },
        },
        "channels": {
            "session": {
                "address": "/",
                "servers": [{ "$ref": "#/servers/edge" }],
                "description": "A WebSocket at any path: one JSON object in each text frame. The token may be in the header Authorization.",
                "bindings": { "ws": {
                    "method": "GET",
                    "query": { "type": "object", "properties": { "view": requests::view() } },
                } },
                "messages": of_session,
                "x-close-codes": close_codes(),
            },
            "events": event_streams::channel(&families),
        },
        "operations": operations,
        "components": { "messages": messages, "schemas": schemas },
    })
}

fn channel() -> Value {
    json!({ "$ref": "#/channels/session" })
}

fn message(name: &str) -> Value {
    json!({ "$ref": format!("#/channels/session/messages/{name}") })
}

/// `relay.publish` as the name of a message.
fn camel(action: &str) -> String {
    let mut words = action.split('.');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let mut letters = word.chars();
        let initial = letters.next().map(|letter| letter.to_ascii_uppercase());
        name + &initial.into_iter().chain(letters).collect::<String>()
    })
}

/// The close codes and their texts.
fn close_codes() -> Value {
    let mut codes: Map<String, Value> = Map::new();
    for close in Close::ALL {
        let reasons = codes.entry(close.code().to_string()).or_insert_with(|| json!([]));
        if let Value::Array(reasons) = reasons {
            reasons.push(close.frame().reason.as_str().into());
        }
    }
    Value::Object(codes)
}
