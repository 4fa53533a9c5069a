//! The headers of events, and texts in them.

use std::fmt::Write as _;

/// Header: the unique id of the event, for the stream's deduplication.
pub const MESSAGE_ID: &str = "Nats-Msg-Id";
/// Header: the AMQP exchange of the event.
pub const EXCHANGE: &str = "Bh-Exchange";
/// Header: the event's AMQP routing key, as [`header_text`].
pub const ROUTING_KEY: &str = "Bh-Key";
/// Header: the body's `Event-Name`, as [`header_text`].
pub const EVENT_NAME: &str = "Bh-Name";
/// Header: the zone of the broker that delivered the event (`amqp.brokers`), as [`header_text`]; absent if
/// there is only one broker without a name.
pub const ZONE: &str = "Bh-Zone";
/// Header: whose the event is within its account, as text of an [`Owner`](crate::owner::Owner); absent if the catalogue
/// does not say or the event names nobody.
pub const OWNER: &str = "Bh-Owner";
/// Header: when the ingest received the event over AMQP, in milliseconds since 1970; absent from older releases' events.
pub const RECEIVED: &str = "Bh-Time";
/// Header of a kept event ([`Subjects::state`](super::Subjects::state)): its subject below [`Subjects::ingest`](super::Subjects::ingest).
pub const STATE_SUBJECT: &str = "Bh-Subject";
/// Header of a kept event: its position in the stream of events.
pub const STATE_POSITION: &str = "Bh-Position";
/// Header of a kept event: all tenants that it names, with spaces between.
pub const STATE_TENANTS: &str = "Bh-Tenants";
/// Header of a kept event: until when it is kept without another event of its thing, in milliseconds since 1970.
pub const STATE_UNTIL: &str = "Bh-Until";
/// Header that nats-server sets on republished messages: the sequence in the stream.
pub const SEQUENCE: &str = "Nats-Sequence";

/// Escapes a text as the inside of a JSON string, in printable ASCII: safe in a header, and ready to be
/// spliced between the quotes of a frame. KAZOO's own names and keys do not change.
pub fn header_text(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    push_header_text(&mut escaped, text);
    escaped
}

/// Like [`header_text`], but appends to `escaped`.
pub fn push_header_text(escaped: &mut String, text: &str) {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
    // The common case.
    if text.bytes().all(is_plain) {
        escaped.push_str(text);
        return;
    }
    for (index, character) in text.char_indices() {
        match character {
            '"' | '\\' => escaped.extend(['\\', character]),
            // Leading and trailing spaces of a header value would be trimmed.
            ' ' if index == 0 || index + 1 == text.len() => escaped.push_str("\\u0020"),
            ' '..='~' => escaped.push(character),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    // Writing to a String cannot fail.
                    let _ = write!(escaped, "\\u{unit:04x}");
                }
            }
        }
    }
}

/// Whether a text is the inside of a JSON string in printable ASCII, as [`header_text`] writes it, so that it can be
/// spliced into a frame as it is.
pub fn is_header_text(text: &str) -> bool {
    if !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return false;
    }
    // The common case.
    if !text.contains('\\') {
        return !text.contains('"');
    }
    // Also refuses half of a surrogate pair, which not every parser reads.
    serde_json::from_str::<String>(&format!("\"{text}\"")).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn header_texts_round_trip_through_json(text in " ?.{0,20} ?") {
            let escaped = header_text(&text);
            proptest::prop_assert!(is_header_text(&escaped));
            proptest::prop_assert_eq!(escaped.trim(), &escaped);
            let back: String = serde_json::from_str(&format!("\"{escaped}\"")).unwrap();
            proptest::prop_assert_eq!(back, text);
        }

        #[test]
        fn header_texts_are_exactly_the_insides_of_ascii_json_strings(text in "[a\"\\\\,{}\nu0é]{0,8}") {
            let json = format!("\"{text}\"");
            let is_string = serde_json::from_str::<&serde_json::value::RawValue>(&json).is_ok();
            proptest::prop_assert_eq!(is_header_text(&text), is_string && text.is_ascii());
        }
    }

    #[test]
    fn half_of_a_surrogate_pair_is_no_header_text() {
        assert!(is_header_text("\\ud83d\\ude00"));
        assert!(!is_header_text("\\ud83d") && !is_header_text("\\ude00\\ud83d"));
    }
}
