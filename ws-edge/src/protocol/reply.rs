//! What clients are answered.

use serde::Serialize;
use serde_json::{Value, json, value::RawValue};
use tungstenite::Utf8Bytes;

/// An answer to a request.
#[derive(Debug)]
pub struct Reply {
    request_id: Value,
    result: Result<Data, String>,
}

/// What a successful reply carries.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Data {
    /// Made here.
    Made(Value),
    /// JSON as it came from elsewhere.
    Passed(Box<RawValue>),
}

impl From<Value> for Data {
    fn from(value: Value) -> Data {
        Data::Made(value)
    }
}

impl Reply {
    /// Success, with its data.
    pub fn success(request_id: Value, data: Data) -> Reply {
        Reply { request_id, result: Ok(data) }
    }

    /// Failure, with what went wrong.
    pub fn error(request_id: Value, error: impl ToString) -> Reply {
        Reply { request_id, result: Err(error.to_string()) }
    }

    /// Whether it is a success.
    pub fn is_success(&self) -> bool {
        self.result.is_ok()
    }

    /// The frame.
    pub fn to_frame(&self) -> Utf8Bytes {
        let request_id = &self.request_id;
        let (status, data) = match &self.result {
            Ok(data) => ("success", data),
            Err(error) => ("error", &Data::Made(json!({ "errors": [error] }))),
        };
        let frame = Frame { action: "reply", request_id, status, data };
        // Its members are JSON values: writing them does not fail.
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

/// The id of a request that came without one.
pub fn generated_id() -> Value {
    Value::from(format!("{:032x}", rand::random::<u128>()))
}
