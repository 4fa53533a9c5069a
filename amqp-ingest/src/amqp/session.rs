//! One connection, from the first delivery to the loss or the shutdown: takes deliveries, hands events to the publisher,
//! and acknowledges what the stream has.
//!
//! The broker sends no more than `amqp.prefetch` deliveries ahead of the acknowledgements, which bounds everything
//! here. Acknowledgements go out together, because each costs the broker and us about as much as an event: all that
//! has been settled without a gap, a moment after the first of it or when a part of the prefetch is used up.

use std::time::Duration;

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Broker,
    delivery::{Fate, decide},
    frame::Delivery,
    link::Link,
    window::{State, Window},
};
use crate::{
    body::Rejection,
    error::IngestError,
    publish::{Outcome, Outgoing, Receipt, Settled},
    seldom::Seldom,
};

/// After the shutdown, what is on its way to the stream gets this long to arrive. What does not is given back.
const FINISH_WITHIN: Duration = Duration::from_secs(3);

/// A settled delivery is acknowledged after this at the latest. The broker keeps it so long.
const ACK_WITHIN: Duration = Duration::from_millis(10);

/// When one in so many of the prefetch is settled, that is acknowledged at once: the broker must not run dry.
const ACK_PART: usize = 4;

/// How many settlements are read at once, at most.
const SETTLED_AT_ONCE: usize = 256;

/// What is read from one connection.
pub(super) struct Session<'s> {
    broker: &'s Broker,
    link: Link,
    window: Window,
    settle: mpsc::Sender<Settled>,
    settled: mpsc::Receiver<Settled>,
    /// Up to which delivery the broker is to be told that all is done, and when.
    done: Option<(u64, Instant)>,
    /// How many deliveries have been settled in a row since it was told.
    done_count: usize,
    rejection_log: Seldom,
}

impl<'s> Session<'s> {
    /// That of a connection that consumes.
    pub(super) fn new(link: Link, broker: &'s Broker) -> Session<'s> {
        // Room for every delivery that can be under way, so that the publisher never waits for a session.
        let (settle, settled) = mpsc::channel(usize::from(broker.config.prefetch));
        Session {
            broker,
            link,
            window: Window::new(),
            settle,
            settled,
            done: None,
            done_count: 0,
            rejection_log: Seldom::new(),
        }
    }

    /// Carries events until the shutdown, or until the connection is lost.
    pub(super) async fn carry(&mut self, shutdown: &CancellationToken) -> Result<(), IngestError> {
        let mut news = Vec::with_capacity(SETTLED_AT_ONCE);
        loop {
            self.link.flush().await?;
            let ack_at = self.done.map_or_else(Instant::now, |(_, at)| at);
            let look_at = self.link.next_look();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return self.finish().await,
                _ = self.settled.recv_many(&mut news, SETTLED_AT_ONCE) => self.settle(&mut news),
                () = sleep_until(ack_at), if self.done.is_some() => self.acknowledge(),
                filled = self.link.fill() => {
                    filled?;
                    while let Some(delivery) = self.link.next()? {
                        self.take(delivery, shutdown).await?;
                    }
                }
                () = sleep_until(look_at.map_or_else(Instant::now, Instant::from_std)), if look_at.is_some() => {
                    self.link.look()?;
                }
            }
        }
    }

    /// Ends the connection in order.
    pub(super) async fn close(&mut self) -> Result<(), IngestError> {
        self.link.close().await
    }

    async fn take(&mut self, delivery: Delivery, shutdown: &CancellationToken) -> Result<(), IngestError> {
        let Broker { outgoing, .. } = self.broker;
        let tag = delivery.tag;
        match decide(&delivery, self.broker) {
            Fate::Publish(message) => {
                self.push(tag, State::InFlight)?;
                let receipt = Receipt { tag, settle: self.settle.clone() };
                tokio::select! {
                    // The publisher ends only after its sources.
                    _ = outgoing.send(Outgoing { message, receipt }) => {}
                    () = shutdown.cancelled() => {}
                }
            }
            Fate::Reject(reason) => {
                self.push(tag, State::Rejected)?;
                self.log_rejection(reason, &delivery);
                self.reject(tag, reason);
                self.advance();
            }
            Fate::Forget => {
                self.push(tag, State::Done)?;
                self.advance();
            }
        }
        Ok(())
    }

    fn push(&mut self, tag: u64, state: State) -> Result<(), IngestError> {
        self.broker.counters.in_flight.inc();
        if self.window.push(tag, state) { Ok(()) } else { Err(IngestError::DeliveryTag(tag)) }
    }

    fn settle(&mut self, news: &mut Vec<Settled>) {
        for Settled { tag, outcome } in news.drain(..) {
            match outcome {
                Outcome::Stored => self.window.settle(tag, State::Done),
                Outcome::Refused(reason) => {
                    self.window.settle(tag, State::Rejected);
                    self.reject(tag, reason);
                }
            }
        }
        self.advance();
    }

    /// Notes what has been settled without a gap; acknowledges it if that is much.
    fn advance(&mut self) {
        let before = self.window.len();
        let done = self.window.advance();
        let settled = before - self.window.len();
        self.broker.counters.in_flight.dec_by(settled as i64);
        self.done_count += settled;
        if let Some(tag) = done {
            let at = self.done.map_or_else(|| Instant::now() + ACK_WITHIN, |(_, at)| at);
            self.done = Some((tag, at));
        }
        if self.done_count * ACK_PART >= usize::from(self.broker.config.prefetch) {
            self.acknowledge();
        }
    }

    fn acknowledge(&mut self) {
        self.done_count = 0;
        if let Some((tag, _)) = self.done.take() {
            self.link.acknowledge(tag);
        }
    }

    /// To the dead-letter exchange.
    fn reject(&mut self, tag: u64, reason: Rejection) {
        self.broker.metrics.rejected(reason).inc();
        self.link.reject(tag);
    }

    fn log_rejection(&mut self, reason: Rejection, delivery: &Delivery) {
        if let Some(left_out) = self.rejection_log.pass() {
            tracing::warn!(
                reason = reason.label(),
                exchange = %String::from_utf8_lossy(&delivery.exchange),
                routing_key = %String::from_utf8_lossy(&delivery.key),
                bytes = delivery.body.as_ref().map(Bytes::len),
                left_out,
                "rejected an event to the dead-letter exchange"
            );
        }
    }

    /// Waits for what is on its way to the stream; the rest goes back to the broker with the connection.
    async fn finish(&mut self) -> Result<(), IngestError> {
        let deadline = Instant::now() + FINISH_WITHIN;
        let mut news = Vec::new();
        while self.window.len() > 0 {
            tokio::select! {
                () = sleep_until(deadline) => {
                    tracing::warn!(events = self.window.len(), "gives events back to the broker");
                    break;
                }
                _ = self.settled.recv_many(&mut news, SETTLED_AT_ONCE) => self.settle(&mut news),
            }
        }
        self.acknowledge();
        self.link.flush().await
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.broker.counters.in_flight.dec_by(self.window.len() as i64);
    }
}
