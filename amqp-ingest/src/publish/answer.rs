//! What the stream answers to a published event (NATS ADR-1: `PubAck`).

use async_nats::jetstream::{self, ErrorCode};
use blackhole_common::nats::protocol::Message;
use serde::Deserialize;

use crate::body::Rejection;

/// The status with which a server says that nobody listens (NATS ADR-7).
pub(super) const NO_RESPONDERS: u16 = 503;

/// An answer, as far as it matters.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The event is stored.
    Stored {
        /// It was before.
        duplicate: bool,
    },
    /// This event will never be stored, others may.
    Refused(Rejection, String),
    /// Not stored now; later it may be.
    Later(String),
}

/// Either way in one: serde would read an untagged choice twice.
#[derive(Debug, Deserialize)]
struct PubAck {
    error: Option<jetstream::Error>,
    #[serde(rename = "seq")]
    sequence: Option<u64>,
    #[serde(default)]
    duplicate: bool,
}

/// Reads an answer: the number of the event (the last word of the subject), and what became of it.
pub(super) fn read(message: &Message) -> (Option<u64>, Answer) {
    let number = message.subject().rsplit('.').next().and_then(|number| number.parse().ok());
    (number, content(message.status(), &message.payload))
}

fn content(status: Option<u16>, payload: &[u8]) -> Answer {
    if status == Some(NO_RESPONDERS) {
        return Answer::Later("no stream takes the subject (the stream or its leader is away)".into());
    }
    match serde_json::from_slice::<PubAck>(payload) {
        Ok(PubAck { error: Some(error), .. }) if is_about_the_event(error.error_code()) => {
            Answer::Refused(Rejection::Refused, error.to_string())
        }
        Ok(PubAck { error: Some(error), .. }) => Answer::Later(error.to_string()),
        Ok(PubAck { sequence: Some(sequence), duplicate, .. }) if sequence > 0 => {
            Answer::Stored { duplicate }
        }
        // A replicated stream says this of an event whose first copy it has not decided on yet.
        Ok(PubAck { sequence: Some(_), .. }) => Answer::Later("the event is still being stored".into()),
        Ok(PubAck { sequence: None, .. }) => Answer::Later("unreadable answer: no `seq`".into()),
        Err(error) => Answer::Later(format!("unreadable answer: {error}")),
    }
}

/// Errors that no waiting mends, because they are about this one event. Everything else (no space, no leader, limits
/// of the account, a sealed stream) would hit the next event too, so that waiting is right.
fn is_about_the_event(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn later(payload: &str) -> bool {
        matches!(content(None, payload.as_bytes()), Answer::Later(_))
    }

    #[test]
    fn stored_is_stored() {
        let stored = |payload: &str| content(None, payload.as_bytes());
        assert_eq!(stored(r#"{"stream":"B","seq":7}"#), Answer::Stored { duplicate: false });
        assert_eq!(
            stored(r#"{"stream":"B","domain":"d","seq":7,"duplicate": true}"#),
            Answer::Stored { duplicate: true }
        );
    }

    #[test]
    fn what_may_pass_later_is_waited_for() {
        assert!(matches!(content(Some(NO_RESPONDERS), b""), Answer::Later(_)));
        assert!(later(r#"{"stream":"B","seq":0,"duplicate":true}"#));
        assert!(later(
            r#"{"error":{"code":503,"err_code":10077,"description":"no space"},"stream":"B","seq":0}"#
        ));
        assert!(later(
            r#"{"error":{"code":400,"err_code":10110,"description":"sealed"},"stream":"B","seq":0}"#
        ));
        assert!(later("+OK") && later("") && later("{}"));
    }

    #[test]
    fn only_what_is_the_events_own_fault_is_refused() {
        for code in [10054, 10097] {
            let payload = format!(
                r#"{{"error":{{"code":400,"err_code":{code},"description":"message size exceeds maximum allowed"}},"stream":"B","seq":0}}"#
            );
            assert!(
                matches!(content(None, payload.as_bytes()), Answer::Refused(Rejection::Refused, _)),
                "{code}"
            );
        }
    }
}
