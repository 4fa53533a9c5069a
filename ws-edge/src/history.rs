//! Reading the stream: the events between two positions, in order, all or those of one subject.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
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
use tokio::time::timeout;

use crate::{
    cursor::{Identity, Place},
    feed::stream::{self, StreamInfo, Unreadable},
    frame::Event,
};

/// Events that are asked for at once, at most.
const MOST_AT_ONCE: usize = 1000;
/// Events that are asked for first, while it is not known how large they are.
const FIRST: usize = 16;
/// About so many bytes are asked for at once: what is not read of them in the end was sent for nothing.
const BYTES_AT_ONCE: usize = 1 << 20;
/// The next event of those that were asked for comes within this, or does not come: async-nats waits for ever.
const EVENT_WITHIN: Duration = Duration::from_secs(5);
/// The server answers a question about the stream within this, or is asked again.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// The server forgets a reader that has not come back for this long.
const READER_LIFETIME: Duration = Duration::from_secs(60);

/// Where events of the past are.
#[derive(Clone, Debug)]
pub struct History {
    client: Client,
    subjects: Subjects,
    event_root: Arc<str>,
    ingest_root: Arc<str>,
    /// Readers that are open: for the tests and the metrics.
    readers: Arc<AtomicUsize>,
}

/// A reader of the stream from one position to another.
pub struct Reader {
    history: History,
    identity: Identity,
    consumer: Consumer<pull::Config>,
    batch: Option<pull::Batch>,
    in_batch: usize,
    /// What was read so far, to know how much to ask for.
    events: usize,
    bytes: usize,
    /// The position that comes next, if all are read.
    next: u64,
    last: u64,
    is_filtered: bool,
    /// What came behind a gap that was told of.
    behind_gap: Option<Event>,
}

/// What a reader found.
#[derive(Debug)]
pub enum Found {
    /// An event.
    Event(Event),
    /// Events before this position are no longer there.
    Gone(u64),
    /// Nothing more up to the last position.
    End,
}

impl History {
    /// The history that `client` can read.
    pub fn new(client: Client, subjects: Subjects) -> History {
        let (event_root, ingest_root) = (subjects.event().into(), subjects.ingest().into());
        History { client, subjects, event_root, ingest_root, readers: Arc::default() }
    }

    /// What the stream is at the moment; `None` where there is none.
    ///
    /// # Errors
    /// When nobody can tell.
    pub async fn info(&self) -> Result<Option<StreamInfo>, Unreadable> {
        stream::ask(&self.client, &self.subjects, ANSWER_WITHIN).await
    }

    /// The position of the newest event that was stored before `time`, in a stream that reaches back to it.
    ///
    /// # Errors
    /// When the stream cannot be asked.
    pub async fn position_at(&self, time: SystemTime) -> Result<u64, Unreadable> {
        let start_time = time.into();
        let mut consumer = self.consumer(DeliverPolicy::ByStartTime { start_time }, None).await?;
        // What a reader that begins at a time counts as delivered is what lies before.
        let before = consumer.info().await.map_err(Unreadable::new)?.delivered.stream_sequence;
        Ok(before)
    }

    /// A reader of the events after position `after`, up to `last`; only those of `subject`, if there is one.
    ///
    /// # Errors
    /// When the stream cannot be read.
    pub async fn read(
        &self,
        identity: Identity,
        after: u64,
        last: u64,
        subject: Option<&str>,
    ) -> Result<Reader, Unreadable> {
        let policy = DeliverPolicy::ByStartSequence { start_sequence: after + 1 };
        let consumer = self.consumer(policy, subject).await?;
        self.readers.fetch_add(1, Ordering::Relaxed);
        Ok(Reader {
            history: self.clone(),
            identity,
            consumer,
            batch: None,
            in_batch: 0,
            events: 0,
            bytes: 0,
            next: after + 1,
            last,
            is_filtered: subject.is_some(),
            behind_gap: None,
        })
    }

    async fn consumer(
        &self,
        deliver_policy: DeliverPolicy,
        subject: Option<&str>,
    ) -> Result<Consumer<pull::Config>, Unreadable> {
        let stream = jetstream::new(self.client.clone());
        let stream = stream.get_stream_no_info(self.subjects.stream()).await.map_err(Unreadable::new)?;
        let filter = subject.and_then(|subject| subject.strip_prefix(&*self.event_root));
        let config = pull::Config {
            deliver_policy,
            ack_policy: AckPolicy::None,
            filter_subject: filter.map_or_else(String::new, |rest| format!("{}{rest}", self.ingest_root)),
            inactive_threshold: READER_LIFETIME,
            memory_storage: true,
            num_replicas: 1,
            ..Default::default()
        };
        stream.create_consumer(config).await.map_err(Unreadable::new)
    }

    /// An event of the stream.
    fn event(&self, identity: Identity, sequence: u64, message: async_nats::Message) -> Option<Event> {
        let rest = message.subject.strip_prefix(&*self.ingest_root)?;
        let name = message.headers.as_ref()?.get(wire::EVENT_NAME)?;
        Some(Event {
            subject: format!("{}{rest}", self.event_root).into(),
            name: Bytes::copy_from_slice(name.as_str().as_bytes()),
            body: message.payload,
            place: Some(Place { stream: identity, sequence }),
        })
    }
}

impl Reader {
    /// The next event.
    ///
    /// # Errors
    /// When the stream cannot be read on.
    pub async fn next(&mut self) -> Result<Found, Unreadable> {
        if let Some(event) = self.behind_gap.take() {
            return Ok(Found::Event(event));
        }
        while self.next <= self.last {
            let most = self.at_once();
            let batch = match &mut self.batch {
                Some(batch) => batch,
                None => {
                    self.in_batch = 0;
                    let batch = self.consumer.fetch().max_messages(most).messages().await;
                    self.batch.insert(batch.map_err(Unreadable::new)?)
                }
            };
            match timeout(EVENT_WITHIN, batch.next()).await.map_err(Unreadable::new)? {
                Some(Ok(message)) => {
                    self.in_batch += 1;
                    self.events += 1;
                    self.bytes += message.length;
                    let sequence = message.info().map_err(Unreadable::new)?.stream_sequence;
                    // In a cluster, a reader that has to be served by another server begins anew there.
                    if sequence < self.next {
                        continue;
                    }
                    let is_gap = !self.is_filtered && sequence > self.next;
                    // What is missing behind the oldest that is there was taken out by hand.
                    let begins = if is_gap { self.info().await?.first } else { 0 };
                    let is_gone = begins > self.next;
                    self.next = sequence + 1;
                    if sequence > self.last && !is_gone {
                        break;
                    }
                    let event = self.history.event(self.identity, sequence, message.message);
                    if is_gone {
                        self.behind_gap = event.filter(|_| sequence <= self.last);
                        return Ok(Found::Gone(begins.min(sequence)));
                    }
                    // What is none of ours was put there by somebody else.
                    if let Some(event) = event {
                        return Ok(Found::Event(event));
                    }
                }
                Some(Err(error)) => return Err(Unreadable::new(error)),
                None => {
                    self.batch = None;
                    if self.in_batch == 0 {
                        return self.nothing_more().await;
                    }
                }
            }
        }
        Ok(Found::End)
    }

    fn at_once(&self) -> usize {
        match self.bytes.checked_div(self.events) {
            Some(average) => (BYTES_AT_ONCE / average.max(1)).clamp(1, MOST_AT_ONCE),
            None => FIRST,
        }
    }

    /// The server has nothing more for us, though we are not at the last position.
    async fn nothing_more(&mut self) -> Result<Found, Unreadable> {
        if self.is_filtered {
            self.next = self.last.saturating_add(1);
            return Ok(Found::End);
        }
        let info = self.info().await?;
        let next = std::mem::replace(&mut self.next, self.last.saturating_add(1));
        if info.first > next {
            return Ok(Found::Gone(info.first.min(self.next)));
        }
        if info.leader.is_none() {
            // The newest were taken out by hand.
            return Ok(Found::End);
        }
        // In a cluster, a reader is served by any of the servers, and that one may not have the newest yet.
        Err(Unreadable::new("the server that was asked has less than the stream"))
    }

    async fn info(&self) -> Result<StreamInfo, Unreadable> {
        let info = self.history.info().await?.filter(|info| info.identity == self.identity);
        info.ok_or_else(|| Unreadable::new("the stream is gone"))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.history.readers.fetch_sub(1, Ordering::Relaxed);
    }
}
