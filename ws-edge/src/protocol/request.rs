//! What clients send: one JSON object per text frame.

use std::time::Duration;

use serde_json::{Map, Value};
use thiserror::Error;

use super::{
    cursor::{Cursor, MALFORMED, TEXT_BYTES},
    token::Token,
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

/// What a client lagging_sessions done.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Subscribe to bindings.
    Subscribe(Subscribe),
    /// Unsubscribe these bindings (`None`: all) of an account (`None`: the token's own).
    Unsubscribe {
        /// The account.
        account_id: Option<String>,
        /// The bindings.
        bindings: Option<Vec<String>>,
    },
    /// Unsubscribe everything.
    UnsubscribeAll,
    /// Check that the session is alive.
    Ping,
    /// `api`: call Crossbar with this `data`.
    Api(Map<String, Value>),
    /// `relay.publish`: send this `data` to one KAZOO process.
    RelayPublish(Map<String, Value>),
    /// `dialog.push`: likewise.
    DialogPush(Map<String, Value>),
}

/// A request for events.
#[derive(Debug, PartialEq)]
pub struct Subscribe {
    /// The account; `None`: the token's own; `*`: all.
    pub account_id: Option<String>,
    /// The bindings, at least one, each once.
    pub bindings: Vec<String>,
    /// Where past events begin; `None`: only new ones.
    pub since: Option<Since>,
    /// What the client calls itself.
    pub client: ClientInfo,
}

/// Where past events begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// After this frame.
    Cursor(Cursor),
    /// This long ago.
    Ago(Duration),
}

/// A friendly name and free JSON that a client may give its session.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClientInfo {
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
            "api" => Ok(Action::Api(self.required_data()?)),
            "relay.publish" => Ok(Action::RelayPublish(self.required_data()?)),
            "dialog.push" => Ok(Action::DialogPush(self.required_data()?)),
            _ => Err(RequestError::Action(action.chars().take(64).collect())),
        }
    }

    fn subscribe(mut self) -> Result<Action, RequestError> {
        let mut data = self.required_data()?;
        let client = self.client(&mut data)?;
        let account_id = account_id(&mut data)?;
        let bindings = bindings(&mut data)?.ok_or(RequestError::Missing("binding"))?;
        if bindings.is_empty() {
            return Err(RequestError::Empty);
        }
        let since = optional_text(data.remove("since"), "since")?.map(|text| since(&text)).transpose()?;
        Ok(Action::Subscribe(Subscribe { account_id, bindings, since, client }))
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

    fn required_data(&mut self) -> Result<Map<String, Value>, RequestError> {
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
    fn client(&mut self, data: &mut Map<String, Value>) -> Result<ClientInfo, RequestError> {
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
        Ok(ClientInfo { name, metadata })
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
        Some(back) => humantime::parse_duration(back).ok().map(Since::Ago),
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
mod tests;
