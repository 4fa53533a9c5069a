//! Replies to requests.

use blackhole_common::chance;
use serde::Serialize;
use serde_json::{Value, json, value::RawValue};
use tungstenite::Utf8Bytes;

/// The reply to a request.
#[derive(Debug)]
pub(crate) struct Reply {
    request_id: Value,
    result: Result<Data, String>,
}

/// The data of a successful reply.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Data {
    /// Data of the edge.
    Value(Value),
    /// JSON from Crossbar, passed on unchanged.
    Raw(Box<RawValue>),
}

impl From<Value> for Data {
    fn from(value: Value) -> Data {
        Data::Value(value)
    }
}

impl Reply {
    /// A successful reply.
    pub(crate) fn success(request_id: Value, data: Data) -> Reply {
        Reply { request_id, result: Ok(data) }
    }

    /// A failure, with its error text.
    pub(crate) fn error(request_id: Value, error: impl ToString) -> Reply {
        Reply { request_id, result: Err(error.to_string()) }
    }

    /// Why the request failed.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.result.as_ref().err().map(String::as_str)
    }

    /// A member of the data.
    pub(crate) fn member(&self, name: &str) -> Option<&Value> {
        match &self.result {
            Ok(Data::Value(data)) => data.get(name),
            _ => None,
        }
    }

    /// Whether the request succeeded.
    pub(crate) fn is_success(&self) -> bool {
        self.result.is_ok()
    }

    /// The text of the reply's frame.
    pub(crate) fn to_frame(&self) -> Utf8Bytes {
        let request_id = &self.request_id;
        let (status, data) = match &self.result {
            Ok(data) => ("success", data),
            Err(error) => ("error", &Data::Value(json!({ "errors": [error] }))),
        };
        let frame = Frame { action: "reply", request_id, status, data };
        // Serializing JSON values cannot fail.
        serde_json::to_string(&frame).unwrap_or_default().into()
    }
}

#[derive(Serialize)]
struct Frame<'a> {
    action: &'a str,
    request_id: &'a Value,
    status: &'a str,
    data: &'a Data,
}

/// A random id for a request without one.
pub(crate) fn generated_id() -> Value {
    Value::from(format!("{:032x}", chance::random::<u128>()))
}
