//! Requests of clients: one JSON object per text frame.

use std::time::Duration;

use serde_json::{Map, Value};
use thiserror::Error;

use super::{
    cursor::{Cursor, TEXT_BYTES},
    json,
    token::Token,
};

/// The longest `request_id`, `name` and `account_id`.
pub(crate) const MAX_TEXT_BYTES: usize = 256;
/// The largest `metadata`, as JSON.
pub(crate) const MAX_METADATA_BYTES: usize = 4096;

/// A request, parsed as far as all actions have in common.
#[derive(Debug)]
pub struct Request {
    /// The client's id for the request: a string or a number.
    pub request_id: Option<Value>,
    /// The token in the request.
    pub token: Option<Token>,
    members: Map<String, Value>,
}

/// The action that a client requests.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Subscribe to bindings.
    Subscribe(Subscribe),
    /// Unsubscribe from these bindings (`None`: all) of an account (`None`: the token's own).
    Unsubscribe {
        /// The account.
        account_id: Option<String>,
        /// The bindings.
        bindings: Option<Vec<String>>,
    },
    /// Unsubscribe from everything.
    UnsubscribeAll,
    /// Check that the session is alive.
    Ping,
    /// `api`: call Crossbar with this `data`.
    Api(Map<String, Value>),
    /// `relay.publish`: send this `data` to one KAZOO process.
    RelayPublish(Map<String, Value>),
    /// `dialog.push`: the same.
    DialogPush(Map<String, Value>),
}

/// Parameters of the action `subscribe`.
#[derive(Debug, PartialEq)]
pub struct Subscribe {
    /// The account; `None`: the token's own; `*`: all.
    pub account_id: Option<String>,
    /// The bindings: at least one, without duplicates.
    pub bindings: Vec<String>,
    /// Where past events start; `None`: only live events.
    pub since: Option<Since>,
    /// The last event of each living thing comes first.
    pub state: bool,
    /// How the client describes itself.
    pub client: ClientInfo,
}

/// Where past events start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// After the frame with this cursor.
    Cursor(Cursor),
    /// This much time ago.
    Ago(Duration),
    /// A text that this edge does not understand: perhaps a cursor of a newer edge.
    Unknown,
}

/// A name and arbitrary JSON that a client may give its session.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClientInfo {
    /// The name.
    pub name: Option<String>,
    /// Arbitrary JSON.
    pub metadata: Option<Value>,
}

/// An invalid request. The client receives the text.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RequestError {
    /// Not JSON, or nested too deeply.
    #[error("malformed JSON : {0}")]
    Json(String),
    /// JSON, but not an object.
    #[error("a request is one JSON object")]
    NotAnObject,
    /// Required members are missing.
    #[error("missing required keys : {0}")]
    Missing(&'static str),
    /// A member has the wrong type or size.
    #[error("invalid {key} : {reason}")]
    Invalid {
        /// The member.
        key: &'static str,
        /// What is allowed.
        reason: &'static str,
    },
    /// There is no such action.
    #[error("unknown action : {0}")]
    Action(String),
    /// No bindings, or an empty binding.
    #[error("empty subscription")]
    Empty,
}

impl Request {
    /// Parses a frame.
    pub fn read(frame: &str) -> Result<Request, RequestError> {
        let value = json::parse(frame).map_err(|error| RequestError::Json(error.to_string()))?;
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

    /// The valid request id of a frame that cannot be processed, if it has one.
    pub fn id_of(frame: &str) -> Option<Value> {
        let value = json::parse(frame).ok()?;
        match value.get("request_id")? {
            Value::String(text) if text.len() > MAX_TEXT_BYTES => None,
            id @ (Value::String(_) | Value::Number(_)) => Some(id.clone()),
            _ => None,
        }
    }

    /// The account of the request, before `data` is validated.
    pub fn account_id(&self) -> Option<&str> {
        match self.members.get("data") {
            None | Some(Value::Null) => self.members.get("account_id")?.as_str(),
            Some(data) => data.get("account_id")?.as_str(),
        }
    }

    /// Validates the action and its parameters.
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
        let mut data = self.subscription_data()?.ok_or(RequestError::Missing("data"))?;
        let client = self.client(&mut data)?;
        let account_id = account_id(&mut data)?;
        let bindings = bindings(&mut data)?.ok_or(RequestError::Missing("binding"))?;
        if bindings.is_empty() {
            return Err(RequestError::Empty);
        }
        let since = optional_text(data.remove("since"), "since")?.map(|text| since(&text)).transpose()?;
        let state = match data.remove("state") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(state)) => state,
            Some(_) => return Err(RequestError::Invalid { key: "state", reason: "must be true or false" }),
        };
        Ok(Action::Subscribe(Subscribe { account_id, bindings, since, state, client }))
    }

    fn unsubscribe(mut self) -> Result<Action, RequestError> {
        let Some(mut data) = self.subscription_data()? else { return Ok(Action::UnsubscribeAll) };
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

    /// `data`, or the members beside `action` that KAZOO 4.0's documentation puts there.
    fn subscription_data(&mut self) -> Result<Option<Map<String, Value>>, RequestError> {
        let data = self.data()?;
        let is_flat = ["account_id", "binding", "bindings"].iter().any(|key| self.members.contains_key(*key));
        Ok(if data.is_none() && is_flat { Some(std::mem::take(&mut self.members)) } else { data })
    }

    /// Name and metadata are in `data` (KAZOO's documentation) or at the top level (KAZOO 4.3).
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

/// If both are present, `binding` takes precedence, as in KAZOO's documentation.
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

/// The account in `data`; `None`: the token's own.
pub fn account_id(data: &mut Map<String, Value>) -> Result<Option<String>, RequestError> {
    let account_id = optional_text(data.remove("account_id"), "account_id")?;
    match &account_id {
        Some(id) if id.is_empty() || id.len() > MAX_TEXT_BYTES => {
            Err(RequestError::Invalid { key: "account_id", reason: "must have 1 to 256 bytes" })
        }
        _ => Ok(account_id),
    }
}

/// Parses a cursor, or an age such as `-5m`: only an age is shorter than a cursor and begins with `-`.
fn since(text: &str) -> Result<Since, RequestError> {
    let Some(back) = text.strip_prefix('-').filter(|_| text.len() < TEXT_BYTES) else {
        return Ok(Cursor::parse(text).map_or(Since::Unknown, Since::Cursor));
    };
    let reason = "must be the cursor of an event, or a time back such as -5m";
    let age = humantime::parse_duration(back).map_err(|_| RequestError::Invalid { key: "since", reason })?;
    Ok(Since::Ago(age))
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
