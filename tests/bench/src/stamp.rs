//! The stamp of an event: lane, number and due time, inside the body's `Msg-ID`.

use memchr::memmem;

/// The start of a stamp; it occurs nowhere else in a frame.
const MARK: &[u8] = b"~bh~";
/// Digits: 8 for the lane, 8 for the number, 16 for the time.
const DIGITS: usize = 32;

/// The stamp of one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The lane of the event.
    pub(crate) lane: u32,
    /// Its number within the lane, from 0.
    pub(crate) number: u32,
    /// When it was due, by [`crate::clock::now`].
    pub(crate) due: u64,
}

impl Stamp {
    /// Appends it as text.
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(MARK);
        push_hex(out, u64::from(self.lane), 8);
        push_hex(out, u64::from(self.number), 8);
        push_hex(out, self.due, 16);
    }

    /// The first stamp in `frame`. `position` is where the last one was found: similar frames have it at the same
    /// position.
    pub(crate) fn find(frame: &[u8], position: &mut usize) -> Option<Stamp> {
        if let Some(stamp) = frame.get(*position..).and_then(Self::read) {
            return Some(stamp);
        }
        *position = memmem::find(frame, MARK)?;
        frame.get(*position..).and_then(Self::read)
    }

    fn read(text: &[u8]) -> Option<Stamp> {
        let digits = text.strip_prefix(MARK)?.get(..DIGITS)?;
        let (lane, rest) = digits.split_at(8);
        let (number, due) = rest.split_at(8);
        let (lane, number) = (u32::try_from(hex(lane)?).ok()?, u32::try_from(hex(number)?).ok()?);
        Some(Stamp { lane, number, due: hex(due)? })
    }
}

fn push_hex(out: &mut Vec<u8>, value: u64, digits: u32) {
    for place in (0..digits).rev() {
        let digit = (value >> (4 * place) & 15) as u8;
        out.push(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
    }
}

fn hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_found_at_any_position() {
        let stamp = Stamp { lane: 14_999, number: 77, due: 123_456_789_012 };
        let mut position = 3;
        for before in ["", "{\"action\":\"event\",\"args\":{\"Msg-ID\":\"", "~bh~ ~b"] {
            let mut frame = before.as_bytes().to_vec();
            stamp.write(&mut frame);
            assert_eq!(frame.len(), before.len() + MARK.len() + DIGITS);
            frame.extend_from_slice(b"\"}");
            let expected = (!before.starts_with('~')).then_some(stamp);
            assert_eq!(Stamp::find(&frame, &mut position), expected);
        }
        assert_eq!(Stamp::find(b"{\"action\":\"reply\"}", &mut position), None);
    }
}
