//! Publishes to nchan: pipelined HTTP POST requests on one connection.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use memchr::memmem;

use crate::event::Message;

/// Maximum number of unanswered requests: more would fill both directions of the connection.
const MAX_UNANSWERED: u64 = 256;

/// A connection.
pub(crate) struct Publisher {
    stream: TcpStream,
    out: Vec<u8>,
    answers: Vec<u8>,
    posted: u64,
    answered: u64,
}

impl Publisher {
    /// Connects to `host:port`.
    pub(crate) fn connect(authority: &str) -> Result<Self> {
        let stream = TcpStream::connect(authority).context("cannot connect to nginx")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Self { stream, out: Vec::new(), answers: Vec::new(), posted: 0, answered: 0 })
    }

    /// Posts a message to the channel of its lane.
    pub(crate) fn publish(&mut self, message: &Message) -> Result<()> {
        self.out.clear();
        let (lane, length) = (message.lane, message.body.len());
        write!(self.out, "POST /pub/{lane} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n")?;
        write!(self.out, "Content-Length: {length}\r\n\r\n")?;
        self.out.extend_from_slice(&message.body);
        self.stream.write_all(&self.out)?;
        self.posted += 1;
        while self.posted - self.answered > MAX_UNANSWERED {
            self.read()?;
        }
        Ok(())
    }

    /// Waits for all responses.
    pub(crate) fn finish(&mut self) -> Result<()> {
        while self.answered < self.posted {
            self.read()?;
        }
        Ok(())
    }

    fn read(&mut self) -> Result<()> {
        let mut buffer = [0; 65_536];
        let read = match self.stream.read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            other => other?,
        };
        if read == 0 {
            bail!("nginx ended the connection");
        }
        self.answers.extend_from_slice(&buffer[..read]);
        let mut at = 0;
        while let Some(length) = answer(&self.answers[at..])? {
            at += length;
            self.answered += 1;
        }
        self.answers.drain(..at);
        Ok(())
    }
}

/// The length of the first response in `bytes`; none if it is incomplete.
fn answer(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(end) = memmem::find(bytes, b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(&bytes[..end]);
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default();
    // 201 if the channel has subscribers, 202 if not.
    if !status.starts_with("HTTP/1.1 20") {
        bail!("nginx answers {status}");
    }
    let headers = lines.filter_map(|line| line.split_once(": "));
    let mut lengths = headers.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let body = lengths.next().map_or(Ok(0), |(_, length)| length.trim().parse::<usize>())?;
    let length = end + 4 + body;
    Ok((bytes.len() >= length).then_some(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_ends_after_its_body() {
        let text = b"HTTP/1.1 201 Created\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 202";
        assert_eq!(answer(text).unwrap(), Some(48));
        assert_eq!(answer(&text[..46]).unwrap(), None);
        assert_eq!(answer(b"HTTP/1.1 202 Accepted\r\n\r\n").unwrap(), Some(25));
        assert!(answer(b"HTTP/1.1 413 Too Large\r\n\r\n").is_err());
    }
}
