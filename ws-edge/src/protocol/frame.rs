//! Headers of WebSocket frames that go to clients (RFC 6455, 5.2).

use bytes::{BufMut, BytesMut};

/// The first byte of a frame that is a whole text.
pub(crate) const TEXT: u8 = 0x81;
/// The same for a compressed text (RFC 7692).
pub(crate) const COMPRESSED_TEXT: u8 = 0xc1;
/// The longest header.
pub(crate) const MAX_HEADER_BYTES: usize = 10;

/// Puts the header of a frame with a payload of this length. It is not masked, since it comes from the server.
pub(crate) fn put_header(frame: &mut BytesMut, first: u8, payload: usize) {
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
