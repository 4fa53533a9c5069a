//! What a NATS server sends, taken apart where it lies: a message is slices of what was read, nothing is copied.
//!
//! The server's side of the client protocol: `INFO`, `MSG`, `HMSG`, `PING`, `PONG`, `+OK`, `-ERR`.

use bytes::{Bytes, BytesMut};
use memchr::memmem;
use thiserror::Error;

use crate::wire::push_header_text;

/// Identifies a subscription on its connection.
pub type SubscriptionId = u64;

/// A control line of nats-server has at most `max_control_line` bytes, 4096 unless configured; an `INFO` of a large
/// cluster lists its servers.
const MOST_LINE_BYTES: usize = 64 * 1024;
/// nats-server allows at most this as `max_payload`.
const MOST_PAYLOAD_BYTES: usize = 64 * 1024 * 1024;

/// What the server says.
#[derive(Debug, PartialEq, Eq)]
pub enum Op {
    /// A message of a subscription.
    Message(Message),
    /// It asks for a sign of life.
    Ping,
    /// It answers ours; everything sent before has been handled.
    Pong,
    /// About itself, as JSON.
    Info(Bytes),
    /// Something of ours was refused.
    Error(String),
    /// Nothing of interest.
    Ok,
}

/// A message, as slices of what was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The number of the subscription that it came for.
    pub subscription: SubscriptionId,
    /// Its subject: UTF-8, checked.
    pub subject: Bytes,
    /// Its header block, with the version line; empty without headers.
    pub headers: Bytes,
    /// Its payload.
    pub payload: Bytes,
}

/// The server does not speak the protocol.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("the server does not speak NATS: {0}")]
pub struct ProtocolError(&'static str);

impl Message {
    /// The subject as text.
    pub fn subject(&self) -> &str {
        std::str::from_utf8(&self.subject).unwrap_or_default()
    }

    /// The value of a header, its name written as the publisher does; `None` if it is not there or no text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let value = header(&self.headers, name.as_bytes())?;
        std::str::from_utf8(value).ok()
    }

    /// The status of a message that the server itself sent instead of an answer, such as 503.
    pub fn status(&self) -> Option<u16> {
        let line = self.headers.strip_prefix(b"NATS/1.0 ")?;
        std::str::from_utf8(line.get(..3)?).ok()?.parse().ok()
    }
}

/// The headers of a message that is to be published.
#[derive(Debug)]
pub struct HeaderBlock(String);

impl HeaderBlock {
    /// Without any yet.
    pub fn new() -> HeaderBlock {
        // The events' headers have some 200 bytes.
        let mut block = String::with_capacity(256);
        block.push_str("NATS/1.0\r\n");
        HeaderBlock(block)
    }

    /// Adds one, its value as [`header_text`](crate::wire::header_text).
    pub fn add(&mut self, name: &'static str, value: &str) {
        self.0.push_str(name);
        self.0.push_str(": ");
        push_header_text(&mut self.0, value);
        self.0.push_str("\r\n");
    }

    /// The block, with the empty line that ends it.
    pub fn finish(mut self) -> Bytes {
        self.0.push_str("\r\n");
        self.0.into()
    }
}

impl Default for HeaderBlock {
    fn default() -> Self {
        HeaderBlock::new()
    }
}

/// The value of a header of a block; `None` if it is not there.
pub fn header<'h>(block: &'h [u8], name: &[u8]) -> Option<&'h [u8]> {
    let mut lines = block;
    while let Some(end) = memmem::find(lines, b"\r\n") {
        let (line, rest) = lines.split_at_checked(end)?;
        if let Some(value) = line.strip_prefix(name).and_then(|rest| rest.strip_prefix(b":")) {
            return Some(value.trim_ascii());
        }
        lines = rest.get(2..)?;
    }
    None
}

/// Takes the next operation out of what was read; `None` if it is not all there yet.
///
/// # Errors
/// When it is none; the connection is of no more use.
pub fn next(read: &mut BytesMut) -> Result<Option<Op>, ProtocolError> {
    let Some(end) = memchr::memchr(b'\n', read) else {
        return if read.len() > MOST_LINE_BYTES { Err(ProtocolError("an endless line")) } else { Ok(None) };
    };
    let line = read.get(..end).unwrap_or_default().trim_ascii_end();
    let (verb, arguments) = match memchr::memchr2(b' ', b'\t', line) {
        Some(space) => line.split_at(space),
        None => (line, &[][..]),
    };
    let op = match verb {
        b"MSG" | b"HMSG" => return message(read, end + 1),
        b"PING" => Op::Ping,
        b"PONG" => Op::Pong,
        b"+OK" => Op::Ok,
        b"INFO" => Op::Info(Bytes::copy_from_slice(arguments.trim_ascii())),
        b"-ERR" => Op::Error(String::from_utf8_lossy(arguments.trim_ascii()).trim_matches('\'').to_owned()),
        _ => return Err(ProtocolError("an unknown operation")),
    };
    let _ = read.split_to(end + 1);
    Ok(Some(op))
}

/// `MSG <subject> <sid> [reply] <bytes>` or `HMSG <subject> <sid> [reply] <header bytes> <all bytes>`, then what it
/// counts and a line end.
fn message(read: &mut BytesMut, line_bytes: usize) -> Result<Option<Op>, ProtocolError> {
    const BAD: ProtocolError = ProtocolError("a message without subject, subscription and size");
    let line = read.get(..line_bytes).unwrap_or_default().trim_ascii_end();
    let has_headers = line.starts_with(b"H");
    let mut words = line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
    let (_, subject, subscription) = (words.next(), words.next().ok_or(BAD)?, words.next().ok_or(BAD)?);
    let subject_at = subject.as_ptr().addr().saturating_sub(line.as_ptr().addr());
    let subject_end = subject_at + subject.len();
    std::str::from_utf8(subject).map_err(|_| BAD)?;
    let subscription = number(subscription).ok_or(BAD)? as SubscriptionId;
    let rest = (words.next(), words.next(), words.next());
    let (header_bytes, all_bytes) = match (has_headers, rest) {
        (false, (Some(bytes), None, _) | (_, Some(bytes), None)) => (Some(0), number(bytes)),
        (true, (Some(headers), Some(all), None) | (_, Some(headers), Some(all))) => {
            (number(headers), number(all))
        }
        _ => return Err(BAD),
    };
    let (header_bytes, all_bytes) = (header_bytes.ok_or(BAD)?, all_bytes.ok_or(BAD)?);
    if header_bytes > all_bytes || all_bytes > MOST_PAYLOAD_BYTES {
        return Err(ProtocolError("a message of an impossible size"));
    }
    let whole_bytes = line_bytes + all_bytes + 2;
    if read.len() < whole_bytes {
        read.reserve(whole_bytes - read.len());
        return Ok(None);
    }
    let whole = read.split_to(whole_bytes).freeze();
    if !whole.ends_with(b"\r\n") {
        return Err(ProtocolError("a message that is longer than it says"));
    }
    let (body, end) = (line_bytes + header_bytes, whole_bytes - 2);
    Ok(Some(Op::Message(Message {
        subscription,
        subject: whole.slice(subject_at..subject_end),
        headers: whole.slice(line_bytes..body),
        payload: whole.slice(body..end),
    })))
}

fn number(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(bytes: &[u8]) -> Vec<Op> {
        let mut read = BytesMut::from(bytes);
        let ops = std::iter::from_fn(|| next(&mut read).unwrap()).collect();
        assert!(read.is_empty(), "{read:?} is left");
        ops
    }

    #[test]
    fn operations_are_told_apart() {
        let ops = all(
            b"INFO {\"a\":1} \r\n+OK\r\nPING\r\nPONG\r\n-ERR 'Stale Connection'\r\nMSG a.b 7 3\r\nx\r\n\r\nMSG a.b 7 reply 0\r\n\r\n",
        );
        let message = |payload: &'static [u8]| {
            Op::Message(Message {
                subscription: 7,
                subject: Bytes::from_static(b"a.b"),
                headers: Bytes::new(),
                payload: Bytes::from_static(payload),
            })
        };
        assert_eq!(
            ops,
            [
                Op::Info(Bytes::from_static(b"{\"a\":1}")),
                Op::Ok,
                Op::Ping,
                Op::Pong,
                Op::Error("Stale Connection".into()),
                message(b"x\r\n"),
                message(b""),
            ]
        );
    }

    #[test]
    fn headers_are_read_where_they_lie() {
        let block = "NATS/1.0\r\nBh-Name: CHANNEL_CREATE\r\nNats-Sequence: 18\r\n\r\n";
        let text = format!("HMSG s 1 {} {}\r\n{block}{{}}\r\n", block.len(), block.len() + 2);
        let ops = all(text.as_bytes());
        let [Op::Message(message)] = ops.as_slice() else { panic!("{ops:?}") };
        assert_eq!(message.header("Bh-Name"), Some("CHANNEL_CREATE"));
        assert_eq!(message.header("Nats-Sequence"), Some("18"));
        assert_eq!((message.header("Nats"), message.header("Name")), (None, None));
        assert_eq!((message.payload.as_ref(), message.status()), (&b"{}"[..], None));
        let ops = all(b"HMSG s 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n");
        assert!(matches!(ops.as_slice(), [Op::Message(message)] if message.status() == Some(503)));
    }

    #[test]
    fn what_is_no_nats_is_an_error_and_never_waits_for_ever() {
        for text in [
            "HTTP/1.1 400 Bad Request\r\n",
            "MSG\r\n",
            "MSG a\r\n",
            "MSG a 1\r\n",
            "MSG a 1 x\r\n",
            "MSG a 1 r 5 6 7\r\n",
            "MSG a x 1\r\n",
            "HMSG a 1 4\r\n",
            "HMSG a 1 9 4\r\n",
            "MSG a 1 99999999999\r\n",
            "MSG a 1 1\r\nxyz",
        ] {
            assert!(next(&mut BytesMut::from(text)).is_err(), "{text}");
        }
        assert!(next(&mut BytesMut::from(vec![b'x'; MOST_LINE_BYTES + 1].as_slice())).is_err());
    }

    proptest! {
        #[test]
        fn pieces_give_what_the_whole_gives(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6),
            cuts in prop::collection::vec(1..30usize, 1..20),
        ) {
            let mut text = Vec::new();
            for payload in &payloads {
                text.extend(format!("MSG a.b 1 {}\r\n", payload.len()).bytes());
                text.extend(payload);
                text.extend(b"\r\n");
            }
            let (mut read, mut got, mut rest) = (BytesMut::new(), Vec::new(), text.as_slice());
            for cut in cuts.into_iter().cycle() {
                let (piece, later) = rest.split_at(cut.min(rest.len()));
                read.extend_from_slice(piece);
                rest = later;
                while let Some(op) = next(&mut read).unwrap() {
                    let Op::Message(message) = op else { panic!("{op:?}") };
                    got.push(message.payload.to_vec());
                }
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(got, payloads);
        }

        #[test]
        fn nothing_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut read = BytesMut::from(bytes.as_slice());
            while let Ok(Some(_)) = next(&mut read) {}
        }
    }
}
