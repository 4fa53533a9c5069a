//! Reading the stream: the events between two positions in order, all or those of one subject.

use std::{
    fmt::Debug,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_nats::jetstream::consumer::DeliverPolicy;
use blackhole_common::wire::Subjects;
use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture, stream::BoxStream};
use tokio::time::timeout;

use super::stream_info::{StreamError, StreamInfo};
use crate::{
    delivery::frame::event::Event,
    protocol::cursor::{EventPosition, StreamId},
};

/// Most events in one fetch.
const MAX_FETCH: usize = 1000;
/// Events in the first fetch, when their size is not known.
const FIRST_FETCH: usize = 16;
/// About as many bytes as one fetch asks for, in all readers of a replay. A reader that stops early wastes the rest.
const FETCH_BYTES: usize = 1 << 20;
/// Time until the next event of a fetch; async-nats would wait forever.
const EVENT_TIMEOUT: Duration = Duration::from_secs(5);
/// Attempts to get a consumer at the stream's leader. With three servers one in three succeeds: all fail once in 2,000
/// times.
const MAX_PLACEMENTS: usize = 20;

/// The stream at the server.
pub trait StoredStream: Debug + Send + Sync {
    /// Its state; `None` if there is no stream.
    fn info(&self) -> BoxFuture<'_, Result<Option<StreamInfo>, StreamError>>;

    /// Creates a consumer of all messages whose subject matches `filter`, or of all if that is empty.
    fn consumer(
        &self,
        begin: DeliverPolicy,
        filter: String,
    ) -> BoxFuture<'_, Result<Box<dyn StreamConsumer>, StreamError>>;
}

/// A consumer at the server, which is deleted there when this is dropped.
pub trait StreamConsumer: Send + Sync {
    /// When it was created, by the server's clock.
    fn created(&self) -> SystemTime;

    /// The server that has it; `None` if there is only one.
    fn server(&self) -> Option<&str>;

    /// The position up to which it has delivered, or everything is before its beginning.
    fn delivered(&mut self) -> BoxFuture<'_, Result<u64, StreamError>>;

    /// Fetches its next messages, at most `max`: fewer if there are no more.
    fn fetch(&self, max: usize) -> BoxFuture<'_, Result<Fetched, StreamError>>;
}

/// The messages of a fetch.
pub type Fetched = BoxStream<'static, Result<StoredMessage, StreamError>>;

/// A message of the stream.
#[derive(Debug)]
pub struct StoredMessage {
    /// Its position.
    pub sequence: u64,
    /// Its subject.
    pub subject: String,
    /// The event's name; `None` if amqp-ingest did not publish it.
    pub name: Option<Bytes>,
    /// The event's body.
    pub body: Bytes,
    /// The event's owner; empty if it has none.
    pub owner: Bytes,
    /// How many bytes it took on the way.
    pub length: usize,
}

/// Past events.
#[derive(Clone, Debug)]
pub(crate) struct History {
    stored: Arc<dyn StoredStream>,
    event_root: Arc<str>,
    ingest_root: Arc<str>,
}

/// A reader of the stream from one position to another.
pub(crate) struct HistoryReader {
    history: History,
    stream: StreamId,
    consumer: Box<dyn StreamConsumer>,
    batch: Option<Fetched>,
    in_batch: usize,
    /// About as many bytes as one fetch asks for.
    fetch_bytes: usize,
    /// Events and bytes read so far, for the size of the next fetch.
    events: usize,
    bytes: usize,
    /// The next position.
    next: u64,
    last: u64,
    is_filtered: bool,
    /// The event after a gap that was reported.
    after_gap: Option<Event>,
}

/// What a reader has read.
#[derive(Debug)]
pub(crate) enum ReadOutcome {
    /// An event.
    Event(Event),
    /// Events before this position have left the stream.
    Trimmed(u64),
    /// Everything up to the last position has been read.
    End,
}

impl History {
    /// What is `stored`.
    pub(crate) fn new(stored: Arc<dyn StoredStream>, subjects: &Subjects) -> History {
        History { stored, event_root: subjects.event().into(), ingest_root: subjects.ingest().into() }
    }

    /// The stream's state; `None` if there is no stream.
    ///
    /// # Errors
    /// When there is no usable answer.
    pub(crate) async fn info(&self) -> Result<Option<StreamInfo>, StreamError> {
        self.stored.info().await
    }

    /// The server's time.
    ///
    /// # Errors
    /// If the stream does not answer.
    pub(crate) async fn time(&self) -> Result<SystemTime, StreamError> {
        // Before nats-server 2.10 answers have no time, but a consumer has always had the time of its creation.
        Ok(self.consumer(DeliverPolicy::New, None).await?.created())
    }

    /// The position of the newest event stored before `time`, which the stream must reach back to.
    ///
    /// # Errors
    /// If the stream does not answer.
    pub(crate) async fn position_at(&self, time: SystemTime) -> Result<u64, StreamError> {
        let start_time = time.into();
        let mut consumer = self.consumer(DeliverPolicy::ByStartTime { start_time }, None).await?;
        // A consumer that begins at a time counts everything before it as delivered.
        consumer.delivered().await
    }

    /// A reader of the events after position `after` up to `last`, or of those of a subject, at the server that leads the
    /// stream.
    ///
    /// # Errors
    /// When the stream cannot be read.
    pub(crate) async fn read(
        &self,
        stream: StreamId,
        after: u64,
        last: u64,
        subject: Option<(&str, &StreamInfo)>,
    ) -> Result<HistoryReader, StreamError> {
        let policy = DeliverPolicy::ByStartSequence { start_sequence: after.saturating_add(1) };
        let consumer = match subject {
            None => self.consumer(policy, None).await?,
            Some((subject, info)) => self.consumer_at_leader(policy, subject, info).await?,
        };
        Ok(HistoryReader {
            history: self.clone(),
            stream,
            consumer,
            batch: None,
            in_batch: 0,
            fetch_bytes: FETCH_BYTES,
            events: 0,
            bytes: 0,
            next: after.saturating_add(1),
            last,
            is_filtered: subject.is_some(),
            after_gap: None,
        })
    }

    /// A filtered consumer at the stream's leader, which alone is known to have all events. The cluster places each
    /// consumer on one of the stream's servers at random.
    async fn consumer_at_leader(
        &self,
        policy: DeliverPolicy,
        subject: &str,
        info: &StreamInfo,
    ) -> Result<Box<dyn StreamConsumer>, StreamError> {
        for _ in 0..MAX_PLACEMENTS {
            let consumer = self.consumer(policy, Some(subject)).await?;
            if info.leader.is_none() || info.leader.as_deref() == consumer.server() {
                return Ok(consumer);
            }
        }
        Err(StreamError::new("the cluster places no consumer at the stream's leader"))
    }

    async fn consumer(
        &self,
        deliver_policy: DeliverPolicy,
        subject: Option<&str>,
    ) -> Result<Box<dyn StreamConsumer>, StreamError> {
        let filter = subject.and_then(|subject| subject.strip_prefix(&*self.event_root));
        let filter = filter.map_or_else(String::new, |rest| format!("{}{rest}", self.ingest_root));
        self.stored.consumer(deliver_policy, filter).await
    }

    /// The event in a message of the stream; `None` if amqp-ingest did not publish it.
    fn event(&self, stream: StreamId, message: StoredMessage) -> Option<Event> {
        let rest = message.subject.strip_prefix(&*self.ingest_root)?;
        Some(Event {
            subject: format!("{}{rest}", self.event_root).into(),
            name: message.name?,
            body: message.body,
            owner: message.owner,
            position: Some(EventPosition { stream, sequence: message.sequence }),
        })
    }
}

impl HistoryReader {
    /// Fetches less at once, because it is one of this many readers of a replay.
    pub(crate) fn share_fetch(&mut self, readers: usize) {
        self.fetch_bytes = FETCH_BYTES / readers.max(1);
    }

    /// The next event.
    ///
    /// # Errors
    /// When the stream cannot be read further.
    pub(crate) async fn next(&mut self) -> Result<ReadOutcome, StreamError> {
        if let Some(event) = self.after_gap.take() {
            return Ok(ReadOutcome::Event(event));
        }
        while self.next <= self.last {
            let max = self.fetch_size();
            let batch = match &mut self.batch {
                Some(batch) => batch,
                None => {
                    self.in_batch = 0;
                    self.batch.insert(self.consumer.fetch(max).await?)
                }
            };
            match timeout(EVENT_TIMEOUT, batch.next()).await.map_err(StreamError::new)? {
                Some(Ok(message)) => {
                    self.in_batch += 1;
                    self.events += 1;
                    self.bytes += message.length;
                    let sequence = message.sequence;
                    // In a cluster, a consumer that moves to another server starts again from its first position.
                    if sequence < self.next {
                        continue;
                    }
                    let is_gap = !self.is_filtered && sequence > self.next;
                    // Events missing after the oldest one were deleted manually.
                    let begins = if is_gap { Self::info(&self.history, self.stream).await?.first } else { 0 };
                    let is_gone = begins > self.next;
                    self.next = sequence + 1;
                    if sequence > self.last && !is_gone {
                        break;
                    }
                    let event = self.history.event(self.stream, message);
                    if is_gone {
                        self.after_gap = event.filter(|_| sequence <= self.last);
                        return Ok(ReadOutcome::Trimmed(begins.min(sequence)));
                    }
                    // Skip messages that amqp-ingest did not publish.
                    if let Some(event) = event {
                        return Ok(ReadOutcome::Event(event));
                    }
                }
                Some(Err(error)) => return Err(error),
                None => {
                    self.batch = None;
                    if self.in_batch == 0 {
                        return self.nothing_more().await;
                    }
                }
            }
        }
        Ok(ReadOutcome::End)
    }

    fn fetch_size(&self) -> usize {
        match self.bytes.checked_div(self.events) {
            Some(average) => (self.fetch_bytes / average.max(1)).clamp(1, MAX_FETCH),
            None => FIRST_FETCH,
        }
    }

    /// The server has no more events, though the last position is not reached.
    async fn nothing_more(&mut self) -> Result<ReadOutcome, StreamError> {
        if self.is_filtered {
            self.next = self.last.saturating_add(1);
            return Ok(ReadOutcome::End);
        }
        let info = Self::info(&self.history, self.stream).await?;
        let next = std::mem::replace(&mut self.next, self.last.saturating_add(1));
        if info.first > next {
            return Ok(ReadOutcome::Trimmed(info.first.min(self.next)));
        }
        if info.leader.is_none() {
            // The newest events were deleted manually.
            return Ok(ReadOutcome::End);
        }
        // In a cluster, the server of the consumer may not have the newest events yet.
        Err(StreamError::new("the consumer's server does not have the newest events yet"))
    }

    async fn info(history: &History, stream: StreamId) -> Result<StreamInfo, StreamError> {
        let info = history.info().await?.filter(|info| info.id == stream);
        info.ok_or_else(|| StreamError::new("the stream no longer exists"))
    }
}
