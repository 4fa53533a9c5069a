//! A session's WebSocket: frames are read from its connection, and what is written takes its place in the session's
//! outbox, which alone writes to the connection.
//!
//! Most sessions say nothing most of the time. tungstenite, with its buffers the larger part of a session, is there
//! only while something is under way: it is made when the first byte of a frame comes, and is let go when it holds
//! none any more.

use std::{
    io::{self, Read, Write},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::net::TcpStream;
use tungstenite::{
    Error, Message, WebSocket,
    protocol::{CloseFrame, Role, WebSocketConfig},
};

use crate::outbox::Outbox;

/// Requests are small. It grows where it has to.
const READ_BUFFER_BYTES: usize = 512;
/// The first two bytes of a frame, and the mask that every frame of a client has.
const MIN_HEADER_BYTES: u64 = 2 + 4;

/// The WebSocket.
pub(super) struct Socket {
    tcp: Arc<TcpStream>,
    outbox: Arc<Outbox>,
    most_bytes: usize,
    /// While something is under way.
    awake: Option<Box<WebSocket<Wire>>>,
    /// What the frames that came since it woke took at least.
    spent: u64,
}

impl Socket {
    /// On `tcp`, from which `early` was read already; takes messages of at most `most_bytes`.
    pub(super) fn new(tcp: Arc<TcpStream>, outbox: Arc<Outbox>, early: Bytes, most_bytes: usize) -> Socket {
        let mut socket = Socket { tcp, outbox, most_bytes, awake: None, spent: 0 };
        if !early.is_empty() {
            // A copy: what it was read into is larger, and would be kept.
            socket.wake(Bytes::copy_from_slice(&early));
        }
        socket
    }

    fn wake(&mut self, early: Bytes) -> &mut WebSocket<Wire> {
        self.spent = 0;
        let Socket { tcp, outbox, most_bytes, awake, .. } = self;
        awake.get_or_insert_with(|| {
            let taken = early.len() as u64;
            let wire = Wire { tcp: Arc::clone(tcp), outbox: Arc::clone(outbox), early, taken };
            let config = WebSocketConfig::default()
                .read_buffer_size(READ_BUFFER_BYTES)
                .write_buffer_size(0)
                .max_message_size(Some(*most_bytes))
                .max_frame_size(Some(*most_bytes));
            Box::new(WebSocket::from_raw_socket(wire, Role::Server, Some(config)))
        })
    }

    /// Lets tungstenite go if all it has read is what it gave out. Frames may have taken more than is counted, never
    /// less, and never more than was read: where both counts are equal, nothing is left.
    fn rest(&mut self) {
        if self.awake.as_ref().is_some_and(|socket| socket.get_ref().taken == self.spent) {
            self.awake = None;
        }
    }

    /// Ready with the next message. What tungstenite answers by itself goes out with the next [`Socket::send`].
    ///
    /// # Errors
    /// Those of tungstenite; the session is over then.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Message, Error>> {
        loop {
            self.rest();
            let socket = match &mut self.awake {
                Some(socket) => socket,
                None => {
                    ready!(self.tcp.poll_read_ready(context))?;
                    self.wake(Bytes::new())
                }
            };
            match socket.read() {
                Ok(message) => {
                    self.spent = self.spent.saturating_add(least_bytes(&message));
                    return Poll::Ready(Ok(message));
                }
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.rest();
                    ready!(self.tcp.poll_read_ready(context))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Puts the message into the outbox, behind what waits already, and what tungstenite itself has to say. The caller
    /// flushes the outbox.
    ///
    /// # Errors
    /// Those of tungstenite; [`Error::ConnectionClosed`] when the answer to a close was the last that may be sent.
    pub(super) fn send(&mut self, message: Option<Message>) -> Result<(), Error> {
        match (message, &mut self.awake) {
            (Some(message), Some(socket)) => socket.send(message),
            (Some(message), None) => self.wake(Bytes::new()).send(message),
            (None, Some(socket)) => socket.flush(),
            (None, None) => Ok(()),
        }
    }

    /// Puts the close frame into the outbox. The caller flushes it.
    ///
    /// # Errors
    /// Those of tungstenite.
    pub(super) fn close(&mut self, frame: CloseFrame) -> Result<(), Error> {
        match &mut self.awake {
            Some(socket) => socket.close(Some(frame)),
            None => self.wake(Bytes::new()).close(Some(frame)),
        }
    }

    /// Ready when the connection may take more.
    ///
    /// # Errors
    /// When it has ended.
    pub(super) fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp.poll_write_ready(context)
    }

    /// Tells the client that nothing more comes, and waits until it says so too. What it still sends is not looked at.
    ///
    /// # Errors
    /// When the connection has ended in another way.
    pub(super) async fn finish(&self) -> io::Result<()> {
        // A client that is gone already does not mind.
        let _ = socket2::SockRef::from(&*self.tcp).shutdown(std::net::Shutdown::Write);
        let mut rest = [0; 1024];
        loop {
            self.tcp.readable().await?;
            match self.tcp.try_read(&mut rest) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// What the frames of a message take at least: one frame, its length written as short as it can be. A close leaves
/// something to be kept: it stays until the end.
fn least_bytes(message: &Message) -> u64 {
    let payload = match message {
        Message::Close(_) | Message::Frame(_) => return u64::MAX,
        message => message.len(),
    };
    let length: u64 = match payload {
        0..=125 => 0,
        126..=0xffff => 2,
        _ => 8,
    };
    MIN_HEADER_BYTES + length + payload as u64
}

/// The connection as tungstenite sees it.
struct Wire {
    tcp: Arc<TcpStream>,
    outbox: Arc<Outbox>,
    /// What came with the upgrade request.
    early: Bytes,
    /// How many bytes were read from it, those included.
    taken: u64,
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.early.is_empty() {
            let bytes = self.early.len().min(buffer.len());
            self.early.copy_to_slice(buffer.get_mut(..bytes).unwrap_or_default());
            return Ok(bytes);
        }
        let bytes = self.tcp.try_read(buffer)?;
        self.taken += bytes as u64;
        Ok(bytes)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.outbox.has_failed() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        // The outbox takes everything at once.
        self.outbox.push_own(Bytes::copy_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
