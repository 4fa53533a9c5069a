//! Cursors: where in the history a client stands, as a short text that every edge understands.
//!
//! Twenty characters of base64url: six bytes that tell the stream from any other, eight of the event's position in it,
//! and one to check them. Clients treat it as opaque.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use thiserror::Error;

/// Bytes of a cursor before it is written as text.
const BYTES: usize = 15;
/// Characters of a cursor.
pub const TEXT_BYTES: usize = 20;

/// Which stream it is: made of the time of its creation, so that one that was deleted and made again is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity([u8; 6]);

/// An event's place in the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The stream.
    pub stream: Identity,
    /// The event's position in it.
    pub sequence: u64,
}

/// What clients read whose `since` is none.
pub const MALFORMED: &str = "must be the cursor of an event, or a time back such as -5m";

/// The text is no cursor.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("not a cursor")]
pub struct Malformed;

impl Identity {
    /// That of a stream which was created at `created`, as the server writes it.
    pub fn new(created: &str) -> Identity {
        let digest = ring::digest::digest(&ring::digest::SHA256, created.as_bytes());
        let mut identity = [0; 6];
        identity.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
        Identity(identity)
    }
}

impl Cursor {
    /// The text.
    pub fn to_text(self) -> [u8; TEXT_BYTES] {
        let mut bytes = [0; BYTES];
        let fields = self.stream.0.into_iter().chain(self.sequence.to_be_bytes());
        bytes.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        if let Some((check, fields)) = bytes.split_last_mut() {
            *check = check_byte(fields);
        }
        let mut text = [0; TEXT_BYTES];
        // 15 bytes are 20 characters, always.
        let _ = URL_SAFE_NO_PAD.encode_slice(bytes, &mut text);
        text
    }

    /// Reads the text.
    ///
    /// # Errors
    /// [`Malformed`] for everything that [`Cursor::to_text`] does not write.
    pub fn parse(text: &str) -> Result<Cursor, Malformed> {
        let mut bytes = [0; BYTES];
        if text.len() != TEXT_BYTES || URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) != Ok(BYTES) {
            return Err(Malformed);
        }
        let [stream @ .., s0, s1, s2, s3, s4, s5, s6, s7, check] = bytes;
        let sequence = [s0, s1, s2, s3, s4, s5, s6, s7];
        let fields = bytes.split_last().map(|(_, fields)| check_byte(fields));
        if fields != Some(check) {
            return Err(Malformed);
        }
        Ok(Cursor { stream: Identity(stream), sequence: u64::from_be_bytes(sequence) })
    }
}

/// CRC-8, which tells every single wrong character. No protection, and none is needed: a cursor opens nothing.
fn check_byte(fields: &[u8]) -> u8 {
    const POLYNOMIAL: u8 = 0x07;
    fields.iter().fold(0xFF, |check, byte| {
        (0..8).fold(check ^ byte, |check, _| (check << 1) ^ if check & 0x80 == 0 { 0 } else { POLYNOMIAL })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cursor(created: &str, sequence: u64) -> Cursor {
        Cursor { stream: Identity::new(created), sequence }
    }

    fn text(cursor: Cursor) -> String {
        String::from_utf8(cursor.to_text().to_vec()).unwrap()
    }

    #[test]
    fn cursors_are_the_same_in_every_release() {
        let text = text(cursor("2026-11-25T10:00:00.123456789Z", 18348));
        assert_eq!(text, "xOjuWb-YAAAAAAAAR6yh", "clients hold cursors while edges are upgraded");
    }

    #[test]
    fn other_texts_are_refused() {
        let good = text(cursor("t", 7));
        for bad in ["", "x", "-5m", &good[1..], &format!("{good}A"), "====================", "ÄÄÄÄÄÄÄÄÄÄ"]
        {
            assert_eq!(Cursor::parse(bad), Err(Malformed), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_cursor_is_what_was_written(created in ".{0,30}", sequence in any::<u64>()) {
            let cursor = cursor(&created, sequence);
            let text = text(cursor);
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')));
            prop_assert_eq!(Cursor::parse(&text), Ok(cursor));
        }

        #[test]
        fn different_cursors_have_different_texts(one in any::<(u8, u64)>(), other in any::<(u8, u64)>()) {
            let of = |(created, sequence): (u8, u64)| cursor(&created.to_string(), sequence);
            prop_assert_eq!(one == other, text(of(one)) == text(of(other)));
        }

        #[test]
        fn a_changed_character_is_noticed(sequence in any::<u64>(), at in 0..20usize, to in "[A-Za-z0-9_-]") {
            let good = text(cursor("t", sequence));
            let mut bad = good.clone();
            bad.replace_range(at..=at, &to);
            prop_assert_eq!(Cursor::parse(&bad).is_ok(), bad == good);
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,40}") {
            let _ = Cursor::parse(&text);
        }
    }
}
