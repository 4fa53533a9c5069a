//! The publisher: publishes every event to the stream, in order, until the stream has stored it.
//!
//! # Order
//! Events of one queue are published in the queue's order, without waiting for each acknowledgement. A server
//! processes one connection's messages in the order in which they were sent, so order can break only on failure:
//! event 5 is not stored and event 6 is. Therefore:
//!
//! - The first failure (a negative acknowledgement, a timeout, a lost connection) ends the use of a connection. On a
//!   new one, the end of the stream is read (`stream_end`): what is stored there is settled, and everything else is
//!   published again, oldest first. The AMQP side does not notice.
//! - Each event names the position of the event before it in the stream, which refuses it if anything else is there
//!   (`Nats-Expected-Last-Sequence`). So nothing is stored after an event that was refused, and nothing that an earlier
//!   connection, or an ingest that was replaced, still sends. This needs a stream without replicas, into which no other
//!   ingest publishes at the same time (one that carries other zones).
//! - Of a burst, only the last event asks for an acknowledgement. Each event of it also names the id of the one before it
//!   (`Nats-Expected-Last-Msg-Id`), so the stream has the last one only if it has all.
//! - On a new connection the oldest event is published alone (`PROBE_EVENTS`); the others follow when it is stored.
//!   After an event was refused, a number of events is published one at a time (`CAUTIOUS_EVENTS`).
//! - A `connection` never reconnects by itself: its buffered events would reach the stream before the lost ones.
//!
//! Where positions are not compared, copies that two overlapping connections send (the old one's last bytes are still
//! in transit) are recognized by `Nats-Msg-Id` while the stream's duplicate window lasts.
//!
//! Not covered: with `replicas` above 1, a leader change loses the events that the old leader had not replicated,
//! while later ones, published within the same round trip, may reach the new leader. Those are then stored before the
//! lost ones, which are published again: the order breaks, but nothing is lost. (Positions are not compared there:
//! before nats-server 2.10.26 a replicated stream treats an event that it has refused as a duplicate when it is
//! retried.)
//!
//! # Once
//! See `source`, and `docs/architecture.md`, "Once".
//!
//! # Waiting
//! An event that waits for the account of a dialled number, and later events of its call, are overtaken by all others
//! (`waiting`). They have their numbers already.
//!
//! # Without history
//! With `history.max_age = "0s"` there is no stream, and events go directly to the subscribers. They count as
//! delivered to the server when a barrier message sent after them comes back, and the server has reported no error
//! before it. Events published again after a failure may be duplicates, which nothing detects.

mod connection;
mod pending;
pub mod puback;
mod queue;
mod settlement;
mod source;
mod stream;
mod stream_end;
#[cfg(test)]
mod testing;
mod waiting;

use std::{collections::VecDeque, future::Future, pin::pin};

use blackhole_common::{
    backoff::Backoff,
    nats::{link::Servers, protocol::Message as Reply},
    wire::Subjects,
};
use tokio::{
    sync::mpsc,
    time::{Duration, Instant, sleep_until},
};

pub(crate) use connection::CLIENT_NAME;
pub(crate) use settlement::{FromConsumer, Outcome, OutgoingEvent, SettleHandle, Settlement};
pub(crate) use waiting::WaitLimits;

use crate::{
    active::ActiveConsumer,
    checkpoint::{Checkpoint, EventId},
    config::HistoryConfig,
    connection_status::ConnectionStatus,
    error::IngestError,
    log_throttle::LogThrottle,
    metrics::Metrics,
    numbers::Numbers,
};
use connection::Connection;
use pending::PendingEvent;
use source::Source;
use stream::StreamState;
use stream_end::StreamEnd;
use waiting::Waiting;

/// Events published on a new connection before the first acknowledgement.
const PROBE_EVENTS: usize = 1;

/// Events published one at a time after one was refused.
const CAUTIOUS_EVENTS: usize = 1000;

/// A process that wakes up this much too late may have been replaced.
const STANDSTILL: Duration = Duration::from_secs(5);

/// A connection on which an event stays unacknowledged for longer than this is dropped.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that lasted longer than this resets the backoff.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// Maximum number of events received from the consumers in one batch.
const RECEIVE_BATCH: usize = 256;

/// The publisher; there is one per process.
#[derive(Debug)]
pub(crate) struct Publisher {
    subjects: Subjects,
    history: HistoryConfig,
    /// How often to look at the stream.
    check_interval: Duration,
    consumers: mpsc::Receiver<FromConsumer>,
    /// The queues, one for each broker.
    sources: Vec<Source>,
    /// Whether they are consumed here.
    active: Vec<ActiveConsumer>,
    /// Sessions that have begun since the end of the stream was read.
    began: Vec<(usize, Option<Checkpoint>)>,
    /// The end of the stream was not read on this connection.
    must_read: bool,
    /// The stream, when it was last read.
    stream: Option<StreamState>,
    /// The position of the stream's last event, if positions are compared: that of the last event published so far.
    last_position: Option<u64>,
    /// The last event published on this connection, if it asked for no acknowledgement.
    unacknowledged: Option<EventId>,
    /// The position of the last event that was acknowledged, in any source.
    last_stored: Option<u64>,
    /// A position at which the stream has ended: all that is published from now on comes after it.
    stream_end: u64,
    /// Whose dialled numbers are.
    numbers: Numbers,
    /// The events that wait for that.
    waiting: Waiting,
    /// How many events to publish one at a time.
    cautious: usize,
    /// In order. The first `published` are published on the current connection.
    pending: VecDeque<PendingEvent>,
    published: usize,
    /// The number of the oldest pending event on the current connection. Acknowledgements carry event numbers.
    first_number: u64,
    /// Without history: a barrier covers the events before this number.
    barrier: u64,
    status: ConnectionStatus,
    rejection_log: LogThrottle,
    metrics: Metrics,
}

/// All consumers have ended, and so does the publisher.
struct NoConsumers;

impl Publisher {
    /// A publisher for the events from `consumers`, one for each of the `zones`.
    pub(crate) fn new(
        subjects: Subjects,
        history: HistoryConfig,
        zones: &[(String, ActiveConsumer)],
        check_interval: Duration,
        consumers: mpsc::Receiver<FromConsumer>,
        status: ConnectionStatus,
        metrics: Metrics,
    ) -> Publisher {
        Publisher {
            subjects,
            history,
            check_interval,
            consumers,
            sources: zones.iter().map(|(zone, _)| Source::new(zone)).collect(),
            active: zones.iter().map(|(_, active)| active.clone()).collect(),
            began: Vec::new(),
            must_read: true,
            stream: None,
            last_position: None,
            unacknowledged: None,
            last_stored: None,
            stream_end: 0,
            numbers: Numbers::new(None, String::new()),
            waiting: Waiting::new(WaitLimits::default()),
            cautious: 0,
            pending: VecDeque::new(),
            published: 0,
            first_number: 0,
            barrier: 0,
            status,
            rejection_log: LogThrottle::new(),
            metrics,
        }
    }

    /// The same, but `numbers` tell the accounts of dialled numbers, and events may wait for that within these limits.
    pub(crate) fn asking(self, numbers: Numbers, limits: WaitLimits) -> Publisher {
        Publisher { numbers, waiting: Waiting::new(limits), ..self }
    }

    /// Publishes to the `servers` until all consumers have ended.
    pub(crate) async fn run(mut self, mut servers: Servers) {
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
        let (history, subjects) = (self.history.clone(), self.subjects.clone());
        let is_active = self.is_active();
        let opened = self.while_receiving(async move {
            let mut connection = Connection::open(servers).await?;
            let settings = stream::settle(&mut connection, &history, &subjects, is_active).await?;
            Ok::<_, IngestError>((connection, settings))
        });
        let (mut connection, mut settings) = match opened.await {
            Ok(result) => result?,
            Err(NoConsumers) => return Ok(()),
        };
        let has_history = !self.history.is_off();
        let mut probe_succeeded = false;
        if self.pending.is_empty() {
            self.status.mark_up();
        }
        let (history, subjects) = (self.history.clone(), self.subjects.clone());
        let (mut check_at, mut is_checking) = (Instant::now() + self.check_interval, false);
        let mut received = Vec::with_capacity(RECEIVE_BATCH);
        loop {
            if settings.is_left_to_others() && self.is_active() && self.published == 0 {
                let settling = stream::settle(&mut connection, &history, &subjects, true);
                settings = match self.while_receiving(settling).await {
                    Ok(result) => result?,
                    Err(NoConsumers) => return Ok(()),
                };
                // Its reply may have come meanwhile.
                is_checking = false;
            }
            if has_history && self.must_read && self.published == 0 {
                match self.read_stream_end(&mut connection).await {
                    Ok(result) => result?,
                    Err(NoConsumers) => return Ok(()),
                }
            }
            let max_published = match (has_history && self.must_read, probe_succeeded && self.cautious == 0) {
                // What is published must be settled first.
                (true, _) => 0,
                (false, false) => PROBE_EVENTS,
                (false, true) => usize::MAX,
            };
            self.publish_waiting(&mut connection, max_published).await?;
            if !has_history {
                self.send_barrier(&mut connection);
            }
            connection.flush().await?;
            let ack_deadline = self.ack_deadline();
            let liveness_check_at = Instant::from_std(connection.next_liveness_check());
            let wait_until = self.waiting.deadline();
            tokio::select! {
                biased;
                (numbers, found) = self.numbers.answered() => self.number_answered(&numbers, &found),
                () = sleep_until(wait_until.unwrap_or_else(Instant::now)), if wait_until.is_some() => {
                    self.waited_long_enough();
                }
                filled = connection.fill() => {
                    filled?;
                    while let Some(reply) = self.next_message(&mut connection)? {
                        if connection.is_stream_info(&reply) {
                            is_checking = false;
                            settings = settings.check(&reply, &history, &subjects, self.is_active())?;
                            if let Some((bytes, limit)) = stream::size(&reply) {
                                self.metrics.stream_holds(bytes, limit);
                            }
                            continue;
                        }
                        if !connection.is_reply(&reply) {
                            continue;
                        }
                        let (number, puback) = puback::parse(&reply);
                        let is_progress = if has_history {
                            self.handle_puback(number, puback)? && !probe_succeeded
                        } else {
                            self.barrier_reached(number.unwrap_or_default())? && !probe_succeeded
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
            // The server would take what this process sends next, although another ingest may have taken over.
            let late = liveness_check_at.elapsed();
            if late > STANDSTILL {
                return Err(IngestError::StoodStill(late.as_secs()));
            }
        }
    }

    /// Whether this ingest carries events of any broker.
    fn is_active(&self) -> bool {
        self.active.iter().any(ActiveConsumer::get)
    }

    fn next_message(&mut self, connection: &mut Connection) -> Result<Option<Reply>, IngestError> {
        connection.next().inspect_err(|error| {
            if matches!(error, IngestError::NatsRefused(_)) {
                self.cautious = CAUTIOUS_EVENTS;
                self.metrics.refusals.inc();
            }
        })
    }

    /// Reads the end of the stream, and settles the pending events that are stored there.
    async fn read_stream_end(
        &mut self,
        connection: &mut Connection,
    ) -> Result<Result<(), IngestError>, NoConsumers> {
        for (source, checkpoint) in std::mem::take(&mut self.began) {
            if let Some(source) = self.sources.get_mut(source) {
                source.begin(checkpoint);
            }
        }
        let (subjects, last_stored) = (self.subjects.clone(), self.last_stored);
        let mut sources = std::mem::take(&mut self.sources);
        let (sources, result) = self
            .while_receiving(async move {
                let result = stream_end::survey(connection, &subjects, &mut sources, last_stored).await;
                (sources, result)
            })
            .await?;
        self.sources = sources;
        let StreamEnd { stream, is_shared } = match result {
            Ok(end) => end,
            Err(error) => return Ok(Err(error)),
        };
        (self.stream, self.stream_end) = (Some(stream), stream.last);
        self.last_position = (self.history.replicas == 1 && !is_shared).then_some(stream.last);
        self.settle_found();
        // Sessions may have begun meanwhile.
        self.must_read = !self.began.is_empty();
        Ok(Ok(()))
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
}
