//! A client for thousands of sessions at once: one socket, one buffer, no task and no time limit of its own.

use std::io::{self, ErrorKind};

use blackhole_dev::websocket::{CLOSE, PING, PONG, TEXT, client_frame, upgrade_end, upgrade_request};
use bytes::Buf;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::TcpSocket;

use crate::raw::RawClient;

/// A session.
#[derive(Debug)]
pub struct LeanClient(RawClient);

/// A text frame from the edge; only the members that the tests read.
#[derive(Debug, Deserialize)]
pub struct TextFrame {
    /// `event` or `reply`.
    pub action: String,
    /// Of an event.
    pub cursor: Option<String>,
    /// Of an event: the binding that it was delivered for.
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
    /// The call's id.
    #[serde(rename = "Call-ID")]
    pub call: String,
    /// The event's number within the call.
    #[serde(rename = "Number")]
    pub number: u64,
}

impl TextFrame {
    /// Whether it is a successful reply.
    pub fn is_success(&self) -> bool {
        self.status.as_deref() == Some("success")
    }

    /// A reply's data.
    pub fn data(&self) -> &str {
        self.data.as_ref().map_or("", |data| data.get())
    }
}

impl LeanClient {
    /// Connects to an edge of this machine, with a receive buffer of this many bytes instead of the system's default.
    ///
    /// # Errors
    /// When there is no connection, or the edge does not upgrade it.
    pub async fn connect(port: u16, query: &str, receive_buffer: Option<u32>) -> io::Result<LeanClient> {
        let socket = TcpSocket::new_v4()?;
        if let Some(bytes) = receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        let mut raw = RawClient::connect_socket(socket, port).await?;
        raw.write(upgrade_request(&format!("/?{query}"), &[]).as_bytes()).await?;
        loop {
            match upgrade_end(&raw.received) {
                Ok(Some(end)) => {
                    raw.received.advance(end);
                    return Ok(LeanClient(raw));
                }
                Ok(None) => raw.fill().await?,
                Err(status) => return Err(io::Error::other(status)),
            }
        }
    }

    /// Sends a text frame.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn send(&mut self, text: &str) -> io::Result<()> {
        self.0.write(&client_frame(TEXT, text.as_bytes())).await
    }

    /// The next text frame. Dropping the future loses nothing.
    ///
    /// # Errors
    /// When the connection has ended; the error's text contains the close code.
    pub async fn next(&mut self) -> io::Result<TextFrame> {
        loop {
            match self.0.take_frame() {
                Some((TEXT, payload)) => return Ok(serde_json::from_slice(&payload)?),
                Some((PING, payload)) => self.0.write(&client_frame(PONG, &payload)).await?,
                Some((CLOSE, payload)) => {
                    let code = payload.get(..2).map_or(0, |mut code| code.get_u16());
                    return Err(io::Error::new(ErrorKind::ConnectionAborted, format!("closed with {code}")));
                }
                Some(_) => {}
                None => self.0.fill().await?,
            }
        }
    }
}
