//! One WebSocket session: one task that reads requests, writes frames and keeps the time.
//!
//! Writing never keeps it from reading, nor the other way round; while a request is being answered no further
//! one is read, which is the client's back-pressure.

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

use futures_util::{Sink, Stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Sleep,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Message, error::ProtocolError},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::{
    Edge,
    close::Close,
    fanout::SessionNumber,
    frame::View,
    metrics::{Outcome, Reason},
    outbox::Outbox,
    reply::Reply,
};
pub use state::{Bearing, State};

/// How long a closing session waits for its client to take the close frame and go.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// A client is taken for dead that was not heard for so many ping intervals.
const SILENT_INTERVALS: u32 = 2;

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

struct Session {
    edge: Arc<Edge>,
    socket: WebSocketStream<TcpStream>,
    outbox: Arc<Outbox>,
    /// Absent while a request is being answered.
    state: Option<Box<State>>,
    answering: Option<Answering>,
    /// What goes out before the next event.
    urgent: Option<Message>,
    unflushed: bool,
    heard: Instant,
    active: Instant,
    next_ping: Instant,
    expires: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// Why a session is over.
enum End {
    /// The edge closes it.
    Close(Close),
    /// The client closed it, or is gone.
    Gone(&'static str),
}

/// Serves one session to its end.
pub async fn serve(
    edge: Arc<Edge>,
    socket: WebSocketStream<TcpStream>,
    opening: Opening,
    shutdown: &CancellationToken,
) {
    let now = Instant::now();
    let outbox =
        Arc::new(Outbox::new(usize::try_from(edge.config.queue_bytes.as_u64()).unwrap_or(usize::MAX)));
    let state = State::new(&edge, opening, Arc::clone(&outbox), now);
    // Sessions that came together must not ping together for ever.
    let first_ping = edge.config.ping_interval.mul_f64(0.5 + rand::random::<f64>() / 2.0);
    let mut session = Session {
        expires: state.expires(&edge),
        socket,
        outbox,
        state: Some(Box::new(state)),
        answering: None,
        urgent: None,
        unflushed: false,
        heard: now,
        active: now,
        next_ping: now + first_ping,
        timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
        shutdown: Box::pin(shutdown.clone().cancelled_owned()),
        edge,
    };
    session.edge.metrics.sessions.inc();
    let end = poll_fn(|context| session.poll(context)).await;
    let reason = match &end {
        End::Close(close) => close.label(),
        End::Gone(reason) => reason,
    };
    session.edge.metrics.sessions.dec();
    session.edge.metrics.sessions_closed.get_or_create(&Reason { reason }).inc();
    // Whatever it was subscribed to ends here, before the farewell.
    session.state = None;
    session.answering = None;
    match end {
        End::Close(close) => session.say_goodbye(close).await,
        End::Gone(_) => {}
    }
}

impl Session {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<End> {
        loop {
            if self.shutdown.as_mut().poll(context).is_ready() {
                return Poll::Ready(End::Close(Close::Restart));
            }
            if let Err(error) = self.poll_write(context) {
                return Poll::Ready(end_of(&error));
            }
            if self.outbox.is_overrun() {
                return Poll::Ready(End::Close(Close::TooSlow));
            }
            if self.poll_answer(context).is_ready() {
                continue;
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

    /// Hands over what waits, as long as the socket takes it.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Result<(), tungstenite::Error> {
        self.outbox.register(context);
        loop {
            match Pin::new(&mut self.socket).poll_ready(context) {
                Poll::Ready(ready) => ready?,
                Poll::Pending => return Ok(()),
            }
            let message = match self.urgent.take() {
                Some(message) => message,
                None => match self.outbox.pop() {
                    Some(frame) => {
                        self.active = Instant::now();
                        self.edge.metrics.frames.inc();
                        self.edge.metrics.frame_bytes.inc_by(u64::try_from(frame.len()).unwrap_or(u64::MAX));
                        Message::Text(frame)
                    }
                    None => break,
                },
            };
            Pin::new(&mut self.socket).start_send(message)?;
            self.unflushed = true;
        }
        if self.unflushed
            && let Poll::Ready(flushed) = Pin::new(&mut self.socket).poll_flush(context)
        {
            flushed?;
            self.unflushed = false;
        }
        Ok(())
    }

    /// Ready when a request has been answered.
    fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(answering) = &mut self.answering else { return Poll::Pending };
        let Poll::Ready((state, reply)) = answering.as_mut().poll(context) else { return Poll::Pending };
        self.answering = None;
        self.expires = state.expires(&self.edge);
        self.state = Some(state);
        let outcome = if reply.is_success() { "success" } else { "error" };
        self.edge.metrics.requests.get_or_create(&Outcome { outcome }).inc();
        self.urgent = Some(Message::Text(reply.to_frame()));
        Poll::Ready(())
    }

    /// Ready when a frame was taken in. None is while a request or its reply is under way.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<(), End>> {
        if self.urgent.is_some() || self.answering.is_some() {
            return Poll::Pending;
        }
        let message = match Pin::new(&mut self.socket).poll_next(context) {
            Poll::Ready(Some(Ok(message))) => message,
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(end_of(&error))),
            Poll::Ready(None) => return Poll::Ready(Err(End::Gone("client"))),
            Poll::Pending => return Poll::Pending,
        };
        self.heard = Instant::now();
        match message {
            Message::Text(frame) => {
                self.active = self.heard;
                if let Some(state) = self.state.take() {
                    self.answering = Some(Box::pin(requests::answer(Arc::clone(&self.edge), state, frame)));
                }
            }
            Message::Binary(_) => {
                self.active = self.heard;
                let reply =
                    Reply::error(crate::reply::generated_id(), "binary frames are not understood, send text");
                self.urgent = Some(Message::Text(reply.to_frame()));
            }
            // tungstenite has queued the answer, which has to be flushed.
            Message::Ping(_) | Message::Close(_) => self.unflushed = true,
            Message::Pong(_) | Message::Frame(_) => {}
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when a time has come; pending until the next one.
    fn poll_timer(&mut self, context: &mut Context<'_>) -> Poll<Result<(), End>> {
        let now = Instant::now();
        if self.expires.is_some_and(|expires| expires <= now) {
            return Poll::Ready(Err(End::Close(Close::TokenExpired)));
        }
        let idle = self.active + self.edge.config.idle_timeout;
        if idle <= now {
            return Poll::Ready(Err(End::Close(Close::Idle)));
        }
        let interval = self.edge.config.ping_interval;
        if self.next_ping <= now {
            // Paused reading is ours, not the client's silence.
            if now - self.heard > interval * SILENT_INTERVALS && self.answering.is_none() {
                return Poll::Ready(Err(End::Gone("dead")));
            }
            self.next_ping = now + interval;
            if self.urgent.is_none() {
                self.urgent = Some(Message::Ping(bytes::Bytes::new()));
                return Poll::Ready(Ok(()));
            }
        }
        let next =
            [Some(idle), Some(self.next_ping), self.expires].into_iter().flatten().min().unwrap_or(idle);
        self.timer.as_mut().reset(next.into());
        self.timer.as_mut().poll(context).map(Ok)
    }

    /// Sends the close frame after what the socket still takes, and lets the client go in peace: closing with
    /// unread bytes would reset the connection and destroy the frame on its way.
    async fn say_goodbye(&mut self, close: Close) {
        let farewell = async {
            if close == Close::Restart {
                while let Some(frame) = self.outbox.pop() {
                    futures_util::SinkExt::feed(&mut self.socket, Message::Text(frame)).await?;
                }
            }
            self.socket.close(Some(close.frame())).await?;
            let stream = self.socket.get_mut();
            stream.shutdown().await?;
            let mut rest = [0; 1024];
            while stream.read(&mut rest).await? > 0 {}
            Ok::<_, tungstenite::Error>(())
        };
        // A client that does not take it is not waited for.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, farewell).await;
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
