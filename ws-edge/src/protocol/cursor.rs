//! Cursors: a client's position in the history, as a short text that every edge can read.
//!
//! An event that matches several bindings of a session is sent once for each, and the connection may break between
//! these frames. So a cursor contains the event's position and the [`Rank`] of the frame's binding: every edge sends
//! the frames of an event in the order of their ranks.
//!
//! A cursor of version 1 is 24 characters of base64url: five bytes identify the stream, eight are the event's position in
//! it, four the rank, and one a checksum. Clients treat it as opaque. A later version will begin with `v`, its number and
//! a dot, such as `v2.`, which version 1 cannot contain. Edges of two releases run side by side during an upgrade, so an
//! edge writes a version only when all edges can read it.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use thiserror::Error;

/// Bytes of a cursor before base64 encoding.
const BYTES: usize = 18;
/// Characters of a cursor.
pub(crate) const TEXT_BYTES: usize = 24;

/// Identifies a stream: a hash of its creation time, so that a stream that is deleted and created again has a new id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId([u8; 5]);

/// An event's position in the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventPosition {
    /// The stream.
    pub stream: StreamId,
    /// The event's position in it.
    pub sequence: u64,
}

/// The order of an event's frames: a hash of the binding that a frame is for. If two bindings of a session have the
/// same rank (probability 1 in 2 billion) and the connection breaks between their frames, the second frame is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rank(u32);

/// A frame's position in the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The position of its event.
    pub position: EventPosition,
    /// The rank of its binding, or `Rank::LAST`.
    pub rank: Rank,
}

/// The text is not a cursor, or one of a version that this edge does not know.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("not a cursor that this edge knows")]
pub struct Malformed;

impl StreamId {
    /// The id of the stream that was created at `created`, as the server formats the time.
    pub fn new(created: &str) -> StreamId {
        StreamId(digest(created))
    }
}

impl Rank {
    /// Above all bindings: the session has received every frame of the event.
    pub(crate) const LAST: Rank = Rank(u32::MAX);

    /// The rank of a client's binding for an account (`*` for all).
    pub(crate) fn of(account: &str, binding: &str) -> Rank {
        Rank(u32::from_be_bytes(digest(&format!("{account} {binding}"))) >> 1)
    }
}

/// A hash that must not change between releases: clients keep cursors while edges are upgraded.
fn digest<const BYTES: usize>(text: &str) -> [u8; BYTES] {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    let mut bytes = [0; BYTES];
    bytes.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    bytes
}

impl Cursor {
    /// Encodes the cursor.
    pub fn to_text(self) -> [u8; TEXT_BYTES] {
        let mut bytes = [0; BYTES];
        let position = self.position.stream.0.into_iter().chain(self.position.sequence.to_be_bytes());
        let fields = position.chain(self.rank.0.to_be_bytes());
        bytes.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        if let Some((check, fields)) = bytes.split_last_mut() {
            *check = check_byte(fields);
        }
        let mut text = [0; TEXT_BYTES];
        // 18 bytes always encode to 24 characters.
        let _ = URL_SAFE_NO_PAD.encode_slice(bytes, &mut text);
        text
    }

    /// Decodes a cursor.
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

/// CRC-8, which detects every single changed character. A cursor grants no access, so it needs no protection.
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
    fn cursors_do_not_change_between_releases() {
        let text = text(cursor("2026-11-25T10:00:00.123456789Z", 18348, "call.*.*"));
        assert_eq!(text, "xOjuWb8AAAAAAABHrCvbbUU5", "clients keep cursors while edges are upgraded");
    }

    #[test]
    fn other_texts_are_rejected() {
        let good = text(cursor("t", 7, "b"));
        for bad in [
            "",
            "x",
            "-5m",
            &good[1..],
            &format!("{good}A"),
            "========================",
            "ÄÄÄÄÄÄÄÄÄÄÄÄ",
            "v2.aaaaaaaaaaaaaaaaaaaaa",
        ] {
            assert_eq!(Cursor::parse(bad), Err(Malformed), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn decoding_reverses_encoding(created in ".{0,30}", sequence in any::<u64>(), binding in ".{0,9}") {
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
        fn a_changed_character_is_detected(sequence in any::<u64>(), at in 0..TEXT_BYTES, to in "[A-Za-z0-9_-]") {
            let good = text(cursor("t", sequence, "b"));
            let mut bad = good.clone();
            bad.replace_range(at..=at, &to);
            prop_assert_eq!(Cursor::parse(&bad).is_ok(), bad == good);
        }

        #[test]
        fn no_text_causes_a_panic(text in ".{0,40}") {
            let _ = Cursor::parse(&text);
        }
    }
}
