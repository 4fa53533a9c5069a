//! KAZOO's requests and our answers as messages: what all kinds have in common.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Larger requests are none: they have a handful of ids.
const MOST_BYTES: usize = 64 * 1024;
/// AMQP's routing keys are short strings.
const MOST_ID_BYTES: usize = 255;

const CATEGORY: &str = "websockets";

/// Who asks, and what tells the answer from others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Envelope {
    #[serde(rename = "Event-Category")]
    category: Option<String>,
    #[serde(rename = "Event-Name")]
    name: Option<String>,
    /// The routing key of the answer.
    #[serde(rename = "Server-ID")]
    pub(super) server_id: Option<String>,
    /// Goes back with the answer.
    #[serde(rename = "Msg-ID")]
    pub(super) message_id: Option<String>,
}

/// Reads a request called `name`, and what it has beside the envelope.
///
/// # Errors
/// Why it is none, for the operator's log.
pub(super) fn read<R: DeserializeOwned>(body: &[u8], name: &str) -> Result<(Envelope, R), String> {
    if body.len() > MOST_BYTES {
        return Err(format!("it has more than {MOST_BYTES} bytes"));
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
    let rest = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    Ok((envelope, rest))
}

/// Whether `id` can be a routing key of somebody.
///
/// # Errors
/// What it lacks.
pub(super) fn check_server_id(id: &str) -> Result<(), &'static str> {
    if !(1..=MOST_ID_BYTES).contains(&id.len()) {
        return Err("must have 1 to 255 bytes");
    }
    if id.chars().any(char::is_control) {
        return Err("must not have control characters");
    }
    Ok(())
}

/// An answer: `answer` with what every answer has.
#[derive(Debug, Serialize)]
struct Signed<'a, A> {
    #[serde(rename = "Event-Category")]
    category: &'static str,
    #[serde(rename = "Event-Name")]
    name: &'static str,
    #[serde(rename = "Msg-ID", skip_serializing_if = "Option::is_none")]
    message_id: Option<&'a str>,
    #[serde(flatten)]
    answer: &'a A,
    #[serde(rename = "App-Name")]
    app_name: &'static str,
    #[serde(rename = "App-Version")]
    app_version: &'static str,
    #[serde(rename = "Node")]
    node: &'a str,
}

/// An answer called `name` to `envelope`, said by `node`.
///
/// # Errors
/// When the answer is no JSON object; ours are.
pub(super) fn write<A: Serialize>(
    name: &'static str,
    envelope: &Envelope,
    node: &str,
    answer: &A,
) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&Signed {
        category: CATEGORY,
        name,
        message_id: envelope.message_id.as_deref(),
        answer,
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
        read::<Value>(body.to_string().as_bytes(), "get_req").unwrap_err()
    }

    #[test]
    fn what_is_no_request_is_told_why() {
        let good = json!({
            "Event-Category": "websockets", "Event-Name": "get_req", "Server-ID": "s", "Msg-ID": "m", "More": 1,
        });
        let (envelope, rest) = read::<Value>(good.to_string().as_bytes(), "get_req").unwrap();
        assert_eq!((envelope.server_id.as_deref(), envelope.message_id.as_deref()), (Some("s"), Some("m")));
        assert_eq!(rest["More"], 1);
        assert_eq!(read::<Value>(b"{}", "get_req").unwrap().0, Envelope::default());

        assert!(reason(&json!([1])).contains("invalid"), "{}", reason(&json!([1])));
        assert!(reason(&json!({ "Server-ID": 5 })).contains("invalid type"));
        assert_eq!(reason(&json!({ "Event-Category": "calls" })), "its Event-Category is not websockets");
        assert_eq!(reason(&json!({ "Event-Name": "get_resp" })), "its Event-Name is not get_req");
        assert_eq!(reason(&json!({ "Server-ID": "" })), "Server-ID must have 1 to 255 bytes");
        assert_eq!(reason(&json!({ "Server-ID": "s".repeat(256) })), "Server-ID must have 1 to 255 bytes");
        assert_eq!(reason(&json!({ "Server-ID": "a\u{7}" })), "Server-ID must not have control characters");
        assert_eq!(reason(&json!({ "x": "x".repeat(MOST_BYTES) })), "it has more than 65536 bytes");
    }

    #[test]
    fn an_answer_says_who_answers_what() {
        let envelope = Envelope { message_id: Some("m".into()), ..Envelope::default() };
        let answer = write("get_resp", &envelope, "blackhole@host", &json!({ "Data": [] })).unwrap();
        assert_eq!(
            serde_json::from_slice::<Value>(&answer).unwrap(),
            json!({
                "Event-Category": "websockets", "Event-Name": "get_resp", "Msg-ID": "m", "Data": [],
                "App-Name": "blackhole", "App-Version": env!("CARGO_PKG_VERSION"), "Node": "blackhole@host",
            })
        );
    }
}
