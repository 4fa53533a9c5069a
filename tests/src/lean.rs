//! A client that costs next to nothing, for thousands at once: one socket, one buffer, and no patience but its user's.

use std::io::{self, ErrorKind};

use bytes::{Buf, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::raw::{CLOSE, PING, PONG, TEXT, frame, upgrade};

/// A connection.
#[derive(Debug)]
pub struct Lean {
    stream: TcpStream,
    read: BytesMut,
}

/// A text frame from the edge, as far as the tests read it.
#[derive(Debug, Deserialize)]
pub struct Frame {
    /// `event` or `reply`.
    pub action: String,
    /// Of an event.
    pub cursor: Option<String>,
    /// Of an event: the binding that it is for.
    pub subscribed_key: Option<String>,
    /// Of an event: its body.
    pub args: Option<Body>,
    /// Of a reply.
    pub status: Option<String>,
    /// Of a reply.
    pub data: Option<Box<RawValue>>,
}

/// The body of a numbered event.
#[derive(Debug, Deserialize)]
pub struct Body {
    /// The call.
    #[serde(rename = "Call-ID")]
    pub call: String,
    /// Its place among the call's events.
    #[serde(rename = "Number")]
    pub number: u64,
}

impl Frame {
    /// Whether it is a reply that says yes.
    pub fn is_success(&self) -> bool {
        self.status.as_deref() == Some("success")
    }

    /// A reply's data.
    pub fn data(&self) -> &str {
        self.data.as_ref().map_or("", |data| data.get())
    }
}

impl Lean {
    /// Connects to an edge of this machine; `room` limits what the system keeps of what is not read yet.
    ///
    /// # Errors
    /// When there is no connection, or the edge answers anything else than an upgrade.
    pub async fn connect(port: u16, query: &str, room: Option<u32>) -> io::Result<Lean> {
        let socket = TcpSocket::new_v4()?;
        if let Some(room) = room {
            socket.set_recv_buffer_size(room)?;
        }
        let stream = socket.connect(([127, 0, 0, 1], port).into()).await?;
        let mut lean = Lean { stream, read: BytesMut::new() };
        lean.stream.write_all(upgrade(&format!("/?{query}"), &[]).as_bytes()).await?;
        loop {
            if let Some(end) = lean.read.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = lean.read.split_to(end + 4);
                let is_upgrade = head.starts_with(b"HTTP/1.1 101");
                return if is_upgrade {
                    Ok(lean)
                } else {
                    Err(io::Error::other(String::from_utf8_lossy(&head).into_owned()))
                };
            }
            lean.fill().await?;
        }
    }

    /// Sends a text frame.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn send(&mut self, text: &str) -> io::Result<()> {
        self.stream.write_all(&frame(TEXT, text.as_bytes())).await
    }

    /// The next text frame. Nothing is lost when the wait for it is broken off.
    ///
    /// # Errors
    /// When the connection has ended; a close frame's code stands in the text.
    pub async fn next(&mut self) -> io::Result<Frame> {
        loop {
            match self.take_frame() {
                Some((TEXT, payload)) => return Ok(serde_json::from_slice(&payload)?),
                Some((PING, payload)) => self.stream.write_all(&frame(PONG, &payload)).await?,
                Some((CLOSE, payload)) => {
                    let code = payload.get(..2).map_or(0, |mut code| code.get_u16());
                    return Err(io::Error::new(ErrorKind::ConnectionAborted, format!("closed with {code}")));
                }
                Some(_) => {}
                None => self.fill().await?,
            }
        }
    }

    /// Whether a whole frame has been read already.
    fn take_frame(&mut self) -> Option<(u8, Bytes)> {
        let mut head = &self.read[..];
        if head.len() < 2 {
            return None;
        }
        let (first, length) = (head.get_u8(), head.get_u8());
        let length = match length {
            126 if head.len() >= 2 => u64::from(head.get_u16()),
            127 if head.len() >= 8 => head.get_u64(),
            126 | 127 => return None,
            length => u64::from(length),
        };
        let length = usize::try_from(length).unwrap();
        if head.len() < length {
            return None;
        }
        let skip = self.read.len() - head.len();
        self.read.advance(skip);
        Some((first, self.read.split_to(length).freeze()))
    }

    async fn fill(&mut self) -> io::Result<()> {
        self.read.reserve(4096);
        match self.stream.read_buf(&mut self.read).await? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}
