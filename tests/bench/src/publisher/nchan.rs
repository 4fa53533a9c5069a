//! To nchan: an HTTP POST per message on one connection, without waiting for the answer before the next.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use memchr::memmem;

use crate::event::Message;

/// So many posts may be unanswered: more would fill both directions of the connection.
const AHEAD: u64 = 256;

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

    /// Posts a message; its lane is the channel.
    pub(crate) fn publish(&mut self, message: &Message) -> Result<()> {
        self.out.clear();
        let (lane, length) = (message.lane, message.body.len());
        write!(self.out, "POST /pub/{lane} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n")?;
        write!(self.out, "Content-Length: {length}\r\n\r\n")?;
        self.out.extend_from_slice(&message.body);
        self.stream.write_all(&self.out)?;
        self.posted += 1;
        while self.posted - self.answered > AHEAD {
            self.read()?;
        }
        Ok(())
    }

    /// Waits for all answers.
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
        // The location answers without a body, so an answer ends with its head.
        while let Some(length) = memmem::find(&self.answers[at..], b"\r\n\r\n") {
            let head = &self.answers[at..at + length];
            if !head.starts_with(b"HTTP/1.1 20") {
                bail!("nginx answers {}", String::from_utf8_lossy(head).lines().next().unwrap_or_default());
            }
            at += length + 4;
            self.answered += 1;
        }
        self.answers.drain(..at);
        Ok(())
    }
}
