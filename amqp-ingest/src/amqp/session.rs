//! Consumes on one connection, from the first delivery to the loss of the connection or the shutdown: hands events to
//! the publisher, and acknowledges what the stream has stored.
//!
//! The broker sends at most `amqp.prefetch` unacknowledged deliveries, and beyond `amqp.prefetch_bytes` nothing more is
//! read, which bounds all memory here. An acknowledgement costs the broker and us about as much as an event, so
//! deliveries settled without a gap are acknowledged together: after [`ACK_DELAY`], or when a part of the prefetch is
//! used up. With them the broker stores a checkpoint.

use std::time::Duration;

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
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
    checkpoint::Checkpoint,
    error::IngestError,
    log_throttle::LogThrottle,
    publish::{FromConsumer, Outcome, OutgoingEvent, SettleHandle, Settlement},
};

/// How long to wait for in-flight events after the shutdown. The broker requeues the rest.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

/// Maximum time from the settlement of a delivery to its acknowledgement.
const ACK_DELAY: Duration = Duration::from_millis(10);

/// One in this many deliveries of the prefetch triggers an acknowledgement at once, so that the broker keeps sending.
const ACK_FRACTION: usize = 4;

/// How long the broker may take to confirm a transaction, or to tell its checkpoint.
const BROKER_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum number of settlements received in one batch.
const SETTLE_BATCH: usize = 256;

/// The state of one consuming connection.
pub(crate) struct ConsumerSession<'s> {
    broker: &'s BrokerContext,
    connection: Connection,
    window: AckWindow,
    settle_tx: mpsc::Sender<Settlement>,
    settle_rx: mpsc::Receiver<Settlement>,
    /// Whether the publisher knows of this session.
    has_begun: bool,
    /// Bytes of the bodies in flight.
    in_flight_bytes: u64,
    /// The tags to reject.
    to_reject: Vec<u64>,
    /// The tag up to which to acknowledge.
    ack_up_to: Option<u64>,
    /// The checkpoint of the last delivery to acknowledge that is stored.
    checkpoint: Option<Checkpoint>,
    /// When to acknowledge and reject, if there is anything.
    settle_at: Option<Instant>,
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
            has_begun: false,
            in_flight_bytes: 0,
            to_reject: Vec::new(),
            ack_up_to: None,
            checkpoint: None,
            settle_at: None,
            unacked_count: 0,
            rejection_log: LogThrottle::new(),
        }
    }

    /// Consumes until the shutdown, or returns the error that ended the connection.
    pub(crate) async fn run(&mut self, shutdown: &CancellationToken) -> Result<(), IngestError> {
        let mut settlements = Vec::with_capacity(SETTLE_BATCH);
        loop {
            while self.has_room()
                && let Some(delivery) = self.connection.next()?
            {
                self.handle_delivery(delivery, shutdown).await?;
            }
            self.connection.flush().await?;
            let is_reading = self.has_room();
            // A broker confirms one transaction before it accepts the next.
            let settle_at = self.settle_at.filter(|_| !self.connection.is_committing());
            let heartbeat_at = self.connection.next_heartbeat_check().map(Instant::from_std);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return self.drain().await,
                _ = self.settle_rx.recv_many(&mut settlements, SETTLE_BATCH) => self.settle(&mut settlements),
                () = sleep_until(settle_at.unwrap_or_else(Instant::now)), if settle_at.is_some() => {
                    self.acknowledge();
                }
                filled = self.connection.fill(), if is_reading => filled?,
                () = sleep_until(heartbeat_at.unwrap_or_else(Instant::now)), if heartbeat_at.is_some() => {
                    self.connection.check_heartbeat(is_reading)?;
                }
            }
        }
    }

    /// Whether to read further deliveries.
    fn has_room(&self) -> bool {
        self.in_flight_bytes < self.broker.config.prefetch_bytes.as_u64()
    }

    /// Tells the publisher, before the first event, which deliveries may be stored already.
    async fn begin(&mut self) -> Result<(), IngestError> {
        self.has_begun = true;
        self.broker.active.set(true);
        let checkpoint = if self.broker.has_history {
            let timed_out = |_| IngestError::AmqpTimeout(BROKER_TIMEOUT.as_secs());
            let first = self.connection.is_transactional().then(|| Checkpoint::first().to_json());
            let latest = self.broker.checkpoints.latest_or(first);
            let latest = timeout(BROKER_TIMEOUT, latest).await.map_err(timed_out)??;
            latest.and_then(|message| Checkpoint::parse(&message))
        } else {
            None
        };
        // It cannot fail: the publisher outlives the consumers.
        let _ =
            self.broker.publisher.send(FromConsumer::Began { source: self.broker.source, checkpoint }).await;
        Ok(())
    }

    /// See [`Connection::close`].
    pub(crate) async fn close(&mut self) -> Result<(), IngestError> {
        self.connection.close().await
    }

    async fn handle_delivery(
        &mut self,
        delivery: Delivery,
        shutdown: &CancellationToken,
    ) -> Result<(), IngestError> {
        if !self.has_begun {
            self.begin().await?;
        }
        let tag = delivery.tag;
        match classify(&delivery, self.broker) {
            Disposition::Publish(message) => {
                let bytes = message.body.len() as u64;
                self.push(tag, DeliveryState::InFlight)?;
                self.in_flight_bytes += bytes;
                let event = OutgoingEvent {
                    source: self.broker.source,
                    redelivered: delivery.redelivered,
                    message,
                    settle_handle: SettleHandle { tag, bytes, sender: self.settle_tx.clone() },
                };
                tokio::select! {
                    // It cannot fail: the publisher outlives the consumers.
                    _ = self.broker.publisher.send(FromConsumer::Event(event)) => {}
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
                self.push(tag, DeliveryState::Done(None))?;
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
        for Settlement { tag, bytes, outcome } in settlements.drain(..) {
            self.in_flight_bytes = self.in_flight_bytes.saturating_sub(bytes);
            match outcome {
                Outcome::Stored(checkpoint) => self.window.settle(tag, DeliveryState::Done(checkpoint)),
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
        if let Some((tag, checkpoint)) = ack_up_to {
            self.ack_up_to = Some(tag);
            self.checkpoint = checkpoint.or(self.checkpoint);
            self.settle_soon();
        }
        let is_many = self.unacked_count * ACK_FRACTION >= usize::from(self.broker.config.prefetch);
        if is_many && !self.connection.is_committing() {
            self.acknowledge();
        }
    }

    fn settle_soon(&mut self) {
        self.settle_at.get_or_insert_with(|| Instant::now() + ACK_DELAY);
    }

    /// Acknowledges and rejects what is settled. Not while a transaction is not confirmed.
    fn acknowledge(&mut self) {
        if self.settle_at.take().is_some() {
            self.unacked_count = 0;
            self.connection.settle(&self.to_reject, self.ack_up_to.take(), self.checkpoint.take());
            self.to_reject.clear();
        }
    }

    /// Sends a delivery to the dead-letter exchange.
    fn reject(&mut self, tag: u64, reason: Rejection) {
        self.broker.metrics.rejected(reason).inc();
        self.to_reject.push(tag);
        self.settle_soon();
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
        let confirmed = async {
            while self.connection.is_committing() {
                // The broker requeues what it still delivers.
                while self.connection.next()?.is_some() {}
                if self.connection.is_committing() {
                    self.connection.fill().await?;
                }
            }
            Ok::<_, IngestError>(())
        };
        let timed_out = |_| IngestError::AmqpTimeout(BROKER_TIMEOUT.as_secs());
        timeout(BROKER_TIMEOUT, confirmed).await.map_err(timed_out)??;
        self.acknowledge();
        self.connection.flush().await
    }
}

impl Drop for ConsumerSession<'_> {
    fn drop(&mut self) {
        self.broker.counters.in_flight.dec_by(self.window.len() as i64);
    }
}
