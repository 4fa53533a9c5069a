//! Zero-copy parser of what a NATS server sends: messages are slices of the read buffer.
//!
//! It covers the server's half of the client protocol: `INFO`, `MSG`, `HMSG`, `PING`, `PONG`, `+OK`, `-ERR`.

use bytes::{Bytes, BytesMut};
use memchr::memmem;
use thiserror::Error;

use crate::wire::push_header_text;

/// Identifies a subscription within its connection (`sid`).
pub type SubscriptionId = u64;

/// nats-server's `max_control_line` is 4096 bytes by default; the `INFO` of a large cluster can be longer, as
/// it lists the servers.
const MAX_LINE_BYTES: usize = 64 * 1024;
/// The maximum that nats-server accepts as `max_payload`.
const MAX_PAYLOAD_BYTES: usize = 64 * 1024 * 1024;

/// An operation sent by the server.
#[derive(Debug, PartialEq, Eq)]
pub enum Op {
    /// A message of a subscription.
    Message(Message),
    /// A keep-alive ping.
    Ping,
    /// The reply to our ping: the server has processed everything sent before it.
    Pong,
    /// Information about the server, as JSON.
    Info(Bytes),
    /// An error, such as a permissions violation.
    Error(String),
    /// An acknowledgement in verbose mode.
    Ok,
}

/// A message, as slices of the read buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The subscription that it matched.
    pub subscription: SubscriptionId,
    /// The subject; always valid UTF-8.
    pub subject: Bytes,
    /// The header block including the version line; empty if there are no headers.
    pub headers: Bytes,
    /// The payload.
    pub payload: Bytes,
}

/// The server violates the protocol.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("the server does not speak NATS: {0}")]
pub struct ProtocolError(&'static str);

impl Message {
    /// The subject as text.
    pub fn subject(&self) -> &str {
        std::str::from_utf8(&self.subject).unwrap_or_default()
    }

    /// The value of a header, or `None` if it is absent or not UTF-8. The name is case-sensitive.
    pub fn header(&self, name: &str) -> Option<&str> {
        let value = header(&self.headers, name.as_bytes())?;
        std::str::from_utf8(value).ok()
    }

    /// The status code of a message that the server itself sent instead of a reply, such as 503.
    pub fn status(&self) -> Option<u16> {
        let line = self.headers.strip_prefix(b"NATS/1.0 ")?;
        std::str::from_utf8(line.get(..3)?).ok()?.parse().ok()
    }
}

/// Builds the headers of a message to publish.
#[derive(Debug)]
pub struct HeaderBlock(String);

impl HeaderBlock {
    /// An empty header block.
    pub fn new() -> HeaderBlock {
        // The headers of an event have about 200 bytes.
        let mut block = String::with_capacity(256);
        block.push_str("NATS/1.0\r\n");
        HeaderBlock(block)
    }

    /// Adds a header, with its value encoded as [`header_text`](crate::wire::header_text).
    pub fn add(&mut self, name: &'static str, value: &str) {
        self.0.push_str(name);
        self.0.push_str(": ");
        push_header_text(&mut self.0, value);
        self.0.push_str("\r\n");
    }

    /// The block, including the empty line that ends it.
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

/// The value of a header in a block, or `None` if it is absent.
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

/// Removes the next operation from the read buffer; `None` if it is not complete.
///
/// # Errors
/// If the input is not valid; the connection is unusable then.
pub fn next(read: &mut BytesMut) -> Result<Option<Op>, ProtocolError> {
    let Some(end) = memchr::memchr(b'\n', read) else {
        return if read.len() > MAX_LINE_BYTES {
            Err(ProtocolError("the line is too long"))
        } else {
            Ok(None)
        };
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
        _ => return Err(ProtocolError("unknown operation")),
    };
    let _ = read.split_to(end + 1);
    Ok(Some(op))
}

/// `MSG <subject> <sid> [reply] <bytes>` or `HMSG <subject> <sid> [reply] <header bytes> <total bytes>`, then
/// the headers and payload and a line end.
fn message(read: &mut BytesMut, line_bytes: usize) -> Result<Option<Op>, ProtocolError> {
    const BAD: ProtocolError = ProtocolError("invalid message arguments");
    let line = read.get(..line_bytes).unwrap_or_default().trim_ascii_end();
    let has_headers = line.starts_with(b"H");
    let mut words = line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
    let (_, subject, subscription) = (words.next(), words.next().ok_or(BAD)?, words.next().ok_or(BAD)?);
    let subject_start = subject.as_ptr().addr().saturating_sub(line.as_ptr().addr());
    let subject_end = subject_start + subject.len();
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
    if header_bytes > all_bytes || all_bytes > MAX_PAYLOAD_BYTES {
        return Err(ProtocolError("invalid message size"));
    }
    let total_bytes = line_bytes + all_bytes + 2;
    if read.len() < total_bytes {
        read.reserve(total_bytes - read.len());
        return Ok(None);
    }
    let message = read.split_to(total_bytes).freeze();
    if !message.ends_with(b"\r\n") {
        return Err(ProtocolError("the message does not end where its size says"));
    }
    let (payload_start, end) = (line_bytes + header_bytes, total_bytes - 2);
    Ok(Some(Op::Message(Message {
        subscription,
        subject: message.slice(subject_start..subject_end),
        headers: message.slice(line_bytes..payload_start),
        payload: message.slice(payload_start..end),
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
    fn all_operations_are_parsed() {
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
    fn headers_and_status_are_parsed() {
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
    fn invalid_input_is_an_error_instead_of_waiting_forever() {
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
        assert!(next(&mut BytesMut::from(vec![b'x'; MAX_LINE_BYTES + 1].as_slice())).is_err());
    }

    proptest! {
        #[test]
        fn input_can_be_split_anywhere(
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
        fn arbitrary_input_does_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut read = BytesMut::from(bytes.as_slice());
            while let Ok(Some(_)) = next(&mut read) {}
        }
    }
}
