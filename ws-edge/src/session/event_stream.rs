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
        // It is all that the client gets.
        self.outbox.end(false);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, IoSlice};

    use serde_json::json;

    use super::*;
    use crate::outbox::{
        queue::OutboundSocket,
        tests::{Kept, outbox},
    };

    /// A client that sends nothing.
    struct Silent;

    impl OutboundSocket for Silent {
        fn try_write(&self, _: &[IoSlice<'_>]) -> io::Result<usize> {
            Err(ErrorKind::WouldBlock.into())
        }
    }

    impl ClientSocket for Silent {
        fn poll_read_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_write_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn try_read(&self, _: &mut [u8]) -> io::Result<usize> {
            Err(ErrorKind::WouldBlock.into())
        }

        fn shutdown_write(&self) -> io::Result<()> {
            Ok(())
        }
    }

    const CURSOR: &str = "xOjuWb8AAAAAAABHrCvbbUU5";

    /// A stream that resumes with this cursor, its outbox, and what the client gets.
    fn stream(since: Option<&str>) -> (EventStream, Arc<Outbox>, Arc<Kept>) {
        let (outbox, kept) = outbox(1, 1000);
        let since = since.map(|since| Cursor::parse(since).unwrap());
        let request = StreamRequest { subscribe: "{}".into(), since };
        (EventStream::new(Arc::new(Silent), Arc::clone(&outbox), request), outbox, kept)
    }

    fn push(outbox: &Outbox, sequence: u64) {
        outbox.push_live(Some(sequence), || Some(Bytes::from_static(b"data: an event\n\n").into()));
    }

    fn sent(outbox: &Outbox, kept: &Kept) -> String {
        outbox.flush();
        String::from_utf8(kept.take()).unwrap()
    }

    #[test]
    fn the_reply_comes_first_and_has_its_position_only_if_no_event_waits() {
        for (event_waits, since, id) in [
            (false, None, "\nid: the position\n"),
            (true, None, "\nevent: reply\ndata: "),
            (true, Some(CURSOR), "\nid: xOjuWb8AAAAAAABHrCvbbUU5\n"),
        ] {
            let (mut stream, outbox, kept) = stream(since);
            if event_waits {
                push(&outbox, 7);
            }
            let reply = Reply::success(json!(1), json!({ "cursor": "the position" }).into());
            assert!(stream.begin(&reply) && stream.is_open());
            let sent = sent(&outbox, &kept);
            assert!(sent.starts_with("HTTP/1.1 200 OK\r\n") && sent.contains(id), "{sent}");
            assert_eq!(sent.ends_with("data: an event\n\n"), event_waits, "{sent}");
            assert!(!sent.contains("event: gap"), "{sent}");
        }
    }

    #[test]
    fn a_gap_follows_the_reply_and_the_client_keeps_its_cursor() {
        let (mut stream, outbox, kept) = stream(Some(CURSOR));
        let data = json!({ "recovered": false, "reason": "cursor expired" });
        stream.begin(&Reply::success(json!(1), data.into()));
        let sent = sent(&outbox, &kept);
        assert!(
            sent.contains(&format!("id: {CURSOR}\n")),
            "it hears of the gap until an event has come: {sent}"
        );
        let gap = "\n\nevent: gap\ndata: {\"action\":\"gap\",\"reason\":\"cursor expired\"}\n\n";
        assert!(sent.ends_with(gap), "{sent}");
    }

    #[test]
    fn nothing_but_a_refusal_is_sent_if_the_stream_does_not_begin() {
        for ends in [
            (|stream: &mut EventStream| {
                stream.begin(&Reply::error(json!(1), "unauthorized account id"));
            }) as fn(&mut EventStream),
            |stream| stream.close(Close::Restart),
        ] {
            let (mut stream, outbox, kept) = stream(None);
            push(&outbox, 7);
            push(&outbox, 8);
            stream.heartbeat(None);
            ends(&mut stream);
            outbox.end(false);
            let sent = sent(&outbox, &kept);
            assert!(sent.starts_with("HTTP/1.1 403 ") || sent.starts_with("HTTP/1.1 503 "), "{sent}");
            let (head, body) = sent.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{sent}");
        }
    }

    #[test]
    fn a_heartbeat_has_the_position_unless_an_event_has_passed_it() {
        let (mut stream, outbox, kept) = stream(None);
        stream.begin(&Reply::success(json!(1), json!({}).into()));
        sent(&outbox, &kept);
        let cursor = Cursor::parse(CURSOR).unwrap();
        stream.heartbeat(Some(cursor));
        assert_eq!(sent(&outbox, &kept), format!(":\nid: {CURSOR}\n\n"));
        push(&outbox, cursor.position.sequence + 1);
        stream.heartbeat(Some(cursor));
        assert_eq!(sent(&outbox, &kept), "data: an event\n\n:\n\n");
    }
}
