//! The publisher: every event to the stream, in order, until the stream has it.
//!
//! # Order
//! Events of one queue are published in the queue's order, many ahead of the stream's acknowledgements. A server
//! handles what one connection sends in the order of sending, so the order can only break where something fails:
//! event 5 is not stored and event 6 is. Hence:
//!
//! - The first sign of failure (a refusal, no answer in time, the connection lost) ends the use of a connection at
//!   once. On a fresh one everything that is not acknowledged is published again from the oldest on; what the stream
//!   has already it recognises by `Nats-Msg-Id` and acknowledges again. The AMQP side does not notice.
//! - On a fresh connection the oldest event goes alone ([`PROBE`]); the others follow when the stream has taken it.
//!   So while a stream comes and goes (no leader, no space), at most one event is tried at a time.
//! - A connection never reconnects ([`connection`]): what still lay in its buffers would reach the stream before what was
//!   lost.
//!
//! Two connections that overlap (the old one's last bytes are still under way) do no harm: both carry a gapless part
//! of the same order, and an event counts where it is stored first.
//!
//! What remains: with `replicas` above 1, when the stream's leadership moves, events that the old leader had not
//! replicated are lost while later ones, published within the same round trip, may reach the new leader. They are
//! then stored before the earlier ones, which are published again. Nothing is lost in that case.
//! (`Nats-Expected-Last-Msg-Id` would close this gap, but before nats-server 2.10.26 a replicated stream takes an
//! event that it refused for a duplicate when it comes again.)
//!
//! # Without history
//! `history.max_age = "0s"`: there is no stream, events go to the subscribers at once. They count as taken when a word
//! that was sent behind them has come back through the server. What is published again after a failure may have come
//! already: nobody recognises it.

mod answer;
mod connection;
mod receipt;
mod stream;

use std::{collections::VecDeque, future::Future, pin::pin};

use blackhole_common::{backoff::Backoff, config::NatsConfig, nats::link::Servers, wire::Subjects};
use tokio::{
    sync::mpsc,
    time::{Duration, Instant, sleep_until},
};

pub(crate) use connection::CLIENT_NAME;
pub(crate) use receipt::{Outcome, Outgoing, Receipt, Settled};

use crate::{
    body::Rejection, config::HistoryConfig, error::IngestError, metrics::Metrics, outage::Outage,
    seldom::Seldom,
};
use answer::Answer;
use connection::{Connection, TooLarge};

/// How many events go out on a fresh connection before the first acknowledgement.
const PROBE: usize = 1;

/// An event that is not acknowledged within this ends the connection's use.
const ACK_WITHIN: Duration = Duration::from_secs(5);

/// A connection that lasted this long was no failure: the next attempt comes soon.
const GOOD_AFTER: Duration = Duration::from_secs(10);

/// How many events are taken from the sources at once, at most.
const TAKEN_AT_ONCE: usize = 256;

/// Below this many waiting events nobody looks for abandoned ones.
const FEW: usize = 4096;

/// An event that the stream has not acknowledged.
#[derive(Debug)]
struct Pending {
    outgoing: Outgoing,
    /// When it was published on the present connection.
    sent: Option<Instant>,
    /// Settled, but not yet at the front.
    settled: bool,
}

/// The one publisher of the process.
#[derive(Debug)]
pub(crate) struct Publisher {
    nats: NatsConfig,
    history: HistoryConfig,
    from_sources: mpsc::Receiver<Outgoing>,
    /// In order; the first `sent` of them are published on the present connection.
    pending: VecDeque<Pending>,
    sent: usize,
    /// The number of the front event on the present connection; its answer is addressed with it.
    front: u64,
    /// Without history: events before this number have a word sent behind them.
    marked: u64,
    /// When so many wait, look for abandoned ones.
    many: usize,
    outage: Outage,
    refusal_log: Seldom,
    metrics: Metrics,
}

/// All sources have ended: so does the publisher.
struct NoSources;

impl Publisher {
    /// A publisher for what comes from `from_sources`.
    pub(crate) fn new(
        nats: NatsConfig,
        history: HistoryConfig,
        from_sources: mpsc::Receiver<Outgoing>,
        outage: Outage,
        metrics: Metrics,
    ) -> Publisher {
        Publisher {
            nats,
            history,
            from_sources,
            pending: VecDeque::new(),
            sent: 0,
            front: 0,
            marked: 0,
            many: FEW,
            outage,
            refusal_log: Seldom::new(),
            metrics,
        }
    }

    /// Publishes until all sources have ended.
    pub(crate) async fn run(mut self) {
        let mut servers = Servers::new(self.nats.clone());
        let mut backoff = Backoff::for_brokers();
        loop {
            let began = Instant::now();
            let Err(error) = self.connect_and_publish(&mut servers, &mut backoff).await else { return };
            self.outage.began(&error);
            self.forget_connection();
            if began.elapsed() > GOOD_AFTER {
                backoff.reset();
            }
            if self.while_taking(tokio::time::sleep(backoff.next_wait())).await.is_err() {
                return;
            }
        }
    }

    /// Comes back when all sources have ended, or with the reason why the connection is of no more use.
    async fn connect_and_publish(
        &mut self,
        servers: &mut Servers,
        backoff: &mut Backoff,
    ) -> Result<(), IngestError> {
        let (history, subjects) = (self.history.clone(), Subjects::new(&self.nats.prefix));
        let opened = self.while_taking(async move {
            let mut connection = Connection::open(servers).await?;
            if history.is_off() {
                stream::remove(&mut connection, &subjects).await?;
            } else {
                stream::ensure(&mut connection, &history, &subjects).await?;
            }
            Ok::<_, IngestError>(connection)
        });
        let mut connection = match opened.await {
            Ok(result) => result?,
            Err(NoSources) => return Ok(()),
        };
        let has_history = !self.history.is_off();
        // Where nothing is stored, nothing can be refused.
        let mut proven = !has_history;
        if self.pending.is_empty() {
            self.outage.ended();
        }
        let mut taken = Vec::with_capacity(TAKEN_AT_ONCE);
        loop {
            let most = if proven { usize::MAX } else { PROBE };
            while self.sent < self.pending.len().min(most) {
                self.publish_next(&mut connection)?;
                if connection.is_full() {
                    connection.flush().await?;
                }
            }
            if !has_history {
                self.mark(&mut connection);
            }
            connection.flush().await?;
            let ack_deadline = self.ack_deadline();
            let look_at = Instant::from_std(connection.next_look());
            tokio::select! {
                biased;
                filled = connection.fill() => {
                    filled?;
                    while let Some(answer) = connection.next()? {
                        let (number, answer) = answer::read(&answer);
                        let has_passed = if has_history {
                            self.answered(number, answer)? && !proven
                        } else {
                            self.passed(number.unwrap_or_default())?;
                            true
                        };
                        if has_passed {
                            proven = true;
                            backoff.reset();
                            self.outage.ended();
                        }
                    }
                }
                count = self.from_sources.recv_many(&mut taken, TAKEN_AT_ONCE) => {
                    if count == 0 {
                        return Ok(());
                    }
                    taken.drain(..).for_each(|outgoing| self.take(outgoing));
                }
                () = sleep_until(ack_deadline), if self.sent > 0 => {
                    return Err(IngestError::AckTimeout(ACK_WITHIN.as_secs()));
                }
                () = sleep_until(look_at) => connection.look()?,
            }
        }
    }

    /// Does something else than publishing, and goes on taking events: a source that waits for room would notice
    /// neither its broker's loss nor the shutdown.
    async fn while_taking<T>(&mut self, work: impl Future<Output = T>) -> Result<T, NoSources> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                result = &mut work => return Ok(result),
                outgoing = self.from_sources.recv() => match outgoing {
                    Some(outgoing) => self.take(outgoing),
                    None => return Err(NoSources),
                },
            }
        }
    }

    fn take(&mut self, outgoing: Outgoing) {
        // A broker that comes and goes while NATS is away leaves events here that it will deliver again.
        if self.pending.len() >= self.many && self.sent == 0 {
            self.pending.retain(|pending| !pending.outgoing.receipt.is_abandoned());
            self.many = FEW.max(2 * self.pending.len());
        }
        self.pending.push_back(Pending { outgoing, sent: None, settled: false });
    }

    fn publish_next(&mut self, connection: &mut Connection) -> Result<(), IngestError> {
        let number = self.front + self.sent as u64;
        let Some(pending) = self.pending.get_mut(self.sent) else { return Ok(()) };
        self.sent += 1;
        pending.sent = Some(Instant::now());
        let message = &pending.outgoing.message;
        let noted = if self.history.is_off() {
            connection.publish_plainly(message)
        } else {
            connection.publish(number, message)
        };
        match noted {
            Ok(()) => Ok(()),
            Err(TooLarge { most_bytes }) => {
                let reason = format!("the server takes {most_bytes} bytes at most (max_payload)");
                self.answered(Some(number), Answer::Refused(Rejection::TooLarge, reason)).map(drop)
            }
        }
    }

    /// Without history: has the server tell when it has handled what was published so far.
    fn mark(&mut self, connection: &mut Connection) {
        let next = self.front + self.sent as u64;
        if self.marked < next {
            self.marked = next;
            connection.mark(next);
        }
    }

    /// Without history: the server has handled every event before `next`.
    fn passed(&mut self, next: u64) -> Result<(), IngestError> {
        while self.front < next && self.sent > 0 {
            self.answered(Some(self.front), Answer::Stored { duplicate: false })?;
        }
        Ok(())
    }

    /// Handles the answer to event `number`. Returns whether the stream has stored something.
    fn answered(&mut self, number: Option<u64>, answer: Answer) -> Result<bool, IngestError> {
        let place = number
            .and_then(|number| number.checked_sub(self.front))
            .and_then(|place| usize::try_from(place).ok())
            .filter(|place| *place < self.sent);
        let Some(pending) = place.and_then(|place| self.pending.get_mut(place)) else { return Ok(false) };
        let Outgoing { message, receipt } = &pending.outgoing;
        let stored = match answer {
            Answer::Later(reason) => return Err(IngestError::NotStored(reason)),
            Answer::Stored { duplicate } => {
                self.metrics.published.inc();
                self.metrics.bytes.inc_by(message.body.len() as u64);
                if duplicate {
                    self.metrics.duplicates.inc();
                }
                if let Some(sent) = pending.sent {
                    self.metrics.ack_seconds.observe(sent.elapsed().as_secs_f64());
                }
                receipt.settle(Outcome::Stored);
                true
            }
            Answer::Refused(rejection, reason) => {
                if let Some(left_out) = self.refusal_log.pass() {
                    tracing::warn!(
                        subject = message.subject,
                        bytes = message.body.len(),
                        reason,
                        left_out,
                        "rejects an event to the dead-letter exchange: the stream will never take it"
                    );
                }
                receipt.settle(Outcome::Refused(rejection));
                false
            }
        };
        pending.settled = true;
        while self.pending.front().is_some_and(|pending| pending.settled) {
            self.pending.pop_front();
            self.front += 1;
            self.sent -= 1;
        }
        Ok(stored)
    }

    fn ack_deadline(&self) -> Instant {
        let oldest = self.pending.front().and_then(|pending| pending.sent);
        oldest.unwrap_or_else(Instant::now) + ACK_WITHIN
    }

    /// Everything is to be published again, except what was settled out of turn.
    fn forget_connection(&mut self) {
        self.pending.retain(|pending| !pending.settled && !pending.outgoing.receipt.is_abandoned());
        for pending in &mut self.pending {
            pending.sent = None;
        }
        self.sent = 0;
        self.front = 0;
        self.marked = 0;
    }
}
