//! The members that all of KAZOO's requests and our responses share.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Larger requests are dropped: valid ones contain only a few ids.
const MAX_REQUEST_BYTES: usize = 64 * 1024;
/// AMQP routing keys are short strings.
const MAX_ID_BYTES: usize = 255;

const CATEGORY: &str = "websockets";

/// Who sent a request, and how the response is matched to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Envelope {
    #[serde(rename = "Event-Category")]
    category: Option<String>,
    #[serde(rename = "Event-Name")]
    name: Option<String>,
    /// The routing key of the response.
    #[serde(rename = "Server-ID")]
    pub server_id: Option<String>,
    /// Copied to the response.
    #[serde(rename = "Msg-ID")]
    pub message_id: Option<String>,
}

/// Parses a request with the event name `name`: its envelope and its own members.
///
/// # Errors
/// Why it is invalid, for the log.
pub(super) fn parse<R: DeserializeOwned>(body: &[u8], name: &str) -> Result<(Envelope, R), String> {
    if body.len() > MAX_REQUEST_BYTES {
        return Err(format!("it has more than {MAX_REQUEST_BYTES} bytes"));
    }
    let envelope: Envelope = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    for (member, value, expected) in
        [("Event-Category", &envelope.category, CATEGORY), ("Event-Name", &envelope.name, name)]
    {
        if value.as_ref().is_some_and(|value| value != expected) {
            return Err(format!("its {member} is not {expected}"));
        }
    }
    if let Some(id) = &envelope.server_id {
        check_server_id(id).map_err(|reason| format!("Server-ID {reason}"))?;
    }
    let content = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    Ok((envelope, content))
}

/// Checks that `id` can be used as a routing key.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check_server_id(id: &str) -> Result<(), &'static str> {
    if !(1..=MAX_ID_BYTES).contains(&id.len()) {
        return Err("must have 1 to 255 bytes");
    }
    if id.chars().any(char::is_control) {
        return Err("must not have control characters");
    }
    Ok(())
}

/// A response: `content` and the shared members.
#[derive(Debug, Serialize)]
struct ResponseEnvelope<'a, C> {
    #[serde(rename = "Event-Category")]
    category: &'static str,
    #[serde(rename = "Event-Name")]
    name: &'static str,
    #[serde(rename = "Msg-ID", skip_serializing_if = "Option::is_none")]
    message_id: Option<&'a str>,
    #[serde(flatten)]
    content: &'a C,
    #[serde(rename = "App-Name")]
    app_name: &'static str,
    #[serde(rename = "App-Version")]
    app_version: &'static str,
    #[serde(rename = "Node")]
    node: &'a str,
}

/// Serializes a response of `node` with the event name `name` to the request with `envelope`.
///
/// # Errors
/// If `content` is not serialized as a JSON object.
pub(super) fn serialize<C: Serialize>(
    name: &'static str,
    envelope: &Envelope,
    node: &str,
    content: &C,
) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&ResponseEnvelope {
        category: CATEGORY,
        name,
        message_id: envelope.message_id.as_deref(),
        content,
        app_name: "blackhole",
        app_version: env!("CARGO_PKG_VERSION"),
        node,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn reason(body: &Value) -> String {
        parse::<Value>(body.to_string().as_bytes(), "get_req").unwrap_err()
    }

    #[test]
    fn invalid_requests_are_refused_with_a_reason() {
        let valid = json!({
            "Event-Category": "websockets", "Event-Name": "get_req", "Server-ID": "s", "Msg-ID": "m", "More": 1,
        });
        let (envelope, content) = parse::<Value>(valid.to_string().as_bytes(), "get_req").unwrap();
        assert_eq!((envelope.server_id.as_deref(), envelope.message_id.as_deref()), (Some("s"), Some("m")));
        assert_eq!(content["More"], 1);
        assert_eq!(parse::<Value>(b"{}", "get_req").unwrap().0, Envelope::default());

        for (request, expected) in [
            (json!([1]), "invalid type: integer `1`, expected a string"),
            (json!({ "Server-ID": 5 }), "invalid type: integer `5`, expected a string"),
        ] {
            assert!(reason(&request).starts_with(expected), "{}", reason(&request));
        }
        assert_eq!(reason(&json!({ "Event-Category": "calls" })), "its Event-Category is not websockets");
        assert_eq!(reason(&json!({ "Event-Name": "get_resp" })), "its Event-Name is not get_req");
        assert_eq!(reason(&json!({ "Server-ID": "" })), "Server-ID must have 1 to 255 bytes");
        assert_eq!(reason(&json!({ "Server-ID": "s".repeat(256) })), "Server-ID must have 1 to 255 bytes");
        assert_eq!(reason(&json!({ "Server-ID": "a\u{7}" })), "Server-ID must not have control characters");
        assert_eq!(reason(&json!({ "x": "x".repeat(MAX_REQUEST_BYTES) })), "it has more than 65536 bytes");
    }

    #[test]
    fn a_response_names_the_request_and_the_node() {
        let envelope = Envelope { message_id: Some("m".into()), ..Envelope::default() };
        let response = serialize("get_resp", &envelope, "blackhole@host", &json!({ "Data": [] })).unwrap();
        assert_eq!(
            serde_json::from_slice::<Value>(&response).unwrap(),
            json!({
                "Event-Category": "websockets", "Event-Name": "get_resp", "Msg-ID": "m", "Data": [],
                "App-Name": "blackhole", "App-Version": env!("CARGO_PKG_VERSION"), "Node": "blackhole@host",
            })
        );
    }
}
