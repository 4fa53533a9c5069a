//! A session's WebSocket. It reads frames from the connection; all that it writes goes through the session's outbox.
//!
//! Most sessions are idle most of the time, and tungstenite with its buffers is the larger part of a session. So it is
//! created when the first byte of a frame arrives, and dropped when it holds no unread bytes.

mod marks;

use std::{
    future::poll_fn,
    io::{self, Read, Write},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::net::TcpStream;
use tungstenite::{
    Error, Message, WebSocket,
    error::{CapacityError, ProtocolError},
    protocol::{CloseFrame, Role, WebSocketConfig},
};

use self::marks::{Marks, Sent};
use crate::{
    outbox::{Outbox, queue::OutboundSocket},
    protocol::deflate::{Unreadable, decompress},
};

/// Initial size of the read buffer: most requests are small.
const READ_BUFFER_BYTES: usize = 512;
/// Bytes that one poll of the session may read, so that no client keeps a thread to itself. Reads go on in the next poll.
pub(super) const MAX_POLL_BYTES: usize = 16 << 10;
/// Bytes that are read and discarded when the edge closes the connection.
const MAX_DISCARDED_BYTES: usize = 256 << 10;
/// The first two bytes of a frame, and the mask that every client frame has.
const MIN_HEADER_BYTES: u64 = 2 + 4;

/// A connection to a client.
pub trait ClientSocket: OutboundSocket {
    /// Ready when something can be read.
    ///
    /// # Errors
    /// When the connection is lost.
    fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ready when something can be written.
    ///
    /// # Errors
    /// When the connection is lost.
    fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Reads what has come.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if nothing has; any other error is final.
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Ends the own half of the connection.
    ///
    /// # Errors
    /// When the connection is lost.
    fn shutdown_write(&self) -> io::Result<()>;
}

impl ClientSocket for TcpStream {
    fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(context)
    }

    fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_write_ready(context)
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.try_read(buffer)
    }

    fn shutdown_write(&self) -> io::Result<()> {
        socket2::SockRef::from(self).shutdown(std::net::Shutdown::Write)
    }
}

/// The server's end of a WebSocket.
pub struct Socket {
    tcp: Arc<dyn ClientSocket>,
    outbox: Arc<Outbox>,
    max_message_bytes: usize,
    /// `None` while the session is idle.
    tungstenite: Option<Box<WebSocket<Transport>>>,
    /// At least this many bytes were in the frames of the messages that `tungstenite` returned.
    min_consumed: u64,
    /// How many bytes had been read when it last returned a message.
    read_at_message: u64,
}

impl Socket {
    /// A WebSocket on `tcp`. `early` holds bytes that were already read from it.
    pub fn new(
        tcp: Arc<dyn ClientSocket>,
        outbox: Arc<Outbox>,
        early: Bytes,
        max_message_bytes: usize,
    ) -> Socket {
        let mut socket =
            Socket { tcp, outbox, max_message_bytes, tungstenite: None, min_consumed: 0, read_at_message: 0 };
        if !early.is_empty() {
            // Copied, because `early` would keep the larger buffer of the HTTP connection.
            socket.activate(Bytes::copy_from_slice(&early));
        }
        socket
    }

    /// Creates tungstenite's state if there is none.
    fn activate(&mut self, early: Bytes) -> &mut WebSocket<Transport> {
        self.min_consumed = 0;
        self.read_at_message = 0;
        let Socket { tcp, outbox, max_message_bytes, tungstenite, .. } = self;
        tungstenite.get_or_insert_with(|| {
            let bytes_read = early.len() as u64;
            let (tcp, outbox) = (Arc::clone(tcp), Arc::clone(outbox));
            let marks = outbox.is_compressed().then(Marks::default);
            let transport = Transport { tcp, outbox, early, bytes_read, allowance: MAX_POLL_BYTES, marks };
            let config = WebSocketConfig::default()
                .read_buffer_size(READ_BUFFER_BYTES)
                .write_buffer_size(0)
                .max_message_size(Some(*max_message_bytes))
                .max_frame_size(Some(*max_message_bytes));
            Box::new(WebSocket::from_raw_socket(transport, Role::Server, Some(config)))
        })
    }

    /// Drops tungstenite's state when it holds no unread bytes. `min_consumed` never exceeds the bytes consumed, which
    /// never exceed the bytes read: if both counts are equal, nothing is left.
    fn release_if_drained(&mut self) {
        let is_drained = |socket: &WebSocket<Transport>| socket.get_ref().bytes_read == self.min_consumed;
        if self.tungstenite.as_deref().is_some_and(is_drained) {
            self.tungstenite = None;
        }
    }

    /// Begins a poll of the session: it may read `MAX_POLL_BYTES`.
    pub fn begin_poll(&mut self) {
        if let Some(socket) = &mut self.tungstenite {
            socket.get_mut().allowance = MAX_POLL_BYTES;
        }
    }

    /// Whether a message has come in so many fragments that they are more framing than content: each fragment costs time,
    /// even an empty one.
    fn is_overfragmented(&self) -> bool {
        let max = 2 * (self.max_message_bytes + MAX_POLL_BYTES) as u64;
        let bytes_read = self.tungstenite.as_ref().map_or(0, |socket| socket.get_ref().bytes_read);
        bytes_read.saturating_sub(self.read_at_message) > max
    }

    /// Ready with the next message. Pongs and close replies that tungstenite queues go out with the next
    /// [`Socket::send`].
    ///
    /// # Errors
    /// Those of tungstenite, and [`Error::AttackAttempt`] for a message in too many fragments; the session is over then.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Message, Error>> {
        let max = self.max_message_bytes;
        loop {
            self.release_if_drained();
            let socket = match &mut self.tungstenite {
                Some(socket) => socket,
                None => {
                    ready!(self.tcp.poll_read_ready(context))?;
                    self.activate(Bytes::new())
                }
            };
            match socket.read() {
                Ok(message) => {
                    let bytes = min_wire_bytes(&message);
                    let transport = socket.get_mut();
                    let (message, read) = (transport.decompress(message, max), transport.bytes_read);
                    self.read_at_message = read;
                    self.min_consumed = self.min_consumed.saturating_add(bytes);
                    return Poll::Ready(message);
                }
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.is_overfragmented() {
                        return Poll::Ready(Err(Error::AttackAttempt));
                    }
                    if self.tungstenite.as_ref().is_some_and(|socket| socket.get_ref().allowance == 0) {
                        context.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    self.release_if_drained();
                    ready!(self.tcp.poll_read_ready(context))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Puts the message, and what tungstenite has queued, at the end of the outbox. The caller flushes the outbox.
    ///
    /// # Errors
    /// Those of tungstenite; [`Error::ConnectionClosed`] after the reply to a close frame, which is the last frame.
    pub fn send(&mut self, message: Option<Message>) -> Result<(), Error> {
        match (message, &mut self.tungstenite) {
            (Some(message), Some(socket)) => socket.send(message),
            (Some(message), None) => self.activate(Bytes::new()).send(message),
            (None, Some(socket)) => socket.flush(),
            (None, None) => Ok(()),
        }
    }

    /// Puts the close frame into the outbox. The caller flushes the outbox.
    ///
    /// # Errors
    /// Those of tungstenite.
    pub(super) fn close(&mut self, frame: CloseFrame) -> Result<(), Error> {
        match &mut self.tungstenite {
            Some(socket) => socket.close(Some(frame)),
            None => self.activate(Bytes::new()).close(Some(frame)),
        }
    }

    /// The connection.
    pub(super) fn tcp(&self) -> &dyn ClientSocket {
        &*self.tcp
    }
}

/// Closes the connection's write half, then reads and discards until the client closes its own, or has sent too much.
///
/// # Errors
/// When the connection is lost.
pub(super) async fn shut_down(tcp: &dyn ClientSocket) -> io::Result<()> {
    // Fails if the client has already disconnected; reading reports that.
    let _ = tcp.shutdown_write();
    let mut buffer = [0; 1024];
    let mut discarded = 0;
    while discarded < MAX_DISCARDED_BYTES {
        // A client that floods must not keep the thread.
        tokio::task::coop::consume_budget().await;
        poll_fn(|context| tcp.poll_read_ready(context)).await?;
        match tcp.try_read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(bytes) => discarded += bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The fewest bytes that the frames of a message take: one frame with the shortest encoding of its length. For a close
/// frame a number that is never reached, so that tungstenite keeps its closing state.
fn min_wire_bytes(message: &Message) -> u64 {
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

/// The connection as tungstenite uses it: reads from TCP, writes to the outbox.
struct Transport {
    tcp: Arc<dyn ClientSocket>,
    outbox: Arc<Outbox>,
    /// Bytes that arrived with the upgrade request and are not read yet.
    early: Bytes,
    /// Bytes read from the connection, early ones included.
    bytes_read: u64,
    /// Bytes that may still be read in this poll of the session.
    allowance: usize,
    /// `None` if the client may not compress.
    marks: Option<Marks>,
}

impl Transport {
    /// The message as the client meant it.
    fn decompress(&mut self, message: Message, max: usize) -> Result<Message, Error> {
        let Some(marks) = &mut self.marks else { return Ok(message) };
        if !matches!(message, Message::Text(_) | Message::Binary(_)) {
            return Ok(message);
        }
        let sent = marks.next_message();
        if sent == Sent::Plain {
            return Ok(message);
        }
        let content: Bytes = decompress(&message.into_data(), max)
            .map_err(|error| match error {
                Unreadable::TooLong => Error::Capacity(CapacityError::MessageTooLong {
                    size: max.saturating_add(1),
                    max_size: max,
                }),
                // There is no error for it; the client is told the same for each of these.
                Unreadable::Malformed => Error::Protocol(ProtocolError::NonZeroReservedBits),
            })?
            .into();
        // It took as long as if the content had been read.
        self.allowance = self.allowance.saturating_sub(content.len());
        Ok(match sent {
            Sent::CompressedText => Message::Text(content.try_into()?),
            _ => Message::Binary(content),
        })
    }

    /// Reads what has come, as the client sent it.
    fn read_raw(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.early.is_empty() {
            let bytes = self.early.len().min(buffer.len());
            self.early.copy_to_slice(buffer.get_mut(..bytes).unwrap_or_default());
            return Ok(bytes);
        }
        let most = self.allowance.min(buffer.len());
        if most == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let bytes = self.tcp.try_read(buffer.get_mut(..most).unwrap_or_default())?;
        self.allowance -= bytes;
        self.bytes_read += bytes as u64;
        Ok(bytes)
    }
}

impl Read for Transport {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.read_raw(buffer)?;
        if let Some(marks) = &mut self.marks {
            marks.take(buffer.get_mut(..bytes).unwrap_or_default());
        }
        Ok(bytes)
    }
}

impl Write for Transport {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.outbox.has_failed() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.outbox.push_own(Bytes::copy_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
