//! The kept events: the last event of each living thing, which amqp-ingest writes to a stream of their own.
//!
//! What is read is complete up to a position of the stream of events ([`Snapshot::position`]), after which the client gets
//! everything from there. The progress is read first: what is read after it is as new, and what is newer says so.
//!
//! Sessions that ask for the same at the same time share what is read. How much is held for sessions that have not got
//! it yet is limited, for the edge and for each tenant.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use async_nats::{
    Client,
    jetstream::{
        self, Context,
        consumer::{AckPolicy, Consumer, DeliverPolicy, pull},
        stream::DirectGetErrorKind,
    },
};
use blackhole_common::{
    clock,
    wire::{self, StateProgress, Subjects},
};
use bytes::Bytes;
use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::{sync::Semaphore, time::timeout};

use super::stream_info::{self, StreamError, StreamInfo};
use crate::{
    delivery::frame::event::Event,
    protocol::cursor::{EventPosition, StreamId},
};

/// Reads at the same time.
const PLACES: usize = 8;
/// What was read this long ago is read again.
const FRESH: Duration = Duration::from_millis(250);
/// Time for an answer, and between two messages.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for the messages of one fetch. The server waits for those that it miscounts when they are deleted meanwhile.
const FETCH_TIMEOUT: Duration = Duration::from_millis(300);
/// Messages of one fetch.
const FETCH: usize = 200;
/// The server deletes a consumer that has not fetched for this long, if the edge could not.
const CONSUMER_LIFETIME: Duration = Duration::from_secs(30);
/// Attempts to get a consumer at the stream's leader.
const MAX_PLACEMENTS: usize = 20;
/// A tenant may take this part of what the edge holds.
const TENANT_SHARE: u64 = 4;

/// Why there is no state.
#[derive(Debug)]
pub(crate) enum NoState {
    /// Nothing is kept: there is no history, or the ingest is of an earlier release.
    NotKept,
    /// It is larger than what the edge holds for one tenant.
    TooLarge,
    /// It cannot be read at the moment.
    Unavailable(StreamError),
}

impl<E: std::fmt::Display> From<E> for NoState {
    fn from(error: E) -> NoState {
        NoState::Unavailable(StreamError::new(error))
    }
}

/// Reads the kept events.
#[derive(Debug)]
pub(crate) struct Kept {
    client: Client,
    context: Context,
    subjects: Subjects,
    places: Semaphore,
    /// What is being read, or still held by a session, by its filter.
    slots: Mutex<HashMap<String, Arc<Slot>>>,
    room: Arc<Room>,
}

type Slot = tokio::sync::Mutex<Option<(Instant, Weak<Part>)>>;

/// The kept events of a tenant and a family, below which they are: `*` stands for all tenants.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Filter {
    /// The tenant's word.
    pub(crate) tenant: String,
    /// The family's name.
    pub(crate) family: String,
}

/// What was read with one filter.
#[derive(Debug)]
struct Part {
    stream: StreamId,
    position: u64,
    since_ms: u64,
    events: Vec<Event>,
    _share: Share,
}

/// The last events of things that live at a position.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// The stream of events.
    pub(crate) stream: StreamId,
    /// It is complete up to this position.
    pub(crate) position: u64,
    /// Things without an event since this time, in milliseconds since 1970, may be missing.
    pub(crate) since_ms: u64,
    parts: Vec<Arc<Part>>,
    /// Part and index of each event, in the order of their positions.
    order: Vec<(u64, usize, usize)>,
}

impl Snapshot {
    /// Of these parts. One that was read later knows of later events: these are left out, since they follow.
    fn of(parts: Vec<Arc<Part>>) -> Option<Snapshot> {
        let stream = parts.first()?.stream;
        let position = parts.iter().map(|part| part.position).min()?;
        let since_ms = parts.iter().map(|part| part.since_ms).max()?;
        if parts.iter().any(|part| part.stream != stream) {
            return None;
        }
        let events = parts.iter().enumerate().map(|(number, part)| {
            let positions = part.events.iter().enumerate();
            positions.filter_map(move |(index, event)| Some((event.sequence()?, number, index)))
        });
        let mut order: Vec<_> = events.flatten().filter(|(own, ..)| *own <= position).collect();
        order.sort_unstable();
        // An event may be the last one of several things.
        order.dedup_by_key(|(position, ..)| *position);
        Some(Snapshot { stream, position, since_ms, parts, order })
    }

    /// The event with this number, oldest first.
    pub(crate) fn event(&self, number: usize) -> Option<&Event> {
        let (_, part, index) = self.order.get(number)?;
        self.parts.get(*part)?.events.get(*index)
    }
}

impl Kept {
    /// What `client` can read. At most `max_bytes` are held at once.
    pub(crate) fn new(client: Client, subjects: Subjects, max_bytes: u64) -> Kept {
        Kept {
            context: jetstream::new(client.clone()),
            client,
            subjects,
            places: Semaphore::new(PLACES),
            slots: Mutex::default(),
            room: Arc::new(Room { max_bytes, used: Mutex::default() }),
        }
    }

    /// What is kept with these filters.
    ///
    /// # Errors
    /// Why nothing is.
    pub(crate) async fn read(&self, filters: &[Filter]) -> Result<Snapshot, NoState> {
        let mut parts = Vec::with_capacity(filters.len());
        for filter in filters {
            parts.push(self.part(filter).await?);
        }
        Snapshot::of(parts).ok_or(NoState::NotKept)
    }

    /// What is kept with a filter: just read by another session, or by this one.
    async fn part(&self, filter: &Filter) -> Result<Arc<Part>, NoState> {
        let subject = self.subject(filter);
        let slot = {
            let mut slots = self.slots.lock();
            slots.retain(|_, slot| {
                Arc::strong_count(slot) > 1 || slot.try_lock().is_ok_and(|slot| is_held(&slot))
            });
            Arc::clone(slots.entry(subject.clone()).or_default())
        };
        let mut slot = slot.lock().await;
        if let Some((at, part)) = &*slot
            && clock::now() - *at < FRESH
            && let Some(part) = part.upgrade()
        {
            return Ok(part);
        }
        let _place = self.places.acquire().await?;
        let at = clock::now();
        let part = Arc::new(self.read_part(filter, &subject).await?);
        *slot = Some((at, Arc::downgrade(&part)));
        Ok(part)
    }

    fn subject(&self, filter: &Filter) -> String {
        let mut subject = format!("{}.{}.", self.subjects.state(), filter.tenant);
        blackhole_common::subject::push_word(&mut subject, filter.family.as_bytes());
        subject.push_str(".*");
        subject
    }

    async fn read_part(&self, filter: &Filter, subject: &str) -> Result<Part, NoState> {
        let progress = self.progress().await?.ok_or(NoState::NotKept)?;
        let family = progress.families.get(&filter.family).ok_or(NoState::NotKept)?;
        let stream = StreamId::new(&progress.stream);
        // What is stored after this message is newer than the progress. While things change, the reading ends at it: a
        // server may count messages as pending that were deleted meanwhile.
        let stored = self.info().await?;
        let consumer = self.consumer(subject, stored.leader).await?;
        let mut share = Share { room: Arc::clone(&self.room), tenant: filter.tenant.clone(), bytes: 0 };
        let mut events = Vec::new();
        // What was stored before the consumer was created is pending from the beginning.
        let mut is_exhausted = consumer.0.cached_info().num_pending == 0;
        while !is_exhausted {
            let fetch = consumer.0.fetch().max_messages(FETCH).expires(FETCH_TIMEOUT);
            let mut batch = timeout(ANSWER_TIMEOUT, fetch.messages()).await??;
            let mut is_empty = true;
            while let Some(message) = timeout(ANSWER_TIMEOUT, batch.next()).await? {
                let message = message.map_err(StreamError::new)?;
                let info = message.info().map_err(StreamError::new)?;
                let (sequence, pending) = (info.stream_sequence, info.pending);
                (is_empty, is_exhausted) = (false, pending == 0 || sequence >= stored.last);
                let event = self.event(stream, &message.message);
                let counts = |event: &Event| {
                    sequence > family.begins && event.sequence().is_some_and(|own| own <= progress.position)
                };
                if let Some(event) = event.filter(counts) {
                    share.take(event.bytes() as u64)?;
                    events.push(event);
                }
            }
            if is_empty {
                return Err(StreamError::new("not all of it came").into());
            }
        }
        Ok(Part { stream, position: progress.position, since_ms: family.since_ms, events, _share: share })
    }

    /// The event in a message; `None` if amqp-ingest did not write it there.
    fn event(&self, stream: StreamId, message: &async_nats::Message) -> Option<Event> {
        let headers = message.headers.as_ref()?;
        let header = |name| Some(headers.get(name)?.as_str());
        let below = header(wire::STATE_SUBJECT)?;
        let tenant =
            message.subject.strip_prefix(&self.subjects.state())?.strip_prefix('.')?.split('.').next()?;
        if below.split('.').next() != Some(tenant) {
            return None;
        }
        let sequence = header(wire::STATE_POSITION)?.parse().ok()?;
        Some(Event {
            subject: format!("{}.{below}", self.subjects.event()).into(),
            name: Bytes::copy_from_slice(header(wire::EVENT_NAME)?.as_bytes()),
            body: Bytes::copy_from_slice(&message.payload),
            owner: header(wire::OWNER)
                .map(|owner| Bytes::copy_from_slice(owner.as_bytes()))
                .unwrap_or_default(),
            position: Some(EventPosition { stream, sequence }),
        })
    }

    /// How far the kept events are; `None` if there are none. A server that lags behind may answer: then more follows.
    async fn progress(&self) -> Result<Option<StateProgress>, NoState> {
        let stream = self.context.get_stream_no_info(self.subjects.state_stream()).await?;
        let subject = self.subjects.state_progress();
        match timeout(ANSWER_TIMEOUT, stream.direct_get_last_for_subject(subject)).await? {
            Ok(message) => Ok(serde_json::from_slice(&message.payload).ok()),
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The state of the stream of kept events, as its leader tells it.
    async fn info(&self) -> Result<StreamInfo, NoState> {
        let subject = format!("$JS.API.STREAM.INFO.{}", self.subjects.state_stream());
        let answer = timeout(ANSWER_TIMEOUT, self.client.request(subject, Bytes::new())).await??;
        stream_info::read(&answer.payload)?.ok_or(NoState::NotKept)
    }

    /// A consumer at the stream's leader, which alone is known to have everything.
    async fn consumer(&self, filter: &str, leader: Option<String>) -> Result<OwnConsumer, NoState> {
        let name = self.subjects.state_stream();
        let stream = self.context.get_stream_no_info(&name).await?;
        for _ in 0..MAX_PLACEMENTS {
            let config = pull::Config {
                deliver_policy: DeliverPolicy::All,
                ack_policy: AckPolicy::None,
                filter_subject: filter.to_owned(),
                inactive_threshold: CONSUMER_LIFETIME,
                memory_storage: true,
                num_replicas: 1,
                ..Default::default()
            };
            let consumer = stream.create_consumer(config).await?;
            let consumer = OwnConsumer(consumer, self.client.clone(), name.clone());
            let server = consumer.0.cached_info().cluster.as_ref().and_then(|cluster| cluster.leader.clone());
            if leader.is_none() || leader == server {
                return Ok(consumer);
            }
        }
        Err(StreamError::new("the cluster places no consumer at the stream's leader").into())
    }
}

fn is_held(slot: &Option<(Instant, Weak<Part>)>) -> bool {
    slot.as_ref().is_some_and(|(_, part)| part.strong_count() > 0)
}

/// A consumer, which is deleted at the server when this is dropped.
struct OwnConsumer(Consumer<pull::Config>, Client, String);

impl Drop for OwnConsumer {
    fn drop(&mut self) {
        let subject = format!("$JS.API.CONSUMER.DELETE.{}.{}", self.2, self.0.cached_info().name);
        let client = self.1.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { client.publish(subject, Bytes::new()).await });
        }
    }
}

/// How much is held, by the tenant's word.
#[derive(Debug)]
struct Room {
    max_bytes: u64,
    used: Mutex<HashMap<String, u64>>,
}

/// What a part holds of it.
#[derive(Debug)]
struct Share {
    room: Arc<Room>,
    tenant: String,
    bytes: u64,
}

impl Share {
    fn take(&mut self, bytes: u64) -> Result<(), NoState> {
        let max = self.room.max_bytes / TENANT_SHARE;
        if self.bytes + bytes > max {
            return Err(NoState::TooLarge);
        }
        let mut used = self.room.used.lock();
        let own = used.get(&self.tenant).copied().unwrap_or_default();
        let all: u64 = used.values().sum();
        if own + bytes > max || all + bytes > self.room.max_bytes {
            return Err(StreamError::new("too much of it waits for clients that read slowly").into());
        }
        used.insert(self.tenant.clone(), own + bytes);
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut used = self.room.used.lock();
        if let Some(own) = used.get_mut(&self.tenant) {
            *own = own.saturating_sub(self.bytes);
            if *own == 0 {
                used.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests;
