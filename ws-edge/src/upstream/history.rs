//! Reading the stream: the events between two positions in order, all or those of one subject.

use std::{
    ops::Deref,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_nats::{
    Client,
    jetstream::{
        self,
        consumer::{AckPolicy, Consumer, DeliverPolicy, pull},
    },
};
use blackhole_common::wire::{self, Subjects};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::{runtime::Handle, time::timeout};

use super::stream_info::{self, StreamError, StreamInfo};
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
/// Time for an answer about the stream.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// The server deletes a consumer that has not fetched for this long, if the edge could not.
const CONSUMER_LIFETIME: Duration = Duration::from_secs(60);
/// Attempts to get a consumer at the stream's leader. With three servers one in three succeeds: all fail once in 2,000
/// times.
const MAX_PLACEMENTS: usize = 20;

/// Past events.
#[derive(Clone, Debug)]
pub(crate) struct History {
    client: Client,
    subjects: Subjects,
    event_root: Arc<str>,
    ingest_root: Arc<str>,
}

/// A reader of the stream from one position to another.
pub(crate) struct HistoryReader {
    history: History,
    stream: StreamId,
    consumer: OwnConsumer,
    batch: Option<pull::Batch>,
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

/// A consumer that is deleted at the server when this is dropped.
struct OwnConsumer {
    consumer: Consumer<pull::Config>,
    history: History,
}

impl Deref for OwnConsumer {
    type Target = Consumer<pull::Config>;

    fn deref(&self) -> &Self::Target {
        &self.consumer
    }
}

impl Drop for OwnConsumer {
    fn drop(&mut self) {
        let name = &self.consumer.cached_info().name;
        let subject = format!("$JS.API.CONSUMER.DELETE.{}.{name}", self.history.subjects.stream());
        let client = self.history.client.clone();
        // Without a runtime the edge has ended, and without an answer the server deletes the consumer a little later.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move { client.publish(subject, Bytes::new()).await });
        }
    }
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
    /// The history that `client` can read.
    pub(crate) fn new(client: Client, subjects: Subjects) -> History {
        let (event_root, ingest_root) = (subjects.event().into(), subjects.ingest().into());
        History { client, subjects, event_root, ingest_root }
    }

    /// The stream's state; `None` if there is no stream.
    ///
    /// # Errors
    /// When there is no usable answer.
    pub(crate) async fn info(&self) -> Result<Option<StreamInfo>, StreamError> {
        stream_info::ask(&self.client, &self.subjects, ANSWER_TIMEOUT).await
    }

    /// The server's time.
    ///
    /// # Errors
    /// If the stream does not answer.
    pub(crate) async fn time(&self) -> Result<SystemTime, StreamError> {
        // Before nats-server 2.10 answers have no time, but a consumer has always had the time of its creation.
        Ok(self.consumer(DeliverPolicy::New, None).await?.cached_info().created.into())
    }

    /// The position of the newest event stored before `time`, which the stream must reach back to.
    ///
    /// # Errors
    /// If the stream does not answer.
    pub(crate) async fn position_at(&self, time: SystemTime) -> Result<u64, StreamError> {
        let start_time = time.into();
        let mut consumer = self.consumer(DeliverPolicy::ByStartTime { start_time }, None).await?;
        // A consumer that begins at a time counts everything before it as delivered.
        let info = consumer.consumer.info().await.map_err(StreamError::new)?;
        Ok(info.delivered.stream_sequence)
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
    ) -> Result<OwnConsumer, StreamError> {
        for _ in 0..MAX_PLACEMENTS {
            let consumer = self.consumer(policy, Some(subject)).await?;
            let server = consumer.cached_info().cluster.as_ref().and_then(|cluster| cluster.leader.as_ref());
            if info.leader.is_none() || info.leader.as_ref() == server {
                return Ok(consumer);
            }
        }
        Err(StreamError::new("the cluster places no consumer at the stream's leader"))
    }

    async fn consumer(
        &self,
        deliver_policy: DeliverPolicy,
        subject: Option<&str>,
    ) -> Result<OwnConsumer, StreamError> {
        let stream = jetstream::new(self.client.clone());
        let stream = stream.get_stream_no_info(self.subjects.stream()).await.map_err(StreamError::new)?;
        let filter = subject.and_then(|subject| subject.strip_prefix(&*self.event_root));
        let config = pull::Config {
            deliver_policy,
            ack_policy: AckPolicy::None,
            filter_subject: filter.map_or_else(String::new, |rest| format!("{}{rest}", self.ingest_root)),
            inactive_threshold: CONSUMER_LIFETIME,
            memory_storage: true,
            num_replicas: 1,
            ..Default::default()
        };
        let consumer = stream.create_consumer(config).await.map_err(StreamError::new)?;
        Ok(OwnConsumer { consumer, history: self.clone() })
    }

    /// The event in a message of the stream; `None` if amqp-ingest did not publish it.
    fn event(&self, stream: StreamId, sequence: u64, message: async_nats::Message) -> Option<Event> {
        let rest = message.subject.strip_prefix(&*self.ingest_root)?;
        let name = message.headers.as_ref()?.get(wire::EVENT_NAME)?;
        Some(Event {
            subject: format!("{}{rest}", self.event_root).into(),
            name: Bytes::copy_from_slice(name.as_str().as_bytes()),
            body: message.payload,
            position: Some(EventPosition { stream, sequence }),
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
                    let batch = self.consumer.fetch().max_messages(max).messages().await;
                    self.batch.insert(batch.map_err(StreamError::new)?)
                }
            };
            match timeout(EVENT_TIMEOUT, batch.next()).await.map_err(StreamError::new)? {
                Some(Ok(message)) => {
                    self.in_batch += 1;
                    self.events += 1;
                    self.bytes += message.length;
                    let sequence = message.info().map_err(StreamError::new)?.stream_sequence;
                    // In a cluster, a consumer that moves to another server starts again from its first position.
                    if sequence < self.next {
                        continue;
                    }
                    let is_gap = !self.is_filtered && sequence > self.next;
                    // Events missing after the oldest one were deleted manually.
                    let begins = if is_gap { self.info().await?.first } else { 0 };
                    let is_gone = begins > self.next;
                    self.next = sequence + 1;
                    if sequence > self.last && !is_gone {
                        break;
                    }
                    let event = self.history.event(self.stream, sequence, message.message);
                    if is_gone {
                        self.after_gap = event.filter(|_| sequence <= self.last);
                        return Ok(ReadOutcome::Trimmed(begins.min(sequence)));
                    }
                    // Skip messages that amqp-ingest did not publish.
                    if let Some(event) = event {
                        return Ok(ReadOutcome::Event(event));
                    }
                }
                Some(Err(error)) => return Err(StreamError::new(error)),
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
        let info = self.info().await?;
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

    async fn info(&self) -> Result<StreamInfo, StreamError> {
        let info = self.history.info().await?.filter(|info| info.id == self.stream);
        info.ok_or_else(|| StreamError::new("the stream no longer exists"))
    }
}
