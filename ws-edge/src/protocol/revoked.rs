//! The message that tells a client which of its bindings have ended.

use serde::Serialize;
use tungstenite::Utf8Bytes;

/// A binding that has ended.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Revoked {
    /// The account; `*` for all.
    pub(crate) account_id: String,
    /// The binding as the client sent it.
    pub(crate) binding: String,
    /// Why.
    pub(crate) reason: String,
}

/// The text of the frame, with the bindings that the session still has.
pub(crate) fn frame(revoked: &[Revoked], subscriptions: &[&str]) -> Utf8Bytes {
    #[derive(Serialize)]
    struct Frame<'a> {
        action: &'a str,
        data: Data<'a>,
    }
    #[derive(Serialize)]
    struct Data<'a> {
        revoked: &'a [Revoked],
        subscriptions: &'a [&'a str],
    }
    let frame = Frame { action: "revoked", data: Data { revoked, subscriptions } };
    // Serializing strings cannot fail.
    serde_json::to_string(&frame).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_names_what_ended_and_what_is_left() {
        let revoked =
            Revoked { account_id: "a".into(), binding: "call.*.*".into(), reason: "unauthorized".into() };
        assert_eq!(
            frame(&[revoked], &["fax.status.*"]).as_str(),
            r#"{"action":"revoked","data":{"revoked":[{"account_id":"a","binding":"call.*.*","reason":"unauthorized"}],"subscriptions":["fax.status.*"]}}"#
        );
    }
}
