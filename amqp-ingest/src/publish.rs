//! The publisher: publishes every event to the stream, in order, until the stream has stored it.
//!
//! # Order
//! Events of one queue are published in the queue's order, without waiting for each acknowledgement. A server
//! processes one connection's messages in the order in which they were sent, so order can break only on failure:
//! event 5 is not stored and event 6 is. Therefore:
//!
//! - The first failure (a negative acknowledgement, a timeout, a lost connection) ends the use of a connection. On a
//!   new one, all unacknowledged events are published again, oldest first. The stream recognizes those that it has
//!   already stored by `Nats-Msg-Id` and acknowledges them again. The AMQP side does not notice.
//! - On a new connection the oldest event is published alone ([`PROBE_EVENTS`]); the others follow when it is stored.
//!   While a stream flaps (no leader, no space), at most one event is tried at a time.
//! - A [`connection`] never reconnects by itself: its buffered events would reach the stream before the lost ones.
//!
//! Two overlapping connections (the old one's last bytes are still in transit) are harmless: both carry a contiguous
//! part of the same sequence, and an event counts where it is stored first.
//!
//! Not covered: with `replicas` above 1, a leader change loses the events that the old leader had not replicated,
//! while later ones, published within the same round trip, may reach the new leader. Those are then stored before the
//! lost ones, which are published again: the order breaks, but nothing is lost. (`Nats-Expected-Last-Msg-Id` would
//! prevent it, but before nats-server 2.10.26 a replicated stream treats an event that it has refused as a duplicate
//! when it is retried.)
//!
//! # Without history
//! With `history.max_age = "0s"` there is no stream, and events go directly to the subscribers. They count as
//! delivered to the server when a barrier message sent after them comes back. Events published again after a failure
//! may be duplicates, which nothing detects.

mod connection;
mod puback;
mod settlement;
mod stream;

use std::{collections::VecDeque, future::Future, pin::pin};

use blackhole_common::{backoff::Backoff, config::NatsConfig, nats::link::Servers, wire::Subjects};
use tokio::{
    sync::mpsc,
    time::{Duration, Instant, sleep_until},
};

pub(crate) use connection::CLIENT_NAME;
pub(crate) use settlement::{Outcome, OutgoingEvent, SettleHandle, Settlement};

use crate::{
    body::Rejection, config::HistoryConfig, connection_status::ConnectionStatus, error::IngestError,
    log_throttle::LogThrottle, metrics::Metrics,
};
use connection::{Connection, TooLarge};
use puback::PubAck;

/// Events published on a new connection before the first acknowledgement.
const PROBE_EVENTS: usize = 1;

/// A connection on which an event stays unacknowledged for longer than this is dropped.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that lasted longer than this resets the backoff.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// Maximum number of events received from the consumers in one batch.
const RECEIVE_BATCH: usize = 256;

/// Abandoned events are not searched for below this many pending ones.
const MIN_SWEEP_LEN: usize = 4096;

/// An event that is not settled, or not yet removed.
#[derive(Debug)]
struct PendingEvent {
    event: OutgoingEvent,
    /// When it was published on the current connection.
    published_at: Option<Instant>,
    /// Settled, but an older event is not.
    is_settled: bool,
}

/// The publisher; there is one per process.
#[derive(Debug)]
pub(crate) struct Publisher {
    nats: NatsConfig,
    history: HistoryConfig,
    /// How often to look at the stream.
    check_interval: Duration,
    consumers: mpsc::Receiver<OutgoingEvent>,
    /// In order. The first `published` are published on the current connection.
    pending: VecDeque<PendingEvent>,
    published: usize,
    /// The number of the oldest pending event on the current connection. Acknowledgements carry event numbers.
    first_number: u64,
    /// Without history: a barrier covers the events before this number.
    barrier: u64,
    /// Search for abandoned events at this many pending ones.
    sweep_len: usize,
    status: ConnectionStatus,
    rejection_log: LogThrottle,
    metrics: Metrics,
}

/// All consumers have ended, and so does the publisher.
struct NoConsumers;

impl Publisher {
    /// A publisher for the events from `consumers`.
    pub(crate) fn new(
        nats: NatsConfig,
        history: HistoryConfig,
        check_interval: Duration,
        consumers: mpsc::Receiver<OutgoingEvent>,
        status: ConnectionStatus,
        metrics: Metrics,
    ) -> Publisher {
        Publisher {
            nats,
            history,
            check_interval,
            consumers,
            pending: VecDeque::new(),
            published: 0,
            first_number: 0,
            barrier: 0,
            sweep_len: MIN_SWEEP_LEN,
            status,
            rejection_log: LogThrottle::new(),
            metrics,
        }
    }

    /// Publishes until all consumers have ended.
    pub(crate) async fn run(mut self) {
        let mut servers = Servers::new(self.nats.clone());
        let mut backoff = Backoff::for_brokers();
        loop {
            let started = Instant::now();
            let Err(error) = self.connect_and_publish(&mut servers, &mut backoff).await else { return };
            self.status.mark_down(&error);
            self.reset_connection_state();
            if started.elapsed() > STABLE_AFTER {
                backoff.reset();
            }
            if self.while_receiving(tokio::time::sleep(backoff.next_wait())).await.is_err() {
                return;
            }
        }
    }

    /// Returns `Ok` when all consumers have ended, or the error that ended the connection.
    async fn connect_and_publish(
        &mut self,
        servers: &mut Servers,
        backoff: &mut Backoff,
    ) -> Result<(), IngestError> {
        let (history, subjects) = (self.history.clone(), Subjects::new(&self.nats.prefix));
        let opened = self.while_receiving(async move {
            let mut connection = Connection::open(servers).await?;
            let accepted = if history.is_off() {
                stream::remove(&mut connection, &subjects).await?;
                None
            } else {
                Some(stream::ensure(&mut connection, &history, &subjects).await?)
            };
            Ok::<_, IngestError>((connection, accepted))
        });
        let (mut connection, accepted) = match opened.await {
            Ok(result) => result?,
            Err(NoConsumers) => return Ok(()),
        };
        let has_history = !self.history.is_off();
        // Without a stream there is no acknowledgement to probe for.
        let mut probe_succeeded = !has_history;
        if self.pending.is_empty() {
            self.status.mark_up();
        }
        let subjects = Subjects::new(&self.nats.prefix);
        let (mut check_at, mut is_checking) = (Instant::now() + self.check_interval, false);
        let mut received = Vec::with_capacity(RECEIVE_BATCH);
        loop {
            let max_published = if probe_succeeded { usize::MAX } else { PROBE_EVENTS };
            while self.published < self.pending.len().min(max_published) {
                self.publish_next(&mut connection)?;
                if connection.is_full() {
                    connection.flush().await?;
                }
            }
            if !has_history {
                self.send_barrier(&mut connection);
            }
            connection.flush().await?;
            let ack_deadline = self.ack_deadline();
            let liveness_check_at = Instant::from_std(connection.next_liveness_check());
            tokio::select! {
                biased;
                filled = connection.fill() => {
                    filled?;
                    while let Some(reply) = connection.next()? {
                        if let Some(accepted) = &accepted && connection.is_stream_info(&reply) {
                            is_checking = false;
                            stream::check(&reply, accepted, &self.history, &subjects)?;
                            continue;
                        }
                        let (number, puback) = puback::parse(&reply);
                        let is_progress = if has_history {
                            self.handle_puback(number, puback)? && !probe_succeeded
                        } else {
                            self.barrier_reached(number.unwrap_or_default())?;
                            true
                        };
                        if is_progress {
                            probe_succeeded = true;
                            backoff.reset();
                            self.status.mark_up();
                        }
                    }
                }
                count = self.consumers.recv_many(&mut received, RECEIVE_BATCH) => {
                    if count == 0 {
                        return Ok(());
                    }
                    received.drain(..).for_each(|event| self.enqueue(event));
                }
                () = sleep_until(ack_deadline), if self.published > 0 => {
                    return Err(IngestError::AckTimeout(ACK_TIMEOUT.as_secs()));
                }
                () = sleep_until(liveness_check_at) => connection.check_liveness()?,
                () = sleep_until(check_at), if has_history => {
                    if is_checking {
                        return Err(IngestError::NatsLost("JetStream does not answer".into()));
                    }
                    connection.ask_stream_info(&subjects.stream());
                    (check_at, is_checking) = (Instant::now() + self.check_interval, true);
                }
            }
        }
    }

    /// Completes `work` while receiving events. A consumer that waits for room in the queue would notice neither a lost
    /// connection to its broker nor the shutdown.
    async fn while_receiving<T>(&mut self, work: impl Future<Output = T>) -> Result<T, NoConsumers> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                result = &mut work => return Ok(result),
                event = self.consumers.recv() => match event {
                    Some(event) => self.enqueue(event),
                    None => return Err(NoConsumers),
                },
            }
        }
    }

    fn enqueue(&mut self, event: OutgoingEvent) {
        // A broker that reconnects repeatedly during a NATS outage leaves events here that it will redeliver.
        if self.pending.len() >= self.sweep_len && self.published == 0 {
            self.pending.retain(|pending| !pending.event.settle_handle.is_abandoned());
            self.sweep_len = MIN_SWEEP_LEN.max(2 * self.pending.len());
        }
        self.pending.push_back(PendingEvent { event, published_at: None, is_settled: false });
    }

    fn publish_next(&mut self, connection: &mut Connection) -> Result<(), IngestError> {
        let number = self.first_number + self.published as u64;
        let Some(pending) = self.pending.get_mut(self.published) else { return Ok(()) };
        self.published += 1;
        pending.published_at = Some(Instant::now());
        let message = &pending.event.message;
        let queued = if self.history.is_off() {
            connection.publish_without_ack(message)
        } else {
            connection.publish(number, message)
        };
        match queued {
            Ok(()) => Ok(()),
            Err(TooLarge { max_bytes }) => {
                let reason = format!("the server accepts at most {max_bytes} bytes (max_payload)");
                self.handle_puback(Some(number), PubAck::Rejected(Rejection::TooLarge, reason)).map(drop)
            }
        }
    }

    /// Without history: sends a barrier after the events published so far.
    fn send_barrier(&mut self, connection: &mut Connection) {
        let next = self.first_number + self.published as u64;
        if self.barrier < next {
            self.barrier = next;
            connection.send_barrier(next);
        }
    }

    /// Without history: the server has processed every event before `number`.
    fn barrier_reached(&mut self, number: u64) -> Result<(), IngestError> {
        while self.first_number < number && self.published > 0 {
            self.handle_puback(Some(self.first_number), PubAck::Stored { duplicate: false })?;
        }
        Ok(())
    }

    /// Handles the acknowledgement of event `number`. Returns whether the stream has stored the event.
    fn handle_puback(&mut self, number: Option<u64>, puback: PubAck) -> Result<bool, IngestError> {
        let index = number
            .and_then(|number| number.checked_sub(self.first_number))
            .and_then(|index| usize::try_from(index).ok())
            .filter(|index| *index < self.published);
        let Some(pending) = index.and_then(|index| self.pending.get_mut(index)) else { return Ok(false) };
        let OutgoingEvent { message, settle_handle } = &pending.event;
        let is_stored = match puback {
            PubAck::RetryLater(reason) => return Err(IngestError::NotStored(reason)),
            PubAck::Stored { duplicate } => {
                self.metrics.published.inc();
                self.metrics.bytes.inc_by(message.body.len() as u64);
                if duplicate {
                    self.metrics.duplicates.inc();
                }
                if let Some(published_at) = pending.published_at {
                    self.metrics.ack_seconds.observe(published_at.elapsed().as_secs_f64());
                }
                settle_handle.settle(Outcome::Stored);
                true
            }
            PubAck::Rejected(rejection, reason) => {
                if let Some(suppressed) = self.rejection_log.permit() {
                    tracing::warn!(
                        subject = message.subject,
                        bytes = message.body.len(),
                        reason,
                        suppressed,
                        "rejected an event to the dead-letter exchange: the stream will never accept it"
                    );
                }
                settle_handle.settle(Outcome::Rejected(rejection));
                false
            }
        };
        pending.is_settled = true;
        while self.pending.front().is_some_and(|pending| pending.is_settled) {
            self.pending.pop_front();
            self.first_number += 1;
            self.published -= 1;
        }
        Ok(is_stored)
    }

    fn ack_deadline(&self) -> Instant {
        let oldest = self.pending.front().and_then(|pending| pending.published_at);
        oldest.unwrap_or_else(Instant::now) + ACK_TIMEOUT
    }

    /// Schedules all unsettled events for publishing again.
    fn reset_connection_state(&mut self) {
        self.pending.retain(|pending| !pending.is_settled && !pending.event.settle_handle.is_abandoned());
        for pending in &mut self.pending {
            pending.published_at = None;
        }
        self.published = 0;
        self.first_number = 0;
        self.barrier = 0;
    }
}
