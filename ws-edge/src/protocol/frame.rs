//! WebSocket frames that go to clients (RFC 6455, 5.2).

use bytes::{BufMut, Bytes, BytesMut};

/// The first byte of a frame that is a whole text.
const TEXT: u8 = 0x81;
/// The same for a compressed text (RFC 7692).
const COMPRESSED_TEXT: u8 = 0xc1;
/// The longest header.
const MAX_HEADER_BYTES: usize = 10;

/// A text frame of these parts.
pub(crate) fn text_frame(parts: &[&[u8]]) -> Bytes {
    frame(TEXT, parts)
}

/// A text frame of these parts, which are compressed text together.
pub(crate) fn compressed_text_frame(parts: &[&[u8]]) -> Bytes {
    frame(COMPRESSED_TEXT, parts)
}

fn frame(first: u8, parts: &[&[u8]]) -> Bytes {
    let payload = parts.iter().map(|part| part.len()).sum();
    let mut frame = BytesMut::with_capacity(payload + MAX_HEADER_BYTES);
    put_header(&mut frame, first, payload);
    for part in parts {
        frame.put_slice(part);
    }
    frame.freeze()
}

/// How long a frame with a payload of this length is.
pub(crate) fn frame_len(payload: usize) -> usize {
    payload
        + match payload {
            ..126 => 2,
            126..0x1_0000 => 4,
            _ => MAX_HEADER_BYTES,
        }
}

/// Puts the header of a frame with a payload of this length. It is not masked, since it comes from the server.
fn put_header(frame: &mut BytesMut, first: u8, payload: usize) {
    frame.put_u8(first);
    match (u8::try_from(payload), u16::try_from(payload)) {
        (Ok(length @ ..126), _) => frame.put_u8(length),
        (_, Ok(length)) => {
            frame.put_u8(126);
            frame.put_u16(length);
        }
        _ => {
            frame.put_u8(127);
            frame.put_u64(payload as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_as_long_as_it_says() {
        for (payload, header) in [
            (0, &[0x81, 0][..]),
            (125, &[0x81, 125]),
            (126, &[0x81, 126, 0, 126]),
            (0xffff, &[0x81, 126, 0xff, 0xff]),
            (0x1_0000, &[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let (half, text) = (payload / 2, vec![b'x'; payload]);
            let frame = text_frame(&[&text[..half], &text[half..]]);
            assert!(frame[..] == [header, &text].concat(), "{payload}");
            assert_eq!(frame_len(payload), frame.len());
        }
    }
}
