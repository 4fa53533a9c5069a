//! The task of a session: it reads requests, answers them and watches deadlines.
//!
//! Events bypass the task: they go from the dispatcher to the outbox, and from there to the socket. They wake the task
//! only when the socket is full. Reading and writing never block each other. While a request is being answered, no
//! further one is read: this is back-pressure for the client.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use blackhole_common::clock;
use tokio::time::{Sleep, sleep};
use tungstenite::Message;

use crate::{
    config::RateConfig,
    edge::Edge,
    limits::connection_limit::{ConnectionPermit, SessionPermit},
    metrics::{Outcome, Reason},
    operator::registry::SessionLog,
    outbox::{Flushed, Outbox, queue::OutboundSocket},
    protocol::{
        close::Close,
        event_stream::Framing,
        reply::{Reply, generated_id},
        revoked,
    },
    session::{
        end::{End, end_of},
        keepalive::{Due, Keepalive},
        kept_events::Present,
        rate_limit::RateLimiter,
        recheck::{self, Loss},
        requests,
        start::SessionStart,
        state::State,
        subscribe,
        transport::Transport,
        websocket::ClientSocket,
    },
};

/// Messages and control frames that one poll reads, so that no client keeps a thread to itself.
const MAX_POLL_MESSAGES: u32 = 32;
/// Pings and pongs that a client may send. It is closed if it sends more.
const CONTROL_FRAMES: RateConfig = RateConfig { burst: 100, per_second: 10 };
/// Time for the client to read the close frame and to close the connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Work on the session's state. While it runs, no further request is read.
type Working = Pin<Box<dyn Future<Output = (Box<State>, Done)> + Send>>;

/// What work on the session's state has brought.
enum Done {
    /// The reply to a request.
    Answered(Reply),
    /// What auth-svc no longer grants.
    Rechecked(Loss),
}

/// A session. Boxed, because its task would otherwise reserve space for it twice.
pub(crate) struct Session {
    edge: Arc<Edge>,
    transport: Transport,
    outbox: Arc<Outbox>,
    /// `None` while a request is being answered, or auth-svc is asked again.
    state: Option<Box<State>>,
    working: Option<Working>,
    /// Kept events that are to be sent before anything else happens.
    present: Option<Box<Present>>,
    keepalive: Keepalive,
    control_frames: RateLimiter,
    timer: Pin<Box<Sleep>>,
    log: SessionLog,
    /// Requests that were answered.
    requests: u64,
    permit: ConnectionPermit,
    _session_permit: SessionPermit,
}

impl Session {
    /// The labels of sessions that the client closed, that lost their connection, and whose client did not answer pings.
    pub(crate) const GONE: [&str; 3] = ["client", "reset", "dead"];

    /// A session on a connection whose request was read.
    pub(crate) fn new(edge: Arc<Edge>, tcp: Arc<dyn ClientSocket>, start: SessionStart) -> Box<Session> {
        let bytes = |limit: bytesize::ByteSize| usize::try_from(limit.as_u64()).unwrap_or(usize::MAX);
        let framing = start.carrier.framing();
        let outbox = Outbox::new(
            start.number,
            bytes(edge.config.queue_bytes),
            Arc::clone(&tcp) as Arc<dyn OutboundSocket>,
            Arc::clone(&edge.metrics),
        );
        let outbox = Arc::new(outbox.compressed(framing == Framing::CompressedWebSocket));
        let now = clock::now();
        let state =
            State::new(&edge, start.address, (start.view, framing), start.identity, Arc::clone(&outbox));
        let mut keepalive = Keepalive::new(&edge.config, framing, now);
        if let Some(expires) = state.expiry(&edge) {
            keepalive.authenticated(expires);
        }
        Box::new(Session {
            keepalive,
            control_frames: RateLimiter::new(CONTROL_FRAMES, now),
            transport: Transport::new(start.carrier, tcp, Arc::clone(&outbox), bytes(edge.config.max_frame)),
            outbox,
            log: state.entry.log(),
            requests: 0,
            state: Some(Box::new(state)),
            working: None,
            present: None,
            timer: Box::pin(sleep(Duration::ZERO)),
            permit: start.permit,
            _session_permit: start.session_permit,
            edge,
        })
    }

    /// Runs the session until it ends.
    pub(crate) async fn run(mut self: Box<Session>) {
        let open = self.edge.sessions.open(&self.outbox);
        let kind = (self.transport.is_event_stream(), self.outbox.is_compressed());
        self.edge.metrics.session_begins(kind.0, kind.1);
        let end = poll_fn(|context| self.poll(context)).await;
        self.edge.metrics.session_ends(kind.0, kind.1);
        let reason = match &end {
            End::Close(close) => close.label(),
            End::Gone(reason) => reason,
            End::Refused => "subscription",
        };
        let counts = match end {
            End::Refused => &self.edge.metrics.handshakes_refused,
            _ => &self.edge.metrics.sessions_closed,
        };
        counts.get_or_create(&Reason { reason }).inc();
        self.log.ended(reason, self.requests);
        // Drop all subscriptions before sending the close frame.
        self.state = None;
        self.working = None;
        match end {
            End::Close(close) => {
                self.outbox.end(close == Close::Restart);
                if self.transport.close(close).is_ok() {
                    self.finish().await;
                }
            }
            End::Refused => {
                self.outbox.end(false);
                self.finish().await;
            }
            End::Gone(_) => self.outbox.end(false),
        }
        drop(open);
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<End> {
        self.outbox.register(context);
        self.transport.begin_poll();
        let mut messages = 0;
        loop {
            if let Some(close) = self.outbox.closing() {
                return Poll::Ready(End::Close(close));
            }
            if self.outbox.has_failed() {
                return Poll::Ready(End::Gone("reset"));
            }
            if self.outbox.is_blocked()
                && let Poll::Ready(ready) = self.transport.poll_writable(context)
            {
                if ready.is_err() {
                    return Poll::Ready(End::Gone("reset"));
                }
                self.flush();
                continue;
            }
            match self.poll_work(context) {
                Poll::Ready(Ok(())) => continue,
                Poll::Ready(Err(end)) => return Poll::Ready(end),
                Poll::Pending => {}
            }
            match self.poll_present(context) {
                Poll::Ready(Ok(())) => continue,
                Poll::Ready(Err(end)) => return Poll::Ready(end),
                Poll::Pending => {}
            }
            if !self.is_busy() && self.outbox.take_recheck() {
                self.start_recheck();
                continue;
            }
            if messages == MAX_POLL_MESSAGES {
                context.waker().wake_by_ref();
            } else {
                match self.poll_read(context) {
                    Poll::Ready(Ok(())) => {
                        messages += 1;
                        continue;
                    }
                    Poll::Ready(Err(end)) => return Poll::Ready(end),
                    Poll::Pending => {}
                }
            }
            match self.poll_timer(context) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(end)) => return Poll::Ready(end),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Flushes what the transport has queued, if that did not fail.
    fn sent<T>(&self, queued: Result<T, tungstenite::Error>) -> Result<T, tungstenite::Error> {
        self.flush();
        queued
    }

    fn flush(&self) {
        if !self.transport.is_open() {
            return;
        }
        self.edge.flusher.flush_one(Arc::clone(&self.outbox));
        self.outbox.shrink();
    }

    fn start_recheck(&mut self) {
        if let Some(mut state) = self.state.take() {
            let edge = Arc::clone(&self.edge);
            self.working = Some(Box::pin(async move {
                let loss = recheck::recheck(&edge, &mut state).await;
                (state, Done::Rechecked(loss))
            }));
        }
    }

    /// Ready when a request has been answered, or auth-svc has answered again.
    fn poll_work(&mut self, context: &mut Context<'_>) -> Poll<Result<(), End>> {
        let Some(working) = &mut self.working else { return Poll::Pending };
        let Poll::Ready((state, done)) = working.as_mut().poll(context) else { return Poll::Pending };
        self.working = None;
        Poll::Ready(match done {
            Done::Answered(reply) => self.answered(state, &reply),
            Done::Rechecked(loss) => self.rechecked(state, loss),
        })
    }

    fn rechecked(&mut self, state: Box<State>, loss: Loss) -> Result<(), End> {
        let frame = (!loss.revoked.is_empty()).then(|| revoked::frame(&loss.revoked, &state.binding_texts()));
        self.state = Some(state);
        if let Some(frame) = frame {
            let queued = self.transport.revoked(frame);
            self.sent(queued).map_err(|error| end_of(&error))?;
        }
        loss.close.map_or(Ok(()), |close| Err(End::Close(close)))
    }

    fn answered(&mut self, mut state: Box<State>, reply: &Reply) -> Result<(), End> {
        if let Some(expires) = state.expiry(&self.edge) {
            self.permit.token_accepted();
            self.keepalive.authenticated(expires);
        }
        let resumes = std::mem::take(&mut state.resumes);
        self.present = state.present.take();
        self.state = Some(state);
        let outcome = if reply.is_success() { "success" } else { "error" };
        self.edge.metrics.requests.get_or_create(&Outcome { outcome }).inc();
        self.requests += 1;
        let queued = self.transport.reply(reply);
        if !self.sent(queued).map_err(|error| end_of(&error))? {
            return Err(End::Refused);
        }
        if resumes && self.present.is_none() {
            self.release();
        }
        Ok(())
    }

    /// Past events follow the reply and the kept events.
    fn release(&self) {
        self.outbox.release();
        self.flush();
    }

    /// Whether no further request may be read.
    fn is_busy(&self) -> bool {
        self.working.is_some() || self.present.is_some()
    }

    /// Ready when all kept events are queued.
    fn poll_present(&mut self, context: &Context<'_>) -> Poll<Result<(), End>> {
        let Some(present) = &mut self.present else { return Poll::Pending };
        if present.is_late() {
            return Poll::Ready(Err(End::Close(Close::Behind)));
        }
        // A full socket wakes the session when it is writable.
        if self.outbox.is_blocked() {
            return Poll::Pending;
        }
        if present.push(&self.edge.event_root, &self.outbox) {
            self.present = None;
            self.release();
            return Poll::Ready(Ok(()));
        }
        self.flush();
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ready when a frame was read. Reads none while there is work on the state or too many replies are queued.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<(), End>> {
        if self.is_busy() || self.outbox.is_stuffed() {
            return Poll::Pending;
        }
        let message = match self.transport.poll_next(context) {
            Poll::Ready(Ok(message)) => message,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(end_of(&error))),
            Poll::Pending => return Poll::Pending,
        };
        self.keepalive.heard();
        let sent = match message {
            Message::Text(frame) => {
                self.keepalive.requested(clock::now());
                if let Some(state) = self.state.take() {
                    let answer = requests::answer(Arc::clone(&self.edge), state, frame);
                    self.working = Some(Box::pin(async move {
                        let (state, reply) = answer.await;
                        (state, Done::Answered(reply))
                    }));
                }
                Ok(())
            }
            Message::Binary(_) => {
                self.keepalive.requested(clock::now());
                let reply = Reply::error(generated_id(), "binary frames are not understood, send text");
                let queued = self.transport.reply(&reply);
                self.sent(queued).map(drop)
            }
            Message::Ping(_) | Message::Pong(_) if !self.control_frames.try_take(clock::now()) => {
                return Poll::Ready(Err(End::Close(Close::Flood)));
            }
            // tungstenite has queued the reply.
            Message::Ping(_) | Message::Close(_) => {
                let queued = self.transport.control();
                self.sent(queued)
            }
            Message::Pong(_) | Message::Frame(_) => Ok(()),
        };
        Poll::Ready(sent.or_else(|error| match error {
            // The reply to a close frame was the last frame. The next read reports the end.
            tungstenite::Error::ConnectionClosed => Ok(()),
            error => Err(end_of(&error)),
        }))
    }

    /// Ready when a deadline has passed; pending until the next one.
    fn poll_timer(&mut self, context: &mut Context<'_>) -> Poll<Result<(), End>> {
        if self.timer.as_mut().poll(context).is_pending()
            && self.keepalive.is_in_time(self.timer.deadline().into_std())
        {
            return Poll::Pending;
        }
        // Who answers nothing is found dead by TCP.
        let is_reading = !self.is_busy() && !self.transport.is_event_stream();
        let due = self.keepalive.due(clock::now(), &self.edge.config, &self.outbox, is_reading);
        match due {
            Due::Close(close) => Poll::Ready(Err(End::Close(close))),
            Due::Dead => Poll::Ready(Err(End::Gone("dead"))),
            Due::Ping => {
                let (edge, state) = (&self.edge, self.state.as_deref());
                let queued = self.transport.ping(|| subscribe::cursor(edge, state?));
                Poll::Ready(self.sent(queued).map_err(|error| end_of(&error)))
            }
            Due::Nothing(next) => {
                self.timer.as_mut().reset(next.into());
                self.timer.as_mut().poll(context).map(Ok)
            }
        }
    }

    /// Sends what is queued, and waits for the client to close: closing a connection with unread bytes would reset it, and
    /// the client could lose the last frame.
    async fn finish(&mut self) {
        let finished = async {
            while self.outbox.flush() == Flushed::Blocked {
                poll_fn(|context| self.transport.poll_writable(context)).await?;
            }
            self.transport.shutdown().await
        };
        // Boxed, so that open sessions do not reserve space for this future.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, Box::pin(finished)).await;
    }
}
