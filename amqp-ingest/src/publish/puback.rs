//! Parses JetStream's reply to a published event (`PubAck`, NATS ADR-1).

use async_nats::jetstream::{self, ErrorCode};
use blackhole_common::nats::protocol::Message;
use serde::Deserialize;

use crate::body::Rejection;

/// The status of a reply from a server that has no subscriber for the subject (NATS ADR-7).
pub(super) const NO_RESPONDERS: u16 = 503;

/// What the reply says about the event.
#[derive(Debug, PartialEq, Eq)]
pub enum PubAck {
    /// It is stored.
    Stored {
        /// It had been stored before.
        duplicate: bool,
        /// Its position.
        sequence: u64,
    },
    /// It will never be stored; other events may be.
    Rejected(Rejection, String),
    /// It is not stored, but a retry may succeed.
    RetryLater(String),
    /// It is not stored, because the stream's last event is not the expected one.
    Changed(String),
}

/// Success and error in one struct: serde would parse an untagged enum twice.
#[derive(Debug, Deserialize)]
struct Payload {
    error: Option<jetstream::Error>,
    #[serde(rename = "seq")]
    sequence: Option<u64>,
    #[serde(default)]
    duplicate: bool,
}

/// Parses a reply. Also returns the event's number, the last token of the reply's subject.
pub fn parse(message: &Message) -> (Option<u64>, PubAck) {
    let number = message.subject().rsplit('.').next().and_then(|number| number.parse().ok());
    (number, parse_payload(message.status(), &message.payload))
}

fn parse_payload(status: Option<u16>, payload: &[u8]) -> PubAck {
    if status == Some(NO_RESPONDERS) {
        return PubAck::RetryLater(
            "no stream listens on the subject (the stream or its leader is away)".into(),
        );
    }
    match serde_json::from_slice::<Payload>(payload) {
        Ok(Payload { error: Some(error), .. }) if is_permanent(error.error_code()) => {
            PubAck::Rejected(Rejection::Refused, error.to_string())
        }
        Ok(Payload { error: Some(error), .. }) => match error.error_code() {
            ErrorCode::STREAM_WRONG_LAST_SEQUENCE | ErrorCode::STREAM_WRONG_LAST_MESSAGE_ID => {
                PubAck::Changed(error.to_string())
            }
            _ => PubAck::RetryLater(error.to_string()),
        },
        Ok(Payload { sequence: Some(sequence), duplicate, .. }) if sequence > 0 => {
            PubAck::Stored { duplicate, sequence }
        }
        // A replicated stream sends this for an event whose first copy is still being replicated.
        Ok(Payload { sequence: Some(_), .. }) => PubAck::RetryLater("the event is still being stored".into()),
        Ok(Payload { sequence: None, .. }) => PubAck::RetryLater("invalid reply: no `seq`".into()),
        Err(error) => PubAck::RetryLater(format!("invalid reply: {error}")),
    }
}

/// Whether the error concerns this one event, so that a retry cannot succeed. Everything else (no space, no leader,
/// account limits, a sealed stream) would affect the next event too.
fn is_permanent(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(payload: &str) -> PubAck {
        parse_payload(None, payload.as_bytes())
    }

    /// The reason of a temporary failure.
    fn retry_reason(puback: PubAck) -> String {
        match puback {
            PubAck::RetryLater(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_sequence_means_stored() {
        assert_eq!(parsed(r#"{"stream":"B","seq":7}"#), PubAck::Stored { duplicate: false, sequence: 7 });
        assert_eq!(
            parsed(r#"{"stream":"B","domain":"d","seq":7,"duplicate": true}"#),
            PubAck::Stored { duplicate: true, sequence: 7 }
        );
    }

    #[test]
    fn another_last_event_is_recognized() {
        for (code, text) in [(10071, "wrong last sequence: 9"), (10070, "wrong last msg ID: x")] {
            let puback = parsed(&format!(
                r#"{{"error":{{"code":400,"err_code":{code},"description":"{text}"}},"stream":"B","seq":0}}"#
            ));
            let PubAck::Changed(reason) = puback else { panic!("{puback:?}") };
            assert!(reason.contains(text), "{reason}");
        }
    }

    #[test]
    fn temporary_failures_are_retried() {
        let no_responders = parse_payload(Some(NO_RESPONDERS), b"");
        assert_eq!(
            retry_reason(no_responders),
            "no stream listens on the subject (the stream or its leader is away)"
        );
        for (payload, expected) in [
            (r#"{"stream":"B","seq":0,"duplicate":true}"#, "the event is still being stored"),
            (
                r#"{"error":{"code":503,"err_code":10077,"description":"no space"},"stream":"B","seq":0}"#,
                "no space",
            ),
            (
                r#"{"error":{"code":400,"err_code":10110,"description":"sealed"},"stream":"B","seq":0}"#,
                "sealed",
            ),
            ("+OK", "invalid reply: "),
            ("", "invalid reply: "),
            ("{}", "invalid reply: no `seq`"),
        ] {
            let reason = retry_reason(parsed(payload));
            assert!(reason.contains(expected), "{payload}: {reason}");
        }
    }

    #[test]
    fn only_an_oversized_event_is_rejected() {
        for code in [10054, 10097] {
            let payload = format!(
                r#"{{"error":{{"code":400,"err_code":{code},"description":"message size exceeds maximum allowed"}},"stream":"B","seq":0}}"#
            );
            let puback = parsed(&payload);
            let PubAck::Rejected(rejection, reason) = puback else { panic!("{code}: {puback:?}") };
            assert_eq!(rejection, Rejection::Refused);
            assert!(reason.contains("message size exceeds maximum allowed"), "{reason}");
        }
    }
}
