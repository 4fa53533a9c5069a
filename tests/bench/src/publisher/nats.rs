//! Publishes to a NATS server with its text protocol, one write per message.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::event::Message;

/// A connection.
pub(crate) struct Publisher {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
    out: Vec<u8>,
}

impl Publisher {
    /// Connects to `host:port`.
    pub(crate) fn connect(authority: &str) -> Result<Self> {
        let mut writer = TcpStream::connect(authority).context("cannot connect to the NATS server")?;
        writer.set_nodelay(true)?;
        // The server pings only after minutes, longer than a measurement.
        writer.set_read_timeout(Some(Duration::from_secs(30)))?;
        writer.write_all(b"CONNECT {\"verbose\":false,\"pedantic\":false,\"protocol\":1}\r\n")?;
        let reader = BufReader::new(writer.try_clone()?);
        let mut publisher = Self { reader, writer, out: Vec::new() };
        publisher.finish()?;
        Ok(publisher)
    }

    /// Publishes a message; its routing key is the subject.
    pub(crate) fn publish(&mut self, message: &Message) -> Result<()> {
        self.out.clear();
        write!(self.out, "PUB {} {}\r\n", message.key, message.body.len())?;
        self.out.extend_from_slice(&message.body);
        self.out.extend_from_slice(b"\r\n");
        Ok(self.writer.write_all(&self.out)?)
    }

    /// Waits until the server has read everything.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.writer.write_all(b"PING\r\n")?;
        let mut line = String::new();
        loop {
            line.clear();
            if self.reader.read_line(&mut line)? == 0 {
                bail!("the NATS server ended the connection");
            }
            match line.trim() {
                "PONG" => return Ok(()),
                "PING" => self.writer.write_all(b"PONG\r\n")?,
                error if error.starts_with("-ERR") => bail!("the NATS server says {error}"),
                _ => {}
            }
        }
    }
}
