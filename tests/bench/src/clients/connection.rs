//! A client's connection with its incomplete input and unwritten output.

use std::io::{ErrorKind, Read, Write};
use std::ops::Range;

use super::stream::Stream;
use super::tally::ExpectedLane;
use crate::clock;
use memchr::memmem;

/// The state of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It waits for the response to the upgrade.
    Upgrading,
    /// It waits for this many confirmations.
    Binding(u32),
    /// It is subscribed.
    Bound,
    /// It ended.
    Closed,
}

/// A client's connection.
pub(crate) struct Connection {
    /// The socket.
    pub(crate) stream: Stream,
    /// The number of the session.
    pub(crate) session: u32,
    /// Its state.
    pub(crate) state: State,
    /// When it started to connect.
    pub(crate) began: u64,
    /// The lanes whose events it has to receive.
    pub(crate) lanes: Box<[ExpectedLane]>,
    /// Received bytes of an incomplete frame.
    pub(crate) rest: Vec<u8>,
    /// Payload of an incomplete NATS message: frames do not end at message boundaries.
    pub(crate) stream_rest: Vec<u8>,
    /// Bytes that are not written yet.
    pub(crate) out: Vec<u8>,
}

impl Connection {
    /// A new connection.
    pub(crate) fn new(stream: Stream, session: u32, lanes: Box<[ExpectedLane]>) -> Self {
        let (rest, stream_rest, out) = (Vec::new(), Vec::new(), Vec::new());
        Self { stream, session, state: State::Upgrading, began: clock::now(), lanes, rest, stream_rest, out }
    }

    /// Writes as much as possible.
    pub(crate) fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()?;
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => drop(self.out.drain(..written)),
                Err(error)
                    if error.kind() == ErrorKind::WouldBlock || error.kind() == ErrorKind::NotConnected =>
                {
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out = Vec::new();
        Ok(())
    }

    /// Reads into `buffer`, after the rest of the last read. Returns the number of bytes in it and whether the socket
    /// is drained; none if there was nothing to read.
    pub(crate) fn read(&mut self, buffer: &mut Vec<u8>) -> std::io::Result<Option<(usize, bool)>> {
        let kept = self.rest.len();
        if buffer.len() < 2 * kept {
            buffer.resize(2 * kept, 0);
        }
        buffer[..kept].copy_from_slice(&self.rest);
        loop {
            return match self.stream.read(&mut buffer[kept..]) {
                Ok(0) => {
                    Err(std::io::Error::new(ErrorKind::UnexpectedEof, "the server ended the connection"))
                }
                Ok(read) => {
                    self.rest.clear();
                    Ok(Some((kept + read, kept + read < buffer.len() && !self.stream.is_tls())))
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
        }
    }
}

/// The NATS message at `at`: its first line, its body if it has one, and its end.
pub(crate) fn nats_message(bytes: &[u8], at: usize) -> Option<(Range<usize>, Option<Range<usize>>, usize)> {
    let line = at..at + memmem::find(bytes.get(at..)?, b"\r\n")?;
    let after = line.end + 2;
    let text = &bytes[line.clone()];
    if !text.starts_with(b"MSG ") {
        return Some((line, None, after));
    }
    let digits = text.rsplit(|&byte| byte == b' ').next()?;
    let length = digits.iter().fold(0, |length, digit| length * 10 + usize::from(digit - b'0'));
    (bytes.len() >= after + length + 2).then_some((line, Some(after..after + length), after + length + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nats_message_is_parsed_once_it_is_complete() {
        let bytes = b"PING\r\nMSG a.b 1 5\r\nhello\r\nPO";
        assert_eq!(nats_message(bytes, 0), Some((0..4, None, 6)));
        assert_eq!(nats_message(bytes, 6), Some((6..17, Some(19..24), 26)));
        assert_eq!(nats_message(bytes, 26), None);
        assert_eq!(nats_message(&bytes[..25], 6), None);
    }
}
