//! The words of routing keys, encoded as KAZOO does.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// The characters that KAZOO's key encoder escapes.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'~').remove(b'_').remove(b'+');

/// A client's word as KAZOO writes it in a routing key. A word with a percent escape counts as encoded already.
pub(super) fn key_word(word: &str) -> String {
    let escaped = word.as_bytes().windows(3).any(
        |window| matches!(window, [b'%', high, low] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit()),
    );
    let plain = if escaped {
        percent_decode_str(&word.replace('+', " ")).decode_utf8_lossy().into_owned()
    } else {
        word.to_owned()
    };
    encoded(&plain)
}

/// A text as KAZOO encodes it in a routing key.
pub(super) fn encoded(plain: &str) -> String {
    // `+` stands for a space, so escape a plus before spaces become one.
    let plain = plain.replace('%', "%25").replace('+', "%2B");
    let mut encoded = String::with_capacity(plain.len());
    for character in plain.chars() {
        match character {
            ' ' => encoded.push('+'),
            '%' => encoded.push('%'),
            other => encoded.extend(utf8_percent_encode(other.encode_utf8(&mut [0; 4]), ENCODED)),
        }
    }
    encoded
}
