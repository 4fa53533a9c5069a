//! A client's message, and the request to amqp-ingest that it becomes.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use blackhole_common::wire::TargetedRequest;
use serde_json::{Map, Value};

use crate::protocol::{
    request::{RequestError, account_id},
    token::Token,
};

/// The longest `Server-ID`, in bytes: it is an AMQP routing key.
const MAX_ID_BYTES: usize = 255;
/// Members that only the edge sets, normalized: a client's are dropped in every spelling.
const RESERVED: [&str; 11] = [
    "account_id",
    "app_name",
    "app_version",
    "deliver_to_pid",
    "event_category",
    "event_name",
    "msg_id",
    "node",
    "relay_id",
    "reply_to_pid",
    "server_id",
];

/// The action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `relay.publish`: the message is `data.params`.
    Relay,
    /// `dialog.push`: the message is `data` itself.
    Dialog,
}

impl Kind {
    /// The binding family that an operator stops to stop this action, too.
    pub(crate) fn family(self) -> &'static str {
        match self {
            Kind::Relay => "relay",
            Kind::Dialog => "dialog",
        }
    }
}

/// A client's message, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    kind: Kind,
    server_id: String,
    /// The account that it is sent for (`None`: the token's own).
    pub account_id: Option<String>,
    body: Map<String, Value>,
}

/// The client that sends a message.
#[derive(Debug)]
pub(crate) struct Sender<'a> {
    /// The account, as auth-svc granted it.
    pub(crate) account_id: &'a str,
    /// The session's token.
    pub(crate) token: &'a Token,
    /// The request's id, or a generated one.
    pub(crate) request_id: &'a Value,
}

impl Message {
    /// Reads a client's `data`.
    ///
    /// # Errors
    /// The first mistake.
    pub fn read(kind: Kind, mut data: Map<String, Value>) -> Result<Message, RequestError> {
        let invalid = |reason| RequestError::Invalid { key: "Server-ID", reason };
        let server_id = match data.remove("Server-ID").or_else(|| data.remove("server_id")) {
            None | Some(Value::Null) => return Err(RequestError::Missing("Server-ID")),
            Some(Value::String(id)) if !(1..=MAX_ID_BYTES).contains(&id.len()) => {
                return Err(invalid("must have 1 to 255 bytes"));
            }
            Some(Value::String(id)) if id.chars().any(char::is_control) => {
                return Err(invalid("must not have control characters"));
            }
            Some(Value::String(id)) => id,
            Some(_) => return Err(invalid("must be a string")),
        };
        let account_id = account_id(&mut data)?;
        if account_id.as_deref() == Some("*") {
            return Err(RequestError::Invalid { key: "account_id", reason: "must be one account" });
        }
        let mut body = match kind {
            Kind::Dialog => data,
            Kind::Relay => match data.remove("params") {
                None | Some(Value::Null) => return Err(RequestError::Missing("params")),
                Some(Value::Object(params)) => params,
                Some(_) => return Err(RequestError::Invalid { key: "params", reason: "must be an object" }),
            },
        };
        body.retain(|name, _| !RESERVED.contains(&name.to_ascii_lowercase().replace('-', "_").as_str()));
        Ok(Message { kind, server_id, account_id, body })
    }

    /// The request to amqp-ingest: the message with the members of `sender` and of the edge `node`.
    pub(super) fn into_request(self, sender: &Sender<'_>, node: &str) -> TargetedRequest {
        let Message { kind, server_id, mut body, .. } = self;
        let id = sender.request_id.as_str().map_or_else(|| sender.request_id.to_string(), str::to_owned);
        // In a relay, KAZOO sets `Server-ID` to its own queue for answers. The edge has none.
        let (category, name, reply_to) = match kind {
            Kind::Relay => ("relay", "broadcast", ""),
            Kind::Dialog => ("dialog", "push", server_id.as_str()),
        };
        let members = [
            ("Account-ID", sender.account_id),
            ("App-Name", "blackhole"),
            ("App-Version", env!("CARGO_PKG_VERSION")),
            ("Event-Category", category),
            ("Event-Name", name),
            ("Msg-ID", &id),
            ("Node", node),
            ("Server-ID", reply_to),
        ];
        body.extend(members.map(|(name, value)| (name.to_owned(), Value::from(value))));
        if kind == Kind::Relay
            && let Some(id) = token_id(sender.token.reveal())
        {
            body.insert("Relay-ID".to_owned(), Value::from(id));
        }
        TargetedRequest { server_id, zone: None, body }
    }
}

/// The id among a token's claims. auth-svc has already verified the signature.
fn token_id(token: &str) -> Option<String> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Map<String, Value> = serde_json::from_slice(&claims).ok()?;
    ["_id", "id"].iter().find_map(|name| claims.get(*name)?.as_str().map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(kind: Kind, data: Value) -> Result<Message, String> {
        let Value::Object(data) = data else { panic!() };
        Message::read(kind, data).map_err(|error| error.to_string())
    }

    fn request(message: Message, claims: &Value) -> Value {
        let token = format!("e30.{}.x", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let sender = Sender { account_id: "granted", token: &Token::new(&token), request_id: &json!("r1") };
        serde_json::to_value(message.into_request(&sender, "blackhole@edge1")).unwrap()
    }

    #[test]
    fn a_relay_carries_its_params_and_the_tokens_id() {
        let data =
            json!({ "Server-ID": "q1", "account_id": "a", "params": { "Text": "hi", "n": { "Node": 1 } } });
        let message = read(Kind::Relay, data).unwrap();
        assert_eq!(message.account_id.as_deref(), Some("a"));
        let expected = json!({
            "server_id": "q1",
            "body": {
                "Text": "hi", "n": { "Node": 1 }, "Account-ID": "granted", "Relay-ID": "t1", "Server-ID": "",
                "Event-Category": "relay", "Event-Name": "broadcast", "Msg-ID": "r1",
                "App-Name": "blackhole", "App-Version": env!("CARGO_PKG_VERSION"), "Node": "blackhole@edge1",
            },
        });
        assert_eq!(request(message.clone(), &json!({ "id": "t1" })), expected);
        let without_id = request(message, &json!({ "account_id": "a" }));
        assert_eq!(without_id["body"].get("Relay-ID"), None);
        assert_eq!(token_id("nonsense"), None);
    }

    #[test]
    fn a_push_is_the_data_itself() {
        let message =
            read(Kind::Dialog, json!({ "server_id": "q1", "Call-ID": "c", "params": [1] })).unwrap();
        let request = request(message, &json!({ "id": "t1" }));
        assert_eq!(
            request["body"],
            json!({
                "Call-ID": "c", "params": [1], "Account-ID": "granted", "Server-ID": "q1",
                "Event-Category": "dialog", "Event-Name": "push", "Msg-ID": "r1",
                "App-Name": "blackhole", "App-Version": env!("CARGO_PKG_VERSION"), "Node": "blackhole@edge1",
            })
        );
    }

    #[test]
    fn a_client_cannot_set_reserved_members_in_any_spelling() {
        let reserved = json!({
            "Account-ID": "victim", "account-id": "victim", "ACCOUNT_ID": "victim", "Event-Name": "x",
            "event_category": "x", "Node": "x", "app-name": "x", "Relay-ID": "x", "Msg-ID": "x", "SERVER-ID": "x",
            "Reply-To-PID": "x", "deliver-to-pid": "x",
        });
        let mut pushed = reserved.clone();
        pushed["Server-ID"] = json!("q1");
        for message in [
            read(Kind::Relay, json!({ "Server-ID": "q1", "params": reserved })).unwrap(),
            read(Kind::Dialog, pushed).unwrap(),
        ] {
            let body = request(message, &json!({}))["body"].to_string();
            assert!(!body.contains("victim") && !body.contains("\"x\""), "{body}");
        }
    }

    #[test]
    fn each_mistake_has_its_text() {
        for (data, expected) in [
            (json!({ "params": {} }), "missing required keys : Server-ID"),
            (json!({ "Server-ID": "", "params": {} }), "invalid Server-ID : must have 1 to 255 bytes"),
            (
                json!({ "Server-ID": "x".repeat(256), "params": {} }),
                "invalid Server-ID : must have 1 to 255 bytes",
            ),
            (
                json!({ "Server-ID": "a\nb", "params": {} }),
                "invalid Server-ID : must not have control characters",
            ),
            (json!({ "Server-ID": 5, "params": {} }), "invalid Server-ID : must be a string"),
            (json!({ "Server-ID": "q" }), "missing required keys : params"),
            (json!({ "Server-ID": "q", "params": [] }), "invalid params : must be an object"),
            (
                json!({ "Server-ID": "q", "params": {}, "account_id": "*" }),
                "invalid account_id : must be one account",
            ),
        ] {
            assert_eq!(read(Kind::Relay, data.clone()), Err(expected.to_owned()), "{data}");
        }
    }
}
