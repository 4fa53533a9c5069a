//! A client's request to Crossbar, with KAZOO 5's members (`verb`, `endpoint`, `body`).

use bytes::Bytes;
use hyper::Method;
use serde_json::{Map, Value};

use crate::{kazoo::crossbar::endpoint, protocol::request::RequestError};

/// A checked request to Crossbar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// The method.
    pub(super) verb: Method,
    /// Path and query, beginning with a slash.
    pub(super) endpoint: String,
    /// The body, if any.
    pub(super) body: Option<Bytes>,
}

impl Call {
    /// Reads a client's `data`.
    ///
    /// # Errors
    /// The first mistake.
    pub(crate) fn read(mut data: Map<String, Value>) -> Result<Call, RequestError> {
        let invalid = |key, reason| RequestError::Invalid { key, reason };
        let endpoint = match data.remove("endpoint") {
            None | Some(Value::Null) => return Err(RequestError::Missing("endpoint")),
            Some(Value::String(endpoint)) => {
                endpoint::checked(&endpoint).map_err(|reason| invalid("endpoint", reason))?
            }
            Some(_) => return Err(invalid("endpoint", "must be a string")),
        };
        let verb = match data.remove("verb") {
            None | Some(Value::Null) => Method::GET,
            Some(Value::String(verb)) => {
                parse_verb(&verb).ok_or(invalid("verb", "must be get, put, post, patch or delete"))?
            }
            Some(_) => return Err(invalid("verb", "must be a string")),
        };
        // As in KAZOO, a string is the body itself.
        let body = match data.remove("body") {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(Bytes::from(text)),
            Some(json) => Some(Bytes::from(json.to_string())),
        };
        Ok(Call { verb, endpoint, body })
    }
}

fn parse_verb(verb: &str) -> Option<Method> {
    [Method::GET, Method::PUT, Method::POST, Method::PATCH, Method::DELETE]
        .into_iter()
        .find(|method| method.as_str().eq_ignore_ascii_case(verb))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(data: Value) -> Result<Call, String> {
        let Value::Object(data) = data else { panic!() };
        Call::read(data).map_err(|error| error.to_string())
    }

    #[test]
    fn a_call_has_an_endpoint_and_may_have_a_verb_and_a_body() {
        let call = read(json!({ "endpoint": "v2/accounts", "verb": null, "body": null })).unwrap();
        assert_eq!(call, Call { verb: Method::GET, endpoint: "/v2/accounts".into(), body: None });
        let call = read(json!({ "endpoint": "/v2/a?b=c", "verb": "pAtCh", "body": { "data": {} } })).unwrap();
        assert_eq!((call.verb, call.endpoint.as_str()), (Method::PATCH, "/v2/a?b=c"));
        assert_eq!(call.body.unwrap(), r#"{"data":{}}"#);
        let call = read(json!({ "endpoint": "/v2/a", "verb": "put", "body": "{\"data\":1}" })).unwrap();
        assert_eq!(call.body.unwrap(), r#"{"data":1}"#);
    }

    #[test]
    fn each_mistake_has_its_text() {
        for (data, expected) in [
            (json!({}), "missing required keys : endpoint"),
            (json!({ "endpoint": 5 }), "invalid endpoint : must be a string"),
            (json!({ "endpoint": "/v2/a", "verb": 5 }), "invalid verb : must be a string"),
            (
                json!({ "endpoint": "/v2/a", "verb": "connect" }),
                "invalid verb : must be get, put, post, patch or delete",
            ),
            (
                json!({ "endpoint": "http://elsewhere/v2/a" }),
                "invalid endpoint : must begin with the API's version, such as /v2/accounts",
            ),
        ] {
            assert_eq!(read(data.clone()), Err(expected.to_owned()), "{data}");
        }
    }
}
