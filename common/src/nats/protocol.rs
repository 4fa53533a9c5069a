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
    /// The subject for replies; empty if there is none.
    pub reply: Bytes,
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

    /// Adds a header whose value is such a text already.
    pub fn add_text(&mut self, name: &'static str, text: &str) {
        self.0.push_str(name);
        self.0.push_str(": ");
        self.0.push_str(text);
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
    let reply = if has_headers { rest.2.and(rest.0) } else { rest.1.and(rest.0) }.map(|reply| {
        let start = reply.as_ptr().addr().saturating_sub(line.as_ptr().addr());
        start..start + reply.len()
    });
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
        reply: reply.map_or_else(Bytes::new, |range| message.slice(range)),
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
        let message = |reply: &'static [u8], payload: &'static [u8]| {
            Op::Message(Message {
                subscription: 7,
                subject: Bytes::from_static(b"a.b"),
                reply: Bytes::from_static(reply),
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
                message(b"", b"x\r\n"),
                message(b"reply", b""),
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
        let (arguments, size) = ("invalid message arguments", "invalid message size");
        for (text, reason) in [
            ("HTTP/1.1 400 Bad Request\r\n", "unknown operation"),
            ("MSG\r\n", arguments),
            ("MSG a\r\n", arguments),
            ("MSG a 1\r\n", arguments),
            ("MSG a 1 x\r\n", arguments),
            ("MSG a 1 r x\r\n", arguments),
            ("MSG a 1 r 5 6\r\n", arguments),
            ("MSG a 1 r 5 6 7\r\n", arguments),
            ("MSG a x 1\r\n", arguments),
            ("HMSG a 1 4\r\n", arguments),
            ("HMSG a 1 9 4\r\n", size),
            ("MSG a 1 67108865\r\n", size),
            ("MSG a 1 1\r\nxyz", "the message does not end where its size says"),
        ] {
            assert_eq!(next(&mut BytesMut::from(text)), Err(ProtocolError(reason)), "{text}");
        }
        let line = |length| BytesMut::from(vec![b'x'; length].as_slice());
        assert_eq!(next(&mut line(65_536)), Ok(None));
        assert_eq!(next(&mut line(65_537)), Err(ProtocolError("the line is too long")));
        assert_eq!(next(&mut BytesMut::from("MSG a 1 67108864\r\n")), Ok(None));
        let mut subject = BytesMut::from(&b"MSG \xff 1 0\r\n\r\n"[..]);
        assert_eq!(next(&mut subject), Err(ProtocolError(arguments)));
    }

    #[test]
    fn header_blocks_are_built_as_they_are_parsed() {
        let mut block = HeaderBlock::default();
        block.add("Nats-Msg-Id", "1");
        block.add("Bh-Key", "a\"b\r\nc");
        let block = block.finish();
        assert_eq!(
            block.as_ref(),
            b"NATS/1.0\r\nNats-Msg-Id: 1\r\nBh-Key: a\\\"b\\u000d\\u000ac\r\n\r\n".as_slice()
        );
        assert_eq!(header(&block, b"Nats-Msg-Id"), Some(&b"1"[..]));
        assert_eq!(header(&block, b"Bh-Key"), Some(&br#"a\"b\u000d\u000ac"#[..]));
        assert_eq!(header(&block, b"Bh-Name"), None);
        assert_eq!(header(b"", b"Bh-Name"), None);
    }

    proptest! {
        #[test]
        fn input_can_be_split_anywhere(
            messages in prop::collection::vec(
                (prop::option::of("[a-z]{0,9}"), prop::collection::vec(any::<u8>(), 0..40)), 1..6,
            ),
            cuts in prop::collection::vec(1..30usize, 1..20),
        ) {
            let mut text = Vec::new();
            let mut expected = Vec::new();
            for (header, payload) in messages {
                let headers = header.map_or_else(String::new, |value| format!("NATS/1.0\r\nA: {value}\r\n\r\n"));
                let line = match headers.len() {
                    0 => format!("MSG a.b 1 {}\r\n", payload.len()),
                    length => format!("HMSG a.b 1 r {length} {}\r\n", length + payload.len()),
                };
                text.extend([line.as_bytes(), headers.as_bytes(), &payload, b"\r\n"].concat());
                expected.push((headers.into_bytes(), payload));
            }
            let (mut read, mut got, mut rest) = (BytesMut::new(), Vec::new(), text.as_slice());
            for cut in cuts.into_iter().cycle() {
                let (piece, later) = rest.split_at(cut.min(rest.len()));
                read.extend_from_slice(piece);
                rest = later;
                while let Some(op) = next(&mut read).unwrap() {
                    let Op::Message(message) = op else { panic!("{op:?}") };
                    prop_assert_eq!((message.subject(), message.subscription), ("a.b", 1));
                    got.push((message.headers.to_vec(), message.payload.to_vec()));
                }
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert!(read.is_empty());
            prop_assert_eq!(got, expected);
        }

        #[test]
        fn arbitrary_input_does_not_panic(
            lines in prop::collection::vec("(H?MSG|INFO|PING|-ERR|[a-z]{0,3})( [a-z]?[0-9]{0,3}){0,6}\r?\n[a\r\n]{0,9}", 1..6),
        ) {
            let bytes = lines.concat();
            let mut read = BytesMut::from(bytes.as_str());
            let mut left = read.len();
            while let Ok(Some(_)) = next(&mut read) {
                prop_assert!(read.len() < left, "nothing was consumed");
                left = read.len();
            }
        }
    }
}
