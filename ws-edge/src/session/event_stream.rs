//! A session's event stream: the response to a request over HTTP that does not end.
//!
//! The query was made a request, which is the only one that the session reads. Nothing is written before its reply is
//! known: it decides whether the stream begins, or a refusal ends the connection.

use std::{
    io::ErrorKind,
    sync::Arc,
    task::{Context, Poll, ready},
};

use blackhole_common::chance;
use bytes::Bytes;
use serde_json::Value;
use tungstenite::{Error, Message, Utf8Bytes};

use super::websocket::ClientSocket;
use crate::{
    outbox::Outbox,
    protocol::{
        close::Close,
        cursor::Cursor,
        event_stream::{self, Name},
        reply::Reply,
    },
};

/// Bytes that a client may send after its request. It has no reason to send any.
const MAX_DISCARDED_BYTES: usize = 64 << 10;
/// After how many milliseconds a client reconnects, at least, and how many more at most. Random, so that the clients of an
/// edge that is gone do not all come back at once.
const RETRY_MS: (u32, u32) = (1000, 2000);

/// What an event stream begins with.
#[derive(Clone, Debug)]
pub(crate) struct StreamRequest {
    /// The request to subscribe, as a WebSocket session would send it.
    pub(crate) subscribe: Utf8Bytes,
    /// The cursor that it resumes with, if it does.
    pub(crate) since: Option<Cursor>,
}

/// The server's end of an event stream.
pub(super) struct EventStream {
    tcp: Arc<dyn ClientSocket>,
    outbox: Arc<Outbox>,
    /// `None` once it was read.
    subscribe: Option<Utf8Bytes>,
    since: Option<Cursor>,
    is_open: bool,
    discarded: usize,
}

impl EventStream {
    /// An event stream on `tcp`.
    pub(super) fn new(
        tcp: Arc<dyn ClientSocket>,
        outbox: Arc<Outbox>,
        request: StreamRequest,
    ) -> EventStream {
        outbox.hold_back();
        let StreamRequest { subscribe, since } = request;
        EventStream { tcp, outbox, subscribe: Some(subscribe), since, is_open: false, discarded: 0 }
    }

    /// The connection.
    pub(super) fn tcp(&self) -> &dyn ClientSocket {
        &*self.tcp
    }

    /// Whether the response has begun. Before, nothing may be flushed.
    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Ready with the request, and then when the client has closed its connection.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Message, Error>> {
        if let Some(request) = self.subscribe.take() {
            return Poll::Ready(Ok(Message::Text(request)));
        }
        loop {
            ready!(self.tcp.poll_read_ready(context))?;
            match self.tcp.try_read(&mut [0; 1024]) {
                Ok(0) => return Poll::Ready(Err(Error::ConnectionClosed)),
                Ok(bytes) => self.discarded += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
            if self.discarded > MAX_DISCARDED_BYTES {
                return Poll::Ready(Err(Error::AttackAttempt));
            }
        }
    }

    /// Begins the response with the reply to the request. Returns whether the stream goes on.
    pub(super) fn begin(&mut self, reply: &Reply) -> bool {
        self.is_open = true;
        if let Some(error) = reply.failure() {
            self.outbox.open(|_| event_stream::refusal(event_stream::status_of(error), error));
            return false;
        }
        let position = reply.member("cursor").and_then(Value::as_str);
        let since = self.since.map(Cursor::to_text);
        let frame = reply.to_frame();
        let gap = match reply.member("recovered") {
            Some(Value::Bool(false)) => {
                event_stream::gap(reply.member("reason").and_then(Value::as_str).unwrap_or_default())
            }
            _ => Bytes::new(),
        };
        self.outbox.open(|is_empty| {
            // The reply's position may be ahead of events that wait. Without one, a client that loses its connection before
            // the first event resumes where it did now, and hears of the same gap.
            let id = position.filter(|_| is_empty).map(str::as_bytes);
            let id = id.or(since.as_ref().map(|text| &text[..]));
            let head = event_stream::head(RETRY_MS.0 + chance::random::<u32>() % RETRY_MS.1);
            let reply = event_stream::event(Some(Name::Reply), id, &[frame.as_bytes()]);
            [head.as_bytes(), &reply, &gap].concat().into()
        });
        true
    }

    /// Queues what tells of bindings that have ended. There are none before the reply.
    pub(super) fn revoked(&self, frame: &str) {
        self.outbox.push_own(event_stream::event(Some(Name::Revoked), None, &[frame.as_bytes()]));
    }

    /// Queues what keeps the connection alive. With the position that the session has reached, if that is known, the client
    /// can resume after a silence that is longer than the history.
    pub(super) fn heartbeat(&self, cursor: Option<Cursor>) {
        match cursor {
            _ if !self.is_open => {}
            None => self.outbox.push_own(event_stream::heartbeat(None)),
            Some(cursor) => self.outbox.push_own_at(cursor.position.sequence, |is_at| {
                event_stream::heartbeat(is_at.then(|| cursor.to_text()).as_ref().map(|text| &text[..]))
            }),
        }
    }

    /// Queues the last event; before the stream has begun, a refusal.
    pub(super) fn close(&mut self, close: Close) {
        if self.is_open {
            self.outbox.push_own(event_stream::close(close));
            return;
        }
        self.is_open = true;
        let status = event_stream::status_of_close(close);
        self.outbox.open(|_| event_stream::refusal(status, close.frame().reason.as_str()));
    }
}
