//! WebSocket frames and the opening handshake (RFC 6455) as bytes, for test clients that do their own I/O.

use std::ops::Range;

use memchr::memmem;

/// The first byte of a text frame that is a whole message.
pub const TEXT: u8 = 0x81;
/// The first byte of a text message's first fragment.
pub const TEXT_START: u8 = 0x01;
/// The first byte of a fragment between the first and the last.
pub const CONTINUATION: u8 = 0x00;
/// The first byte of the last fragment.
pub const LAST_FRAGMENT: u8 = 0x80;
/// The first byte of a close frame.
pub const CLOSE: u8 = 0x88;
/// The first byte of a ping.
pub const PING: u8 = 0x89;
/// The first byte of a pong.
pub const PONG: u8 = 0x8A;

/// The key that every client here sends in its handshake: the example of RFC 6455.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// What a server has to answer to that key in `Sec-WebSocket-Accept`.
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const MASKED: u8 = 0x80;
const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// A frame inside a buffer.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its first byte: the opcode, and whether it is a message's last frame.
    pub first: u8,
    /// Where its payload is. Masked payloads are not unmasked: servers send none.
    pub payload: Range<usize>,
}

impl Frame {
    /// The frame at `at`; none while its end has not arrived.
    #[inline]
    pub fn parse(bytes: &[u8], at: usize) -> Option<Frame> {
        let bytes = bytes.get(at..)?;
        let (first, second) = (*bytes.first()?, *bytes.get(1)?);
        let (head, length) = match second & !MASKED {
            126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
            127 => (10, usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?),
            length => (2, usize::from(length)),
        };
        (bytes.len() - head.min(bytes.len()) >= length).then_some(())?;
        let from = at + head;
        Some(Frame { first, payload: from..from + length })
    }

    /// 0: continuation, 1: text, 2: binary, 8: close, 9: ping, 10: pong.
    #[inline]
    pub fn opcode(&self) -> u8 {
        self.first & 0x0F
    }
}

/// Appends a client's frame with an all-zero mask: valid, and it costs nothing to apply.
pub fn push_client_frame(out: &mut Vec<u8>, first: u8, payload: &[u8]) {
    push_head(out, first, MASKED, payload.len());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
}

/// A client's frame, really masked.
pub fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + 14);
    push_head(&mut frame, first, MASKED, payload.len());
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// Appends the head of a server's text frame.
pub fn push_server_head(out: &mut Vec<u8>, length: usize) {
    push_head(out, TEXT, 0, length);
}

fn push_head(out: &mut Vec<u8>, first: u8, mask: u8, length: usize) {
    out.push(first);
    match length {
        0..=125 => out.push(mask | length as u8),
        126..=0xFFFF => {
            out.push(mask | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(mask | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

/// A valid upgrade request with `changes`: each replaces a header, removes it (`None`), or adds another one.
pub fn upgrade_request(target: &str, changes: &[(&str, Option<&str>)]) -> String {
    let mut headers = vec![
        ("Host", "localhost"),
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", KEY),
    ];
    for &(name, value) in changes {
        headers.retain(|(own, _)| *own != name);
        headers.extend(value.map(|value| (name, value)));
    }
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("GET {target} HTTP/1.1\r\n{headers}\r\n")
}

/// Where the response to an upgrade request ends; none while its end has not arrived. If the status is not 101, the
/// error is the status line.
pub fn upgrade_end(bytes: &[u8]) -> Result<Option<usize>, String> {
    let Some(end) = memmem::find(bytes, b"\r\n\r\n") else { return Ok(None) };
    if bytes.starts_with(b"HTTP/1.1 101 ") {
        return Ok(Some(end + 4));
    }
    Err(String::from_utf8_lossy(bytes).lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTHS: [usize; 7] = [0, 5, 125, 126, 1_500, 65_535, 65_536];

    #[test]
    fn a_frame_is_parsed_once_its_last_byte_has_arrived() {
        for length in LENGTHS {
            let mut bytes = vec![7; 3];
            push_server_head(&mut bytes, length);
            let payload = bytes.len()..bytes.len() + length;
            bytes.resize(payload.end, b'x');
            let frame = Frame::parse(&bytes, 3).unwrap();
            assert_eq!(frame.opcode(), 1);
            assert_eq!(frame, Frame { first: TEXT, payload });
            for cut in [4, bytes.len() - 1] {
                assert_eq!(Frame::parse(&bytes[..cut], 3), None, "{length}");
            }
        }
    }

    #[test]
    fn client_frames_are_masked_and_give_their_payload_back() {
        for length in LENGTHS {
            let payload: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let mut unchanged = Vec::new();
            push_client_frame(&mut unchanged, PING, &payload);
            for (frame, mask) in [(unchanged, [0; 4]), (client_frame(PING, &payload), MASK)] {
                let at = frame.len() - length;
                assert_eq!((frame[0], frame[1] & MASKED), (PING, MASKED));
                assert_eq!(frame[at - 4..at], mask);
                let unmasked: Vec<u8> =
                    frame[at..].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
                assert_eq!(unmasked, payload);
            }
        }
    }

    #[test]
    fn an_upgrade_request_takes_changed_removed_and_further_headers() {
        let changes = [("Host", Some("edge")), ("Upgrade", None), ("Origin", Some("null"))];
        assert_eq!(
            upgrade_request("/x", &changes),
            "GET /x HTTP/1.1\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nHost: edge\r\nOrigin: null\r\n\r\n"
        );
    }

    #[test]
    fn only_status_101_completes_an_upgrade() {
        assert_eq!(upgrade_end(b"HTTP/1.1 101 Switching\r\nA: b\r\n\r\nx"), Ok(Some(32)));
        assert_eq!(upgrade_end(b"HTTP/1.1 101 Switching\r\n"), Ok(None));
        assert_eq!(upgrade_end(b"HTTP/1.1 503 Full\r\n\r\n"), Err("HTTP/1.1 503 Full".into()));
    }
}
