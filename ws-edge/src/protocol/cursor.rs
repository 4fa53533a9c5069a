//! Cursors: where in the history a client stands, as a short text that every edge understands.
//!
//! An event that matches several bindings of a session comes once for each, and the connection may end between two of
//! these frames. So a cursor names the event, and up to which of its frames the session has had it: these go out in the
//! order of their bindings' [`Rank`]s, on every edge.
//!
//! Twenty-four characters of base64url: five bytes that tell the stream from any other, eight of the event's position in
//! it, four of the rank, and one to check them. Clients treat it as opaque.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use thiserror::Error;

/// Bytes of a cursor before it is written as text.
const BYTES: usize = 18;
/// Characters of a cursor.
pub const TEXT_BYTES: usize = 24;

/// Which stream it is: made of the time of its creation, so that one that was deleted and made again is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId([u8; 5]);

/// An event's place in the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventPosition {
    /// The stream.
    pub stream: StreamId,
    /// The event's position in it.
    pub sequence: u64,
}

/// Which of an event's frames come before which: made of the binding that they are for. Two bindings of a session could
/// have the same, once in two thousand million; then nothing is repeated, and the second frame of an event would be
/// missed if the connection ended between the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rank(u32);

/// A frame's place in the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The event's.
    pub position: EventPosition,
    /// That of the binding which the frame is for, or [`Rank::LAST`].
    pub rank: Rank,
}

/// What clients read whose `since` is none.
pub const MALFORMED: &str = "must be the cursor of an event, or a time back such as -5m";

/// The text is no cursor.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("not a cursor")]
pub struct Malformed;

impl StreamId {
    /// That of a stream which was created at `created`, as the server writes it.
    pub fn new(created: &str) -> StreamId {
        StreamId(digest(created))
    }
}

impl Rank {
    /// That of an event's last frame for a session: it has had all of it.
    pub const LAST: Rank = Rank(u32::MAX);

    /// That of a client's binding of an account (`*` for all).
    pub fn of(account: &str, binding: &str) -> Rank {
        Rank(u32::from_be_bytes(digest(&format!("{account} {binding}"))) >> 1)
    }
}

/// The same in every release: clients hold cursors while edges are upgraded.
fn digest<const BYTES: usize>(text: &str) -> [u8; BYTES] {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    let mut bytes = [0; BYTES];
    bytes.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    bytes
}

impl Cursor {
    /// The text.
    pub fn to_text(self) -> [u8; TEXT_BYTES] {
        let mut bytes = [0; BYTES];
        let position = self.position.stream.0.into_iter().chain(self.position.sequence.to_be_bytes());
        let fields = position.chain(self.rank.0.to_be_bytes());
        bytes.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        if let Some((check, fields)) = bytes.split_last_mut() {
            *check = check_byte(fields);
        }
        let mut text = [0; TEXT_BYTES];
        // 18 bytes are 24 characters, always.
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
        let [i0, i1, i2, i3, i4, s0, s1, s2, s3, s4, s5, s6, s7, r0, r1, r2, r3, check] = bytes;
        let fields = bytes.split_last().map(|(_, fields)| check_byte(fields));
        if fields != Some(check) {
            return Err(Malformed);
        }
        Ok(Cursor {
            position: EventPosition {
                stream: StreamId([i0, i1, i2, i3, i4]),
                sequence: u64::from_be_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
            },
            rank: Rank(u32::from_be_bytes([r0, r1, r2, r3])),
        })
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

    fn cursor(created: &str, sequence: u64, binding: &str) -> Cursor {
        let position = EventPosition { stream: StreamId::new(created), sequence };
        Cursor { position, rank: Rank::of("acc", binding) }
    }

    fn text(cursor: Cursor) -> String {
        String::from_utf8(cursor.to_text().to_vec()).unwrap()
    }

    #[test]
    fn cursors_are_the_same_in_every_release() {
        let text = text(cursor("2026-11-25T10:00:00.123456789Z", 18348, "call.*.*"));
        assert_eq!(text, "xOjuWb8AAAAAAABHrCvbbUU5", "clients hold cursors while edges are upgraded");
    }

    #[test]
    fn other_texts_are_refused() {
        let good = text(cursor("t", 7, "b"));
        for bad in
            ["", "x", "-5m", &good[1..], &format!("{good}A"), "========================", "ÄÄÄÄÄÄÄÄÄÄÄÄ"]
        {
            assert_eq!(Cursor::parse(bad), Err(Malformed), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_cursor_is_what_was_written(created in ".{0,30}", sequence in any::<u64>(), binding in ".{0,9}") {
            let cursor = cursor(&created, sequence, &binding);
            let text = text(cursor);
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')));
            prop_assert_eq!(Cursor::parse(&text), Ok(cursor));
        }

        #[test]
        fn different_cursors_have_different_texts(one in any::<(u8, u64, u8)>(), other in any::<(u8, u64, u8)>()) {
            let of = |(created, sequence, binding): (u8, u64, u8)| {
                cursor(&created.to_string(), sequence, &binding.to_string())
            };
            prop_assert_eq!(one == other, text(of(one)) == text(of(other)));
        }

        #[test]
        fn a_changed_character_is_noticed(sequence in any::<u64>(), at in 0..TEXT_BYTES, to in "[A-Za-z0-9_-]") {
            let good = text(cursor("t", sequence, "b"));
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
