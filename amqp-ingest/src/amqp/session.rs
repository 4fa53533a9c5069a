//! Consumes on one connection, from the first delivery to the loss of the connection or the shutdown: hands events to
//! the publisher, and acknowledges what the stream has stored.
//!
//! The broker sends at most `amqp.prefetch` unacknowledged deliveries, which bounds all memory here. An
//! acknowledgement costs the broker and us about as much as an event, so deliveries settled without a gap are
//! acknowledged together: after [`ACK_DELAY`], or when a part of the prefetch is used up.

use std::time::Duration;

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    broker::BrokerContext,
    connection::Connection,
    delivery::{Disposition, classify},
    frame::Delivery,
    window::{AckWindow, DeliveryState},
};
use crate::{
    body::Rejection,
    error::IngestError,
    log_throttle::LogThrottle,
    publish::{Outcome, OutgoingEvent, SettleHandle, Settlement},
};

/// How long to wait for in-flight events after the shutdown. The broker requeues the rest.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

/// Maximum time from the settlement of a delivery to its acknowledgement.
const ACK_DELAY: Duration = Duration::from_millis(10);

/// One in this many deliveries of the prefetch triggers an acknowledgement at once, so that the broker keeps sending.
const ACK_FRACTION: usize = 4;

/// Maximum number of settlements received in one batch.
const SETTLE_BATCH: usize = 256;

/// The state of one consuming connection.
pub(super) struct ConsumerSession<'s> {
    broker: &'s BrokerContext,
    connection: Connection,
    window: AckWindow,
    settle_tx: mpsc::Sender<Settlement>,
    settle_rx: mpsc::Receiver<Settlement>,
    /// The tag up to which to acknowledge, and when.
    pending_ack: Option<(u64, Instant)>,
    /// Deliveries settled without a gap since the last acknowledgement.
    unacked_count: usize,
    rejection_log: LogThrottle,
}

impl<'s> ConsumerSession<'s> {
    /// The session of a connection that has started to consume.
    pub(super) fn new(connection: Connection, broker: &'s BrokerContext) -> ConsumerSession<'s> {
        // It has room for every unacknowledged delivery, so the publisher never waits for a session.
        let (settle_tx, settle_rx) = mpsc::channel(usize::from(broker.config.prefetch));
        ConsumerSession {
            broker,
            connection,
            window: AckWindow::new(),
            settle_tx,
            settle_rx,
            pending_ack: None,
            unacked_count: 0,
            rejection_log: LogThrottle::new(),
        }
    }

    /// Consumes until the shutdown, or returns the error that ended the connection.
    pub(super) async fn run(&mut self, shutdown: &CancellationToken) -> Result<(), IngestError> {
        let mut settlements = Vec::with_capacity(SETTLE_BATCH);
        loop {
            self.connection.flush().await?;
            let ack_at = self.pending_ack.map_or_else(Instant::now, |(_, at)| at);
            let heartbeat_at = self.connection.next_heartbeat_check().map(Instant::from_std);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return self.drain().await,
                _ = self.settle_rx.recv_many(&mut settlements, SETTLE_BATCH) => self.settle(&mut settlements),
                () = sleep_until(ack_at), if self.pending_ack.is_some() => self.acknowledge(),
                filled = self.connection.fill() => {
                    filled?;
                    while let Some(delivery) = self.connection.next()? {
                        self.handle_delivery(delivery, shutdown).await?;
                    }
                }
                () = sleep_until(heartbeat_at.unwrap_or_else(Instant::now)), if heartbeat_at.is_some() => {
                    self.connection.check_heartbeat()?;
                }
            }
        }
    }

    /// See [`Connection::close`].
    pub(super) async fn close(&mut self) -> Result<(), IngestError> {
        self.connection.close().await
    }

    async fn handle_delivery(
        &mut self,
        delivery: Delivery,
        shutdown: &CancellationToken,
    ) -> Result<(), IngestError> {
        let tag = delivery.tag;
        match classify(&delivery, self.broker) {
            Disposition::Publish(message) => {
                self.push(tag, DeliveryState::InFlight)?;
                let settle_handle = SettleHandle { tag, sender: self.settle_tx.clone() };
                tokio::select! {
                    // It cannot fail: the publisher outlives the consumers.
                    _ = self.broker.publisher.send(OutgoingEvent { message, settle_handle }) => {}
                    () = shutdown.cancelled() => {}
                }
            }
            Disposition::Reject(reason) => {
                self.push(tag, DeliveryState::Rejected)?;
                self.log_rejection(reason, &delivery);
                self.reject(tag, reason);
                self.advance();
            }
            Disposition::Discard => {
                self.push(tag, DeliveryState::Done)?;
                self.advance();
            }
        }
        Ok(())
    }

    fn push(&mut self, tag: u64, state: DeliveryState) -> Result<(), IngestError> {
        self.broker.counters.in_flight.inc();
        if self.window.push(tag, state) { Ok(()) } else { Err(IngestError::DeliveryTag(tag)) }
    }

    fn settle(&mut self, settlements: &mut Vec<Settlement>) {
        for Settlement { tag, outcome } in settlements.drain(..) {
            match outcome {
                Outcome::Stored => self.window.settle(tag, DeliveryState::Done),
                Outcome::Rejected(reason) => {
                    self.window.settle(tag, DeliveryState::Rejected);
                    self.reject(tag, reason);
                }
            }
        }
        self.advance();
    }

    /// Schedules an acknowledgement of what is settled without a gap, or acknowledges at once if it is a large part
    /// of the prefetch.
    fn advance(&mut self) {
        let before = self.window.len();
        let ack_up_to = self.window.advance();
        let settled = before - self.window.len();
        self.broker.counters.in_flight.dec_by(settled as i64);
        self.unacked_count += settled;
        if let Some(tag) = ack_up_to {
            let at = self.pending_ack.map_or_else(|| Instant::now() + ACK_DELAY, |(_, at)| at);
            self.pending_ack = Some((tag, at));
        }
        if self.unacked_count * ACK_FRACTION >= usize::from(self.broker.config.prefetch) {
            self.acknowledge();
        }
    }

    fn acknowledge(&mut self) {
        self.unacked_count = 0;
        if let Some((tag, _)) = self.pending_ack.take() {
            self.connection.acknowledge(tag);
        }
    }

    /// Sends a delivery to the dead-letter exchange.
    fn reject(&mut self, tag: u64, reason: Rejection) {
        self.broker.metrics.rejected(reason).inc();
        self.connection.reject(tag);
    }

    fn log_rejection(&mut self, reason: Rejection, delivery: &Delivery) {
        if let Some(suppressed) = self.rejection_log.permit() {
            tracing::warn!(
                reason = reason.label(),
                exchange = %String::from_utf8_lossy(&delivery.exchange),
                routing_key = %String::from_utf8_lossy(&delivery.routing_key),
                bytes = delivery.body.as_ref().map(Bytes::len),
                suppressed,
                "rejected an event to the dead-letter exchange"
            );
        }
    }

    /// Waits for the settlement of in-flight events. The broker requeues the rest when the connection closes.
    async fn drain(&mut self) -> Result<(), IngestError> {
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        let mut settlements = Vec::new();
        while self.window.len() > 0 {
            tokio::select! {
                () = sleep_until(deadline) => {
                    tracing::warn!(events = self.window.len(), "drain timed out; the broker requeues events");
                    break;
                }
                _ = self.settle_rx.recv_many(&mut settlements, SETTLE_BATCH) => self.settle(&mut settlements),
            }
        }
        self.acknowledge();
        self.connection.flush().await
    }
}

impl Drop for ConsumerSession<'_> {
    fn drop(&mut self) {
        self.broker.counters.in_flight.dec_by(self.window.len() as i64);
    }
}
