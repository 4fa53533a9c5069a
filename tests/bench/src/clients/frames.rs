//! WebSocket frames (RFC 6455, 5.2), as much as a client of the bench needs.

use std::ops::Range;

/// A frame in a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// 0: goes on, 1: text, 2: binary, 8: close, 9: ping, 10: pong.
    pub(crate) opcode: u8,
    /// Whether the message ends with it.
    pub(crate) last: bool,
    /// Where its payload is.
    pub(crate) payload: Range<usize>,
}

impl Frame {
    /// The frame that begins at `at`, or nothing if it is not all there. Masked frames are not unmasked: servers send
    /// none.
    pub(crate) fn read(bytes: &[u8], at: usize) -> Option<Frame> {
        let bytes = bytes.get(at..)?;
        let (first, second) = (*bytes.first()?, *bytes.get(1)?);
        let (head, length) = match second & 0x7f {
            126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
            127 => (10, usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?),
            length => (2, usize::from(length)),
        };
        (bytes.len() - head.min(bytes.len()) >= length).then_some(())?;
        let from = at + head;
        Some(Frame { opcode: first & 15, last: first & 0x80 != 0, payload: from..from + length })
    }
}

/// The head of a frame that a server sends.
pub(crate) fn head(length: usize) -> Vec<u8> {
    head_with(0x81, 0, length)
}

/// Appends a frame that a client sends. Its mask is zero, which masks nothing and is as valid as any.
pub(crate) fn push_masked(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    out.extend_from_slice(&head_with(0x80 | opcode, 0x80, payload.len()));
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
}

fn head_with(first: u8, mask: u8, length: usize) -> Vec<u8> {
    match length {
        0..=125 => vec![first, mask | length as u8],
        126..=0xffff => [&[first, mask | 126], &(length as u16).to_be_bytes()[..]].concat(),
        _ => [&[first, mask | 127], &(length as u64).to_be_bytes()[..]].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_when_they_are_there() {
        for length in [0, 5, 125, 126, 1_500, 65_535, 65_536] {
            let mut bytes = vec![7; 3];
            bytes.extend(head(length));
            let payload = bytes.len()..bytes.len() + length;
            bytes.resize(payload.end, b'x');
            assert_eq!(Frame::read(&bytes, 3), Some(Frame { opcode: 1, last: true, payload }));
            for cut in [4, bytes.len() - 1] {
                assert_eq!(Frame::read(&bytes[..cut], 3), None);
            }
        }
    }
}
