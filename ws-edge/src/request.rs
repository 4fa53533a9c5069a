//! What clients send: one JSON object per text frame.

use std::time::Duration;

use serde_json::{Map, Value};
use thiserror::Error;

use crate::{
    authorizer::Token,
    crossbar::Call,
    cursor::{Cursor, MALFORMED, TEXT_BYTES},
    targeted::{Kind, Message},
};

/// The longest `request_id`, `name`, in bytes.
const MAX_TEXT_BYTES: usize = 256;
/// The largest `metadata`, in bytes of JSON.
const MAX_METADATA_BYTES: usize = 4096;

/// A request, taken apart as far as every action needs it.
#[derive(Debug)]
pub struct Request {
    /// As the client gave it, if it did: a text or a number.
    pub request_id: Option<Value>,
    /// The token, if there is one.
    pub token: Option<Token>,
    members: Map<String, Value>,
}

/// What a client wants done.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Events of these bindings of an account (`None`: the token's own; `*`: all).
    Subscribe {
        /// The account.
        account_id: Option<String>,
        /// The bindings, at least one, each once.
        bindings: Vec<String>,
        /// From when on.
        since: Option<Since>,
        /// What the session is called from now on.
        about: About,
    },
    /// No more events of these bindings (`None`: of all) of an account (`None`: the token's own).
    Unsubscribe {
        /// The account.
        account_id: Option<String>,
        /// The bindings.
        bindings: Option<Vec<String>>,
    },
    /// No more events at all.
    UnsubscribeAll,
    /// A sign of life.
    Ping,
    /// A request for Crossbar.
    Api(Call),
    /// A message for one process of KAZOO.
    Send(Message),
}

/// From when on events are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// Behind this event.
    Cursor(Cursor),
    /// So long ago.
    Back(Duration),
}

/// A friendly name and free JSON that a client may give its session.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct About {
    /// The name.
    pub name: Option<String>,
    /// Free JSON.
    pub metadata: Option<Value>,
}

/// A mistake of the client; the text is what it reads.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RequestError {
    /// No JSON, or nested too deeply.
    #[error("malformed JSON : {0}")]
    Json(String),
    /// JSON, but no object.
    #[error("a request is one JSON object")]
    NotAnObject,
    /// Members that have to be there.
    #[error("missing required keys : {0}")]
    Missing(&'static str),
    /// A member of the wrong type or size.
    #[error("invalid {key} : {reason}")]
    Invalid {
        /// The member.
        key: &'static str,
        /// What it has to be.
        reason: &'static str,
    },
    /// An action that there is not.
    #[error("unknown action : {0}")]
    Action(String),
    /// Bindings without one.
    #[error("empty subscription")]
    Empty,
}

impl Request {
    /// Reads a frame.
    ///
    /// # Errors
    /// When it is no object, or its request id or token are no texts.
    pub fn read(frame: &str) -> Result<Request, RequestError> {
        let value: Value =
            serde_json::from_str(frame).map_err(|error| RequestError::Json(error.to_string()))?;
        let Value::Object(mut members) = value else { return Err(RequestError::NotAnObject) };
        let request_id = match members.remove("request_id") {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) if text.len() > MAX_TEXT_BYTES => {
                return Err(RequestError::Invalid { key: "request_id", reason: "longer than 256 bytes" });
            }
            Some(id @ (Value::String(_) | Value::Number(_))) => Some(id),
            Some(_) => {
                return Err(RequestError::Invalid {
                    key: "request_id",
                    reason: "must be a string or a number",
                });
            }
        };
        let token = optional_text(members.remove("auth_token"), "auth_token")?
            .filter(|token| !token.is_empty())
            .map(|token| Token::new(&token));
        Ok(Request { request_id, token, members })
    }

    /// The request id of a frame that is not looked at any further, if it has a usable one.
    pub fn id_of(frame: &str) -> Option<Value> {
        let value: Value = serde_json::from_str(frame).ok()?;
        match value.get("request_id")? {
            Value::String(text) if text.len() > MAX_TEXT_BYTES => None,
            id @ (Value::String(_) | Value::Number(_)) => Some(id.clone()),
            _ => None,
        }
    }

    /// The account that the request is about, as far as it can be told before the request is looked at closely.
    pub fn account_id(&self) -> Option<&str> {
        self.members.get("data")?.get("account_id")?.as_str()
    }

    /// What is to be done.
    ///
    /// # Errors
    /// The first mistake.
    pub fn action(mut self) -> Result<Action, RequestError> {
        let action = match self.members.remove("action") {
            None => return Err(RequestError::Missing("action")),
            Some(action) => text(action, "action")?,
        };
        match action.as_str() {
            "ping" => Ok(Action::Ping),
            "subscribe" => self.subscribe(),
            "unsubscribe" => self.unsubscribe(),
            "api" => Ok(Action::Api(Call::read(self.needed_data()?)?)),
            "relay.publish" => Ok(Action::Send(Message::read(Kind::Relay, self.needed_data()?)?)),
            "dialog.push" => Ok(Action::Send(Message::read(Kind::Dialog, self.needed_data()?)?)),
            _ => Err(RequestError::Action(action.chars().take(64).collect())),
        }
    }

    fn subscribe(mut self) -> Result<Action, RequestError> {
        let mut data = self.needed_data()?;
        let about = self.about(&mut data)?;
        let account_id = account_id(&mut data)?;
        let bindings = bindings(&mut data)?.ok_or(RequestError::Missing("binding"))?;
        if bindings.is_empty() {
            return Err(RequestError::Empty);
        }
        let since = optional_text(data.remove("since"), "since")?.map(|text| since(&text)).transpose()?;
        Ok(Action::Subscribe { account_id, bindings, since, about })
    }

    fn unsubscribe(mut self) -> Result<Action, RequestError> {
        let Some(mut data) = self.data()? else { return Ok(Action::UnsubscribeAll) };
        let account_id = account_id(&mut data)?;
        let bindings = bindings(&mut data)?;
        if account_id.is_none() && bindings.is_none() {
            return Ok(Action::UnsubscribeAll);
        }
        Ok(Action::Unsubscribe { account_id, bindings })
    }

    fn needed_data(&mut self) -> Result<Map<String, Value>, RequestError> {
        self.data()?.ok_or(RequestError::Missing("data"))
    }

    fn data(&mut self) -> Result<Option<Map<String, Value>>, RequestError> {
        match self.members.remove("data") {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(data)) => Ok(Some(data)),
            Some(_) => Err(RequestError::Invalid { key: "data", reason: "must be an object" }),
        }
    }

    /// Name and metadata stand in `data` (the documentation's page) or at the top level (KAZOO 4.3).
    fn about(&mut self, data: &mut Map<String, Value>) -> Result<About, RequestError> {
        let name = optional_text(data.remove("name").or_else(|| self.members.remove("name")), "name")?;
        if name.as_ref().is_some_and(|name| name.len() > MAX_TEXT_BYTES) {
            return Err(RequestError::Invalid { key: "name", reason: "longer than 256 bytes" });
        }
        let metadata = data
            .remove("metadata")
            .or_else(|| self.members.remove("metadata"))
            .filter(|value| !value.is_null());
        if metadata.as_ref().is_some_and(|metadata| metadata.to_string().len() > MAX_METADATA_BYTES) {
            return Err(RequestError::Invalid { key: "metadata", reason: "larger than 4096 bytes" });
        }
        Ok(About { name, metadata })
    }
}

/// `binding` is picked where both are present, says the documentation's page.
fn bindings(data: &mut Map<String, Value>) -> Result<Option<Vec<String>>, RequestError> {
    let mut bindings = match (data.remove("binding"), data.remove("bindings")) {
        (Some(binding), _) if !binding.is_null() => vec![text(binding, "binding")?],
        (_, Some(Value::Array(bindings))) => {
            bindings.into_iter().map(|binding| text(binding, "bindings")).collect::<Result<Vec<_>, _>>()?
        }
        (_, None | Some(Value::Null)) => return Ok(None),
        _ => return Err(RequestError::Invalid { key: "bindings", reason: "must be a list of strings" }),
    };
    if bindings.iter().any(String::is_empty) {
        return Err(RequestError::Empty);
    }
    let mut seen = std::collections::HashSet::new();
    bindings.retain(|binding| seen.insert(binding.clone()));
    Ok(Some(bindings))
}

/// The account that `data` is about; `None` for the token's own.
pub(crate) fn account_id(data: &mut Map<String, Value>) -> Result<Option<String>, RequestError> {
    let account_id = optional_text(data.remove("account_id"), "account_id")?;
    match &account_id {
        Some(id) if id.is_empty() || id.len() > MAX_TEXT_BYTES => {
            Err(RequestError::Invalid { key: "account_id", reason: "must have 1 to 256 bytes" })
        }
        _ => Ok(account_id),
    }
}

/// A cursor, or a time back: `-5m`.
fn since(text: &str) -> Result<Since, RequestError> {
    let since = match text.strip_prefix('-').filter(|_| text.len() < TEXT_BYTES) {
        Some(back) => humantime::parse_duration(back).ok().map(Since::Back),
        None => Cursor::parse(text).ok().map(Since::Cursor),
    };
    since.ok_or(RequestError::Invalid { key: "since", reason: MALFORMED })
}

fn text(value: Value, key: &'static str) -> Result<String, RequestError> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err(RequestError::Invalid { key, reason: "must be a string" }),
    }
}

fn optional_text(value: Option<Value>, key: &'static str) -> Result<Option<String>, RequestError> {
    value.filter(|value| !value.is_null()).map(|value| text(value, key)).transpose()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cursor::{Identity, Place, Rank};

    fn action(value: Value) -> Result<Action, String> {
        Request::read(&value.to_string()).and_then(Request::action).map_err(|error| error.to_string())
    }

    fn subscribe(data: Value) -> Result<(Option<String>, Vec<String>, About), String> {
        match action(json!({ "action": "subscribe", "data": data }))? {
            Action::Subscribe { account_id, bindings, about, .. } => Ok((account_id, bindings, about)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn binding_is_picked_first_over_bindings() {
        let both = subscribe(json!({ "binding": "a", "bindings": ["b", "c"] })).unwrap();
        assert_eq!(both.1, ["a"]);
        let many = subscribe(json!({ "account_id": "x", "bindings": ["b", "c", "b"] })).unwrap();
        assert_eq!(many, (Some("x".into()), vec!["b".into(), "c".into()], About::default()));
    }

    #[test]
    fn name_and_metadata_stand_in_either_place() {
        let inside =
            subscribe(json!({ "binding": "a", "name": "n", "metadata": { "test": "test" } })).unwrap().2;
        assert_eq!(inside, About { name: Some("n".into()), metadata: Some(json!({ "test": "test" })) });
        let outside =
            action(json!({ "action": "subscribe", "name": "n", "metadata": 1, "data": { "binding": "a" } }))
                .unwrap();
        assert!(
            matches!(outside, Action::Subscribe { about, .. } if about.name.as_deref() == Some("n") && about.metadata == Some(json!(1)))
        );
    }

    #[test]
    fn the_past_is_named_by_a_cursor_or_a_time() {
        let since = |since: Value| match action(
            json!({ "action": "subscribe", "data": { "binding": "a", "since": since } }),
        ) {
            Ok(Action::Subscribe { since, .. }) => Ok(since),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error),
        };
        let place = Place { stream: Identity::new("t"), sequence: 7 };
        let cursor = Cursor { place, rank: Rank::of("a", "b") };
        let text = String::from_utf8(cursor.to_text().to_vec()).unwrap();
        assert_eq!(since(json!(text)), Ok(Some(Since::Cursor(cursor))));
        assert_eq!(since(json!("-5m")), Ok(Some(Since::Back(Duration::from_secs(300)))));
        assert_eq!(since(json!("-1h 30m")), Ok(Some(Since::Back(Duration::from_secs(5400)))));
        assert_eq!(since(Value::Null), Ok(None));
        for bad in ["", "-", "-5", "5m", "--5m", "yesterday", &text[1..]] {
            let expected = "invalid since : must be the cursor of an event, or a time back such as -5m";
            assert_eq!(since(json!(bad)), Err(expected.to_owned()), "{bad}");
        }
        assert_eq!(since(json!(5)), Err("invalid since : must be a string".to_owned()));
    }

    #[test]
    fn unsubscribe_names_some_or_all() {
        assert_eq!(action(json!({ "action": "unsubscribe" })), Ok(Action::UnsubscribeAll));
        assert_eq!(action(json!({ "action": "unsubscribe", "data": {} })), Ok(Action::UnsubscribeAll));
        assert_eq!(
            action(json!({ "action": "unsubscribe", "data": { "account_id": "x" } })),
            Ok(Action::Unsubscribe { account_id: Some("x".into()), bindings: None })
        );
        assert_eq!(
            action(json!({ "action": "unsubscribe", "data": { "binding": "b" } })),
            Ok(Action::Unsubscribe { account_id: None, bindings: Some(vec!["b".into()]) })
        );
    }

    #[test]
    fn each_mistake_has_its_text() {
        for (request, expected) in [
            (json!({}), "missing required keys : action"),
            (json!({ "action": 5 }), "invalid action : must be a string"),
            (json!({ "action": "dance" }), "unknown action : dance"),
            (json!({ "action": "subscribe" }), "missing required keys : data"),
            (json!({ "action": "subscribe", "data": [] }), "invalid data : must be an object"),
            (json!({ "action": "subscribe", "data": {} }), "missing required keys : binding"),
            (json!({ "action": "subscribe", "data": { "bindings": [] } }), "empty subscription"),
            (json!({ "action": "subscribe", "data": { "binding": "" } }), "empty subscription"),
            (
                json!({ "action": "subscribe", "data": { "bindings": "a" } }),
                "invalid bindings : must be a list of strings",
            ),
            (
                json!({ "action": "subscribe", "data": { "bindings": [1] } }),
                "invalid bindings : must be a string",
            ),
            (
                json!({ "action": "subscribe", "data": { "binding": {} } }),
                "invalid binding : must be a string",
            ),
            (
                json!({ "action": "subscribe", "data": { "binding": "a", "account_id": 1 } }),
                "invalid account_id : must be a string",
            ),
            (
                json!({ "action": "subscribe", "data": { "binding": "a", "account_id": "" } }),
                "invalid account_id : must have 1 to 256 bytes",
            ),
            (
                json!({ "action": "subscribe", "data": { "binding": "a", "name": 1 } }),
                "invalid name : must be a string",
            ),
            (
                json!({ "action": "subscribe", "data": { "binding": "a", "name": "x".repeat(257) } }),
                "invalid name : longer than 256 bytes",
            ),
            (
                json!({ "action": "subscribe", "data": { "binding": "a", "metadata": "x".repeat(5000) } }),
                "invalid metadata : larger than 4096 bytes",
            ),
            (
                json!({ "action": "ping", "request_id": [] }),
                "invalid request_id : must be a string or a number",
            ),
            (
                json!({ "action": "ping", "request_id": "x".repeat(257) }),
                "invalid request_id : longer than 256 bytes",
            ),
            (json!({ "action": "ping", "auth_token": 1 }), "invalid auth_token : must be a string"),
            (json!([]), "a request is one JSON object"),
            (json!("ping"), "a request is one JSON object"),
        ] {
            assert_eq!(action(request.clone()), Err(expected.to_owned()), "{request}");
        }
        for text in ["", "{", "{\"action\":}", "nonsense"] {
            assert!(Request::read(text).unwrap_err().to_string().starts_with("malformed JSON : "), "{text}");
        }
        let deep = "[".repeat(50_000);
        assert!(
            Request::read(&deep).unwrap_err().to_string().starts_with("malformed JSON : recursion limit")
        );
    }
}
