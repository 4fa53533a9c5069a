//! One WebSocket session: one task that reads requests, answers them and keeps the time.
//!
//! Events do not pass through it: they go from the fan-out to the session's outbox, and from there to the socket. The
//! task is woken for them only when the socket is full. Writing never keeps it from reading, nor the other way round;
//! while a request is being answered no further one is read, which is the client's back-pressure.

mod actions;
mod requests;
mod state;

use std::{
    future::poll_fn,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    net::TcpStream,
    time::{Sleep, sleep},
};
use tungstenite::{Message, error::ProtocolError};

use crate::{
    Edge,
    close::Close,
    fanout::SessionNumber,
    frame::View,
    metrics::{Outcome, Reason},
    outbox::{Flushed, Outbox},
    reply::Reply,
    socket::Socket,
};
pub use state::{Bearing, State};

/// How long a closing session waits for its client to take what is left and go.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// A client is taken for dead that was not heard since so many pings.
const MOST_UNANSWERED: u32 = 2;
/// A client that does not read cannot answer pings: it has longer.
const MOST_UNANSWERED_UNREAD: u32 = 10;

/// What a session begins with.
#[derive(Debug)]
pub struct Opening {
    /// Its number on this edge.
    pub number: SessionNumber,
    /// The client's address, behind trusted proxies.
    pub address: IpAddr,
    /// The view of its events.
    pub view: View,
    /// Who it is, where the upgrade request told it.
    pub bearing: Option<Bearing>,
}

type Answering = Pin<Box<dyn Future<Output = (Box<State>, Reply)> + Send>>;

/// A session. Boxed, because its task would else have room for it twice.
pub struct Session {
    edge: Arc<Edge>,
    socket: Socket,
    outbox: Arc<Outbox>,
    /// Absent while a request is being answered.
    state: Option<Box<State>>,
    answering: Option<Answering>,
    /// Pings that were sent since something was heard. Counted, because a time would also count the edge's own pauses.
    unanswered: u32,
    asked: Instant,
    next_ping: Instant,
    expires: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

/// Why a session is over.
enum End {
    /// The edge closes it.
    Close(Close),
    /// The client closed it, or is gone.
    Gone(&'static str),
}

impl Session {
    /// On a connection that was upgraded. `early` is what the client sent behind its request.
    pub fn new(edge: Arc<Edge>, tcp: TcpStream, early: Bytes, opening: Opening) -> Box<Session> {
        let now = Instant::now();
        let tcp = Arc::new(tcp);
        let bytes = |limit: bytesize::ByteSize| usize::try_from(limit.as_u64()).unwrap_or(usize::MAX);
        let outbox = Arc::new(Outbox::new(
            opening.number,
            bytes(edge.config.queue_bytes),
            Arc::clone(&tcp) as _,
            Arc::clone(&edge.metrics),
        ));
        let state = State::new(&edge, opening, Arc::clone(&outbox), now);
        // Sessions that came together must not ping together for ever.
        let first_ping = edge.config.ping_interval.mul_f64(0.5 + rand::random::<f64>() / 2.0);
        Box::new(Session {
            expires: state.expires(&edge),
            socket: Socket::new(tcp, Arc::clone(&outbox), early, bytes(edge.config.max_frame)),
            outbox,
            state: Some(Box::new(state)),
            answering: None,
            unanswered: 0,
            asked: now,
            next_ping: now + first_ping,
            timer: Box::pin(sleep(Duration::ZERO)),
            edge,
        })
    }

    /// Serves the session to its end.
    pub async fn run(mut self: Box<Session>) {
        let open = self.edge.sessions.open(&self.outbox);
        self.edge.metrics.sessions.inc();
        let end = poll_fn(|context| self.poll(context)).await;
        let reason = match &end {
            End::Close(close) => close.label(),
            End::Gone(reason) => reason,
        };
        self.edge.metrics.sessions.dec();
        self.edge.metrics.sessions_closed.get_or_create(&Reason { reason }).inc();
        // Whatever it was subscribed to ends here, before the farewell.
        self.state = None;
        self.answering = None;
        match end {
            End::Close(close) => {
                self.outbox.end(close == Close::Restart);
                // A client that does not take it is not waited for. Boxed, because sessions carry no room for their end.
                let _ = tokio::time::timeout(CLOSE_TIMEOUT, Box::pin(self.say_goodbye(close))).await;
            }
            End::Gone(_) => self.outbox.end(false),
        }
        drop(open);
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<End> {
        self.outbox.register(context);
        loop {
            if let Some(close) = self.outbox.closing() {
                return Poll::Ready(End::Close(close));
            }
            if self.outbox.has_failed() {
                return Poll::Ready(End::Gone("reset"));
            }
            if self.outbox.is_blocked()
                && let Poll::Ready(ready) = self.socket.poll_writable(context)
            {
                if ready.is_err() {
                    return Poll::Ready(End::Gone("reset"));
                }
                self.flush();
                continue;
            }
            match self.poll_answer(context) {
                Poll::Ready(Ok(())) => continue,
                Poll::Ready(Err(error)) => return Poll::Ready(end_of(&error)),
                Poll::Pending => {}
            }
            match self.poll_read(context) {
                Poll::Ready(Ok(())) => continue,
                Poll::Ready(Err(end)) => return Poll::Ready(end),
                Poll::Pending => {}
            }
            match self.poll_timer(context) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(end)) => return Poll::Ready(end),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Sends what the session itself has to say, behind what waits already.
    fn send(&mut self, message: Option<Message>) -> Result<(), tungstenite::Error> {
        let sent = self.socket.send(message);
        self.flush();
        sent
    }

    fn flush(&self) {
        self.edge.writers.flush_one(Arc::clone(&self.outbox));
        self.outbox.shrink();
    }

    /// Ready when a request has been answered.
    fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<Result<(), tungstenite::Error>> {
        let Some(answering) = &mut self.answering else { return Poll::Pending };
        let Poll::Ready((mut state, reply)) = answering.as_mut().poll(context) else { return Poll::Pending };
        self.answering = None;
        self.expires = state.expires(&self.edge);
        let resumes = std::mem::take(&mut state.resumes);
        self.state = Some(state);
        let outcome = if reply.is_success() { "success" } else { "error" };
        self.edge.metrics.requests.get_or_create(&Outcome { outcome }).inc();
        self.send(Some(Message::Text(reply.to_frame())))?;
        if resumes {
            // What was asked for of the past follows the reply.
            self.outbox.release();
            self.flush();
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when a frame was taken in. None is while a request is answered, or as long as replies pile up that the
    /// client does not read.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<(), End>> {
        if self.answering.is_some() || self.outbox.is_stuffed() {
            return Poll::Pending;
        }
        let message = match self.socket.poll_next(context) {
            Poll::Ready(Ok(message)) => message,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(end_of(&error))),
            Poll::Pending => return Poll::Pending,
        };
        self.unanswered = 0;
        let sent = match message {
            Message::Text(frame) => {
                self.asked = Instant::now();
                if let Some(state) = self.state.take() {
                    self.answering = Some(Box::pin(requests::answer(Arc::clone(&self.edge), state, frame)));
                }
                Ok(())
            }
            Message::Binary(_) => {
                self.asked = Instant::now();
                let reply =
                    Reply::error(crate::reply::generated_id(), "binary frames are not understood, send text");
                self.send(Some(Message::Text(reply.to_frame())))
            }
            // tungstenite has the answer ready, which has to be sent.
            Message::Ping(_) | Message::Close(_) => self.send(None),
            Message::Pong(_) | Message::Frame(_) => Ok(()),
        };
        Poll::Ready(sent.or_else(|error| match error {
            // The answer to a close was the last that may be sent; reading on tells the end.
            tungstenite::Error::ConnectionClosed => Ok(()),
            error => Err(end_of(&error)),
        }))
    }

    /// Ready when a time has come; pending until the next one.
    fn poll_timer(&mut self, context: &mut Context<'_>) -> Poll<Result<(), End>> {
        // It was set for the nearest time; a later one needs no look before that.
        if self.timer.as_mut().poll(context).is_pending() && self.is_timer_early_enough() {
            return Poll::Pending;
        }
        let now = Instant::now();
        if self.expires.is_some_and(|expires| expires <= now) {
            return Poll::Ready(Err(End::Close(Close::TokenExpired)));
        }
        let idle = self.asked.max(self.outbox.sent()) + self.edge.config.idle_timeout;
        if idle <= now {
            return Poll::Ready(Err(End::Close(Close::Idle)));
        }
        let interval = self.edge.config.ping_interval;
        if self.next_ping <= now {
            let most = if self.outbox.is_blocked() { MOST_UNANSWERED_UNREAD } else { MOST_UNANSWERED };
            // Paused reading is ours, not the client's silence.
            if self.unanswered >= most && self.answering.is_none() {
                return Poll::Ready(Err(End::Gone("dead")));
            }
            self.unanswered = self.unanswered.saturating_add(1);
            self.next_ping = now + interval;
            if let Err(error) = self.send(Some(Message::Ping(Bytes::new()))) {
                return Poll::Ready(Err(end_of(&error)));
            }
            return Poll::Ready(Ok(()));
        }
        let next = self.expires.map_or(self.next_ping, |expires| expires.min(self.next_ping)).min(idle);
        self.timer.as_mut().reset(next.into());
        self.timer.as_mut().poll(context).map(Ok)
    }

    /// Whether the timer is set for the end of the token or earlier: a token is the only time that may come nearer.
    fn is_timer_early_enough(&self) -> bool {
        self.expires.is_none_or(|expires| self.timer.deadline() <= expires.into())
    }

    /// Sends the close frame after what the socket still takes, and lets the client go in peace: closing with
    /// unread bytes would reset the connection and destroy the frame on its way.
    async fn say_goodbye(&mut self, close: Close) -> Result<(), tungstenite::Error> {
        self.socket.close(close.frame())?;
        while self.outbox.flush() == Flushed::Blocked {
            poll_fn(|context| self.socket.poll_writable(context)).await?;
        }
        self.socket.part().await?;
        Ok(())
    }
}

fn end_of(error: &tungstenite::Error) -> End {
    use tungstenite::Error;
    match error {
        Error::Capacity(_) => End::Close(Close::TooBig),
        Error::Utf8(_) => End::Close(Close::NotUtf8),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => End::Gone("reset"),
        Error::Protocol(_) | Error::AttackAttempt => End::Close(Close::Protocol),
        Error::ConnectionClosed | Error::AlreadyClosed => End::Gone("client"),
        _ => End::Gone("reset"),
    }
}
