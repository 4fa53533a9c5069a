//! Event streams: the channel that is a response over HTTP.

use serde_json::{Map, Value, json};

use super::{frames, requests};
use crate::protocol::event_stream::{Name, REFUSALS};

/// The version of AsyncAPI's HTTP binding.
const BINDING: &str = "0.3.0";

/// The messages that only event streams have: the name, what it says, and its schema.
pub(super) fn messages() -> [(&'static str, &'static str, Value); 3] {
    [
        ("gap", "Events may be missing", frames::gap()),
        ("close", "The last event: why the edge ends the stream", frames::close()),
        ("eventsRefused", "The stream does not begin", frames::refused()),
    ]
}

/// The request, which has no body.
pub(super) fn request() -> Value {
    let text = |about: &str| json!({ "type": "string", "description": about });
    let headers = json!({
        "type": "object",
        "properties": {
            "Authorization": text("The token: `Bearer TOKEN`, or the token alone"),
            "X-Auth-Token": text("The token, if there is no `Authorization`"),
            "Last-Event-ID": text("The cursor of the last event that the client got. It counts more than `since`"),
        },
    });
    json!({
        "name": "eventsRequest", "summary": "Begin an event stream",
        "bindings": { "http": { "headers": headers, "bindingVersion": BINDING } },
    })
}

/// The channel. `families` are the names of the messages that are events.
pub(super) fn channel(families: &[String]) -> Value {
    let names = Name::ALL.map(|name| (name.text().to_owned(), json!([message_of(name)])));
    let mut names = Map::from_iter(names);
    names.insert("message".to_owned(), json!(families));
    let own = ["eventsRequest", "eventsRefused"].map(str::to_owned);
    let sent = Name::ALL.map(|name| message_of(name).to_owned());
    let messages: Map<String, Value> = own
        .iter()
        .chain(&sent)
        .chain(families)
        .map(|name| (name.clone(), json!({ "$ref": format!("#/components/messages/{name}") })))
        .collect();
    json!({
        "address": "/events",
        "servers": [{ "$ref": "#/servers/edgeHttp" }],
        "description": "Server-Sent Events (HTML standard, 9.2). The data of each is a message as JSON in one line, its id a cursor. Its name, which is `message` if it has none, tells which message it is.",
        "messages": messages,
        "x-event-names": names,
        "x-refusals": REFUSALS,
    })
}

/// What an edge does on the channel.
pub(super) fn operations(families: &[String]) -> [(&'static str, Value); 2] {
    let channel = json!({ "$ref": "#/channels/events" });
    let message = |name: &str| json!({ "$ref": format!("#/channels/events/messages/{name}") });
    let mut sent: Vec<Value> = families.iter().map(|name| message(name)).collect();
    // The reply is that of the request.
    sent.extend(
        Name::ALL.into_iter().filter(|name| *name != Name::Reply).map(|name| message(message_of(name))),
    );
    let open = json!({
        "action": "receive",
        "summary": "Subscribe, over HTTP",
        "channel": channel,
        "bindings": { "http": { "method": "GET", "query": query(), "bindingVersion": BINDING } },
        "messages": [message("eventsRequest")],
        "reply": { "channel": channel, "messages": [message(message_of(Name::Reply)), message("eventsRefused")] },
    });
    let send = json!({
        "action": "send", "summary": "What an event stream brings", "channel": channel, "messages": sent,
    });
    [("openEvents", open), ("events", send)]
}

/// The message that an event of this name brings.
fn message_of(name: Name) -> &'static str {
    match name {
        Name::Reply => "subscribeReply",
        Name::Gap => "gap",
        Name::State => "state",
        Name::Revoked => "revoked",
        Name::Close => "close",
    }
}

/// The query: the parameters of `subscribe` that a text can have.
fn query() -> Value {
    let mut parameters = requests::texts_of_subscribe();
    let binding = json!({
        "type": "array", "items": { "$ref": "#/components/schemas/binding" }, "minItems": 1,
        "description": "The parameter may be there several times",
    });
    parameters.insert("binding".into(), binding);
    parameters.insert(
        "state".into(),
        json!({ "enum": ["true", "false"], "description": "Begin with the last event of each thing that lives" }),
    );
    parameters.insert("view".into(), requests::view());
    let token = "The token, for clients that can send no header. Discouraged: URLs are logged";
    parameters.insert("auth_token".into(), json!({ "type": "string", "description": token }));
    json!({ "type": "object", "required": ["binding"], "properties": parameters })
}
