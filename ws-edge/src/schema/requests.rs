//! The requests of clients.

use serde_json::{Map, Value, json};

use super::with;
use crate::protocol::request::{MAX_METADATA_BYTES, MAX_TEXT_BYTES};

/// The actions: the name, what it does, the schema of the request, and that of the reply's `data`.
pub(super) struct Action {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) request: Value,
    pub(super) reply: Value,
}

/// All actions.
pub(super) fn actions() -> [Action; 6] {
    let text = json!({ "type": "string" });
    let texts = json!({ "type": "array", "items": { "type": "string" } });
    let cursor = json!({ "$ref": "#/components/schemas/cursor" });
    let sent = || json!({ "type": "object", "maxProperties": 0 });
    [
        Action {
            name: "subscribe",
            about: "Subscribe to bindings of an account",
            request: subscription(subscribe_data(), true),
            reply: json!({
                "type": "object",
                "required": ["subscribed", "subscriptions"],
                "properties": {
                    "subscribed": texts, "subscriptions": texts, "cursor": cursor, "recovered": { "type": "boolean" },
                    "reason": text, "state": { "type": "boolean" }, "state_reason": text,
                },
            }),
        },
        Action {
            name: "unsubscribe",
            about: "End bindings: these, all of an account, or all",
            request: subscription(json!({ "type": ["object", "null"], "properties": bound() }), false),
            reply: json!({
                "type": "object",
                "required": ["unsubscribed", "subscribed", "subscriptions"],
                "properties": { "unsubscribed": texts, "subscribed": texts, "subscriptions": texts },
            }),
        },
        Action {
            name: "ping",
            about: "Check that the session is alive, or renew its token",
            request: request("ping", None),
            reply: json!({
                "type": "object", "required": ["response"],
                "properties": { "response": { "const": "pong" }, "cursor": cursor },
            }),
        },
        Action {
            name: "api",
            about: "Forward a request to KAZOO's HTTP API",
            request: request(
                "api",
                Some(json!({
                    "type": "object",
                    "required": ["endpoint"],
                    "properties": {
                        "verb": { "type": ["string", "null"], "description": "get (the default), put, post, patch or delete" },
                        "endpoint": { "type": "string", "maxLength": 4096, "description": "Path and query, such as /v2/about" },
                        "body": { "description": "A string is sent as it is, other JSON as JSON" },
                    },
                })),
            ),
            reply: json!({ "description": "The response's body, unchanged" }),
        },
        Action {
            name: "relay.publish",
            about: "Send a message to one KAZOO 5 process",
            request: request("relay.publish", Some(targeted(true))),
            reply: sent(),
        },
        Action {
            name: "dialog.push",
            about: "Send a message to a dialog of one KAZOO 5 process",
            request: request("dialog.push", Some(targeted(false))),
            reply: sent(),
        },
    ]
}

fn request(action: &str, data: Option<Value>) -> Value {
    let mut members = envelope(action);
    let mut required = vec!["action"];
    if let Some(data) = data {
        members.insert("data".into(), data);
        required.push("data");
    }
    json!({ "type": "object", "required": required, "properties": members })
}

/// The parameters of `subscribe` and `unsubscribe` may be beside `action` instead.
fn subscription(data: Value, is_subscribe: bool) -> Value {
    let action = if is_subscribe { "subscribe" } else { "unsubscribe" };
    let mut members = envelope(action);
    members.extend(bound());
    members.insert("data".into(), data);
    let schema = json!({ "type": "object", "required": ["action"], "properties": members });
    if !is_subscribe {
        return schema;
    }
    let more = json!({
        "properties": { "name": name(), "metadata": metadata() },
        "anyOf": [
            { "required": ["data"], "properties": { "data": { "type": "object" } } },
            { "required": ["binding"] },
            { "required": ["bindings"] },
        ],
    });
    with(schema, more)
}

fn envelope(action: &str) -> Map<String, Value> {
    let id = json!({
        "type": ["string", "number", "null"], "maxLength": MAX_TEXT_BYTES,
        "description": "Returned in the reply, and in the events of what this request subscribes",
    });
    let token = json!({ "type": ["string", "null"], "description": "Needed until the session has one" });
    Map::from_iter([
        ("action".into(), json!({ "const": action })),
        ("request_id".into(), id),
        ("auth_token".into(), token),
    ])
}

fn subscribe_data() -> Value {
    json!({
        "type": ["object", "null"],
        "properties": subscribe_members(),
        "anyOf": [{ "type": "null" }, { "required": ["binding"] }, { "required": ["bindings"] }],
    })
}

fn subscribe_members() -> Map<String, Value> {
    let mut members = bound();
    members.insert(
        "since".into(),
        json!({ "type": ["string", "null"], "description": "Where to start: an event's cursor, or a time back such as -5m" }),
    );
    members.insert(
        "state".into(),
        json!({ "type": ["boolean", "null"], "description": "Begin with the last event of each thing that lives" }),
    );
    members.insert("name".into(), name());
    members.insert("metadata".into(), metadata());
    members
}

/// The parameters of `subscribe` that are texts, but for the bindings.
pub(super) fn texts_of_subscribe() -> Map<String, Value> {
    let texts = subscribe_members()
        .into_iter()
        .filter(|(name, _)| ["account_id", "since", "name"].contains(&&**name));
    texts.map(|(name, schema)| (name, with(schema, json!({ "type": "string" })))).collect()
}

/// The view that a client asks for.
pub(super) fn view() -> Value {
    json!({
        "enum": ["args", "data", "both"],
        "description": "Where an event's body is: in `args` as KAZOO published it, in `data` normalized, or in both",
    })
}

/// The account and the bindings.
fn bound() -> Map<String, Value> {
    let account = json!({
        "type": ["string", "null"], "minLength": 1, "maxLength": MAX_TEXT_BYTES,
        "description": "Absent: the token's account. `*`: all, for superduper admins",
    });
    Map::from_iter([
        ("account_id".into(), account),
        ("binding".into(), json!({ "type": ["string", "null"], "minLength": 1 })),
        (
            "bindings".into(),
            json!({
                "type": ["array", "null"], "items": { "type": "string", "minLength": 1 },
                "description": "See the schema `binding`; ignored if `binding` is present",
            }),
        ),
    ])
}

fn name() -> Value {
    json!({ "type": ["string", "null"], "maxLength": MAX_TEXT_BYTES, "description": "The session's name in listings" })
}

fn metadata() -> Value {
    json!({ "description": format!("Any JSON of at most {MAX_METADATA_BYTES} bytes, shown in listings") })
}

fn targeted(with_params: bool) -> Value {
    let server = json!({ "type": "string", "minLength": 1, "maxLength": 255, "description": "The recipient, from an event's body" });
    let account = json!({ "type": ["string", "null"], "minLength": 1, "maxLength": MAX_TEXT_BYTES });
    let schema = json!({
        "type": "object",
        "properties": { "Server-ID": server, "server_id": server, "account_id": account },
        "anyOf": [{ "required": ["Server-ID"] }, { "required": ["server_id"] }],
    });
    if !with_params {
        return schema;
    }
    let params = json!({ "type": "object", "description": "The message" });
    with(schema, json!({ "properties": { "params": params }, "required": ["params"] }))
}
