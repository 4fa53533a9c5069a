//! What clients are answered.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Utf8Bytes;

/// An answer to a request.
#[derive(Debug, PartialEq)]
pub struct Reply {
    request_id: Value,
    result: Result<Value, String>,
}

impl Reply {
    /// Success, with its data.
    pub fn success(request_id: Value, data: Value) -> Reply {
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
        let (status, data) = match &self.result {
            Ok(data) => ("success", data.clone()),
            Err(error) => ("error", json!({ "errors": [error] })),
        };
        json!({ "action": "reply", "request_id": self.request_id, "status": status, "data": data })
            .to_string()
            .into()
    }
}

/// The id of a request that came without one.
pub fn generated_id() -> Value {
    Value::from(format!("{:032x}", rand::random::<u128>()))
}
