//! What carries a session: a WebSocket or an event stream.

use std::{
    io,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use tungstenite::{Error, Message, Utf8Bytes};

use super::{
    event_stream::{EventStream, StreamRequest},
    websocket::{ClientSocket, Socket, shut_down},
};
use crate::{
    outbox::Outbox,
    protocol::{close::Close, cursor::Cursor, event_stream::Framing, reply::Reply},
};

/// What a client asked for.
#[derive(Clone, Debug)]
pub(crate) enum Carrier {
    /// A WebSocket. These bytes came after the upgrade request.
    WebSocket {
        /// Perhaps the first frames.
        early: Bytes,
        /// Its messages may be compressed.
        is_compressed: bool,
    },
    /// An event stream.
    EventStream(StreamRequest),
}

impl Carrier {
    /// How messages go over it.
    pub(super) fn framing(&self) -> Framing {
        match self {
            Carrier::WebSocket { is_compressed: false, .. } => Framing::WebSocket,
            Carrier::WebSocket { is_compressed: true, .. } => Framing::CompressedWebSocket,
            Carrier::EventStream(_) => Framing::EventStream,
        }
    }
}

/// The server's end of what carries a session.
pub(super) enum Transport {
    WebSocket(Socket),
    /// Boxed, so that it takes no space of WebSocket sessions.
    EventStream(Box<EventStream>),
}

impl Transport {
    /// What the client asked for, on `tcp`.
    pub(super) fn new(
        carrier: Carrier,
        tcp: Arc<dyn ClientSocket>,
        outbox: Arc<Outbox>,
        max_message_bytes: usize,
    ) -> Transport {
        match carrier {
            Carrier::WebSocket { early, .. } => {
                Transport::WebSocket(Socket::new(tcp, outbox, early, max_message_bytes))
            }
            Carrier::EventStream(request) => {
                Transport::EventStream(Box::new(EventStream::new(tcp, outbox, request)))
            }
        }
    }

    /// Whether it is an event stream.
    pub(super) fn is_event_stream(&self) -> bool {
        matches!(self, Transport::EventStream(_))
    }

    /// Whether anything may be flushed.
    pub(super) fn is_open(&self) -> bool {
        match self {
            Transport::WebSocket(_) => true,
            Transport::EventStream(stream) => stream.is_open(),
        }
    }

    /// Begins a poll of the session.
    pub(super) fn begin_poll(&mut self) {
        if let Transport::WebSocket(socket) = self {
            socket.begin_poll();
        }
    }

    /// Ready with the next message.
    ///
    /// # Errors
    /// Those of tungstenite; the session is over then.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Message, Error>> {
        match self {
            Transport::WebSocket(socket) => socket.poll_next(context),
            Transport::EventStream(stream) => stream.poll_next(context),
        }
    }

    /// Queues a reply. Returns whether the session goes on. Like all that is queued here, the caller flushes it.
    ///
    /// # Errors
    /// Those of tungstenite.
    pub(super) fn reply(&mut self, reply: &Reply) -> Result<bool, Error> {
        match self {
            Transport::WebSocket(socket) => socket.send(Some(Message::Text(reply.to_frame()))).map(|()| true),
            Transport::EventStream(stream) => Ok(stream.begin(reply)),
        }
    }

    /// Queues what tells of bindings that have ended.
    ///
    /// # Errors
    /// Those of tungstenite.
    pub(super) fn revoked(&mut self, frame: Utf8Bytes) -> Result<(), Error> {
        match self {
            Transport::WebSocket(socket) => socket.send(Some(Message::Text(frame))),
            Transport::EventStream(stream) => {
                stream.revoked(&frame);
                Ok(())
            }
        }
    }

    /// Queues what the transport has to say by itself.
    ///
    /// # Errors
    /// Those of tungstenite; [`Error::ConnectionClosed`] after the reply to a close frame, which is the last frame.
    pub(super) fn control(&mut self) -> Result<(), Error> {
        match self {
            Transport::WebSocket(socket) => socket.send(None),
            Transport::EventStream(_) => Ok(()),
        }
    }

    /// Queues a ping or a heartbeat. `cursor` is asked where the session is, if its client is to know.
    ///
    /// # Errors
    /// Those of tungstenite.
    pub(super) fn ping(&mut self, cursor: impl FnOnce() -> Option<Cursor>) -> Result<(), Error> {
        match self {
            Transport::WebSocket(socket) => socket.send(Some(Message::Ping(Bytes::new()))),
            Transport::EventStream(stream) => {
                stream.heartbeat(cursor());
                Ok(())
            }
        }
    }

    /// Queues the last frame.
    ///
    /// # Errors
    /// Those of tungstenite.
    pub(super) fn close(&mut self, close: Close) -> Result<(), Error> {
        match self {
            Transport::WebSocket(socket) => socket.close(close.frame()),
            Transport::EventStream(stream) => {
                stream.close(close);
                Ok(())
            }
        }
    }

    fn tcp(&self) -> &dyn ClientSocket {
        match self {
            Transport::WebSocket(socket) => socket.tcp(),
            Transport::EventStream(stream) => stream.tcp(),
        }
    }

    /// Ready when the connection is writable.
    ///
    /// # Errors
    /// When the connection is lost.
    pub(super) fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp().poll_write_ready(context)
    }

    /// Closes the connection's write half, then reads and discards until the client closes its own, or has sent too much.
    ///
    /// # Errors
    /// When the connection is lost.
    pub(super) async fn shutdown(&self) -> io::Result<()> {
        shut_down(self.tcp()).await
    }
}
