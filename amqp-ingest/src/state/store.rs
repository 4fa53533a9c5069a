//! The stream of kept events: one message per living thing, and how far they are.

use std::time::Duration;

use async_nats::{
    Client,
    header::{HeaderMap, NATS_EXPECTED_LAST_MESSAGE_ID, NATS_EXPECTED_LAST_SEQUENCE, NATS_MESSAGE_ID},
    jetstream::{
        self, Context,
        context::PublishErrorKind,
        stream::{Config, DirectGetErrorKind, DiscardPolicy, RetentionPolicy, StorageType},
    },
};
use blackhole_common::{
    chance,
    wire::{self, StateProgress, Subjects},
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use tokio::time::timeout;

use super::{
    Stop,
    living::{Changes, Living, Stored, Write},
    source::{self, StreamInfo, millis, text},
};
use crate::config::{HistoryConfig, Storage};

/// Time for an answer of JetStream.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// A stream that a cluster does not know must be missing for this long before it is created.
const MISSING_TIMEOUT: Duration = Duration::from_secs(5);
/// Deletions under way at the same time.
const CONCURRENT_DELETIONS: usize = 64;
/// Writes under way at the same time.
const CONCURRENT_WRITES: usize = 256;
/// Messages of one fetch.
const FETCH: usize = 1000;
/// Only to remove what everybody has forgotten: the keeper removes things when their own age ends.
const STREAM_AGE: Duration = Duration::from_secs(32 * 86_400);
/// Nothing is published twice: the shortest window costs least.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(1);
/// Room for headers beside a body at the server's `max_payload`.
const HEADER_ROOM: usize = 4096;

/// The stream of kept events.
pub(super) struct Store {
    client: Client,
    context: Context,
    subjects: Subjects,
    stream: String,
    /// The position of its last message. Whoever publishes in between wins, and the other notices.
    last: u64,
    /// The id of this keeper's last message. Each message names the one before it, so that none is stored after one that
    /// was refused.
    last_id: Option<String>,
    /// Tells this keeper's messages from those of others.
    keeper: u64,
}

impl Store {
    /// Opens the stream, or creates it. Loads what it has into `living`; `family` tells the index of a family by its word.
    pub(super) async fn open(
        client: Client,
        subjects: &Subjects,
        history: &HistoryConfig,
        family: impl Fn(&str) -> Option<usize>,
        living: &mut Living,
    ) -> Result<(Store, Option<StateProgress>), Stop> {
        let mut context = jetstream::new(client.clone());
        context.set_timeout(ANSWER_TIMEOUT);
        let stream = subjects.state_stream();
        let config = config(subjects, history);
        let info = ensure(&client, &context, &stream, config).await?;
        let mut store = Store {
            client,
            context,
            subjects: subjects.clone(),
            stream,
            last: info.last,
            last_id: None,
            keeper: chance::random(),
        };
        let progress = store.progress().await?;
        match &progress {
            // Somebody writes at this moment.
            Some((sequence, _)) if *sequence > info.last => return Err(Stop::Conflict),
            // A server of a cluster that lags behind has answered.
            None if info.last > 0 && info.leader.is_some() => {
                return Err(Stop::Failed("the progress is not known yet".to_owned()));
            }
            _ => {}
        }
        store.load(&info, family, living).await?;
        Ok((store, progress.map(|(_, progress)| progress)))
    }

    /// The position of the last message.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    async fn progress(&self) -> Result<Option<(u64, StateProgress)>, Stop> {
        progress(&self.context, &self.subjects).await
    }

    async fn load(
        &mut self,
        info: &StreamInfo,
        family: impl Fn(&str) -> Option<usize>,
        living: &mut Living,
    ) -> Result<(), Stop> {
        let root = self.subjects.state();
        let filter = format!("{root}.*.*.*");
        let leader = info.leader.as_deref();
        let consumer = source::consumer(&self.client, &self.stream, &filter, 1, true, leader).await?;
        let mut unknown = Vec::new();
        loop {
            let (messages, is_exhausted) = source::fetch(&consumer, FETCH).await?;
            for message in messages {
                let sequence = message.info().map_err(text)?.stream_sequence;
                match stored(&root, &message, &family) {
                    Some(stored) => living.load(stored),
                    // Of a family that is gone, or somebody else's.
                    None => unknown.push(sequence),
                }
            }
            if is_exhausted {
                break;
            }
        }
        source::delete(&self.client, &self.stream, &consumer).await;
        self.delete(unknown).await
    }

    /// Carries out what a batch has changed, and then notes how far that is: what is read in between is what it was, or
    /// newer than the progress says.
    pub(super) async fn save(
        &mut self,
        living: &mut Living,
        changes: &mut Changes,
        progress: &StateProgress,
    ) -> Result<(), Stop> {
        let max_payload = self.client.server_info().max_payload;
        let is_too_large = |write: &Write| write.event.body.len() + HEADER_ROOM > max_payload;
        let too_large: Vec<usize> =
            changes.writes().filter(|(_, write)| is_too_large(write)).map(|(index, _)| index).collect();
        for index in too_large {
            tracing::warn!("an event is too large to be kept: clients that ask for the state do not get it");
            living.give_up(index, changes);
        }
        let writes: Vec<&Write> = changes.writes().map(|(_, write)| write).collect();
        let mut sequences = Vec::with_capacity(writes.len());
        for chunk in writes.chunks(CONCURRENT_WRITES) {
            let mut acknowledged = Vec::with_capacity(chunk.len());
            for write in chunk {
                acknowledged
                    .push(self.publish(self.subject(write), headers(write), write.event.body.clone()).await?);
            }
            for future in acknowledged {
                sequences.push(future.await.map_err(refused)?.sequence);
            }
        }
        writes.iter().zip(sequences).for_each(|(write, sequence)| living.stored(write, sequence));
        self.delete(std::mem::take(&mut changes.deletions)).await?;
        let text = serde_json::to_vec(progress).map_err(text)?;
        let future = self.publish(self.subjects.state_progress(), HeaderMap::new(), text.into()).await?;
        future.await.map_err(refused)?;
        Ok(())
    }

    fn subject(&self, write: &Write) -> String {
        format!("{}.{}", self.subjects.state(), write.below)
    }

    async fn publish(
        &mut self,
        subject: String,
        mut headers: HeaderMap,
        payload: Bytes,
    ) -> Result<jetstream::context::PublishAckFuture, Stop> {
        headers.insert(NATS_EXPECTED_LAST_SEQUENCE, self.last.to_string().as_str());
        let id = format!("{:016x}-{}", self.keeper, self.last);
        headers.insert(NATS_MESSAGE_ID, id.as_str());
        if let Some(last_id) = self.last_id.replace(id) {
            headers.insert(NATS_EXPECTED_LAST_MESSAGE_ID, last_id.as_str());
        }
        let future = self.context.publish_with_headers(subject, headers, payload).await.map_err(refused)?;
        self.last += 1;
        Ok(future)
    }

    /// Deletes messages by their positions: whatever came later stays.
    async fn delete(&self, sequences: Vec<u64>) -> Result<(), Stop> {
        let deletions = stream::iter(sequences).map(|sequence| self.delete_one(sequence));
        deletions.buffer_unordered(CONCURRENT_DELETIONS).try_collect::<()>().await
    }

    async fn delete_one(&self, sequence: u64) -> Result<(), Stop> {
        #[derive(Deserialize)]
        struct Answer {
            error: Option<ApiError>,
        }
        #[derive(Deserialize)]
        struct ApiError {
            #[serde(default)]
            err_code: u64,
            #[serde(default)]
            description: String,
        }
        /// There is no such message (any more).
        const NOT_FOUND: u64 = 10043;
        // Erased: a server that is killed forgets other deletions of its last seconds.
        let request = serde_json::json!({ "seq": sequence, "no_erase": false }).to_string();
        let subject = format!("$JS.API.STREAM.MSG.DELETE.{}", self.stream);
        let asked = self.client.request(subject, request.into());
        let answer = timeout(ANSWER_TIMEOUT, asked).await.map_err(text)?.map_err(text)?;
        let answer: Answer = serde_json::from_slice(&answer.payload).map_err(text)?;
        match answer.error {
            None => Ok(()),
            Some(error) if error.err_code == NOT_FOUND || error.description.contains("no message found") => {
                Ok(())
            }
            Some(error) => Err(Stop::Failed(error.description)),
        }
    }
}

/// How far the kept events are, with the position of that message; `None` if nobody has kept any.
pub(super) async fn progress(
    context: &Context,
    subjects: &Subjects,
) -> Result<Option<(u64, StateProgress)>, Stop> {
    let stream = context.get_stream_no_info(subjects.state_stream()).await.map_err(text)?;
    // Another request for it, MSG.GET, ends nats-server 2.9.10 if the stream is just being created.
    match stream.direct_get_last_for_subject(subjects.state_progress()).await {
        // A progress that cannot be read is of another release: begin anew.
        Ok(message) => {
            Ok(Some((message.sequence, serde_json::from_slice(&message.payload).unwrap_or_default())))
        }
        Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
        Err(error) => Err(Stop::Failed(text(error))),
    }
}

/// A write that was refused because somebody else has written is a conflict.
fn refused(error: jetstream::context::PublishError) -> Stop {
    match error.kind() {
        PublishErrorKind::WrongLastSequence | PublishErrorKind::WrongLastMessageId => Stop::Conflict,
        _ => Stop::Failed(error.to_string()),
    }
}

fn headers(write: &Write) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in &write.event.headers {
        headers.insert(*name, value.as_str());
    }
    headers.insert(wire::STATE_SUBJECT, write.event.below.as_str());
    headers.insert(wire::STATE_POSITION, write.event.position.to_string().as_str());
    headers.insert(wire::STATE_UNTIL, write.until_ms.to_string().as_str());
    headers.insert(wire::STATE_TENANTS, write.tenants.as_str());
    headers
}

/// A message of the stream as a living thing.
fn stored(
    root: &str,
    message: &jetstream::Message,
    family: impl Fn(&str) -> Option<usize>,
) -> Option<Stored> {
    let mut words = message.subject.strip_prefix(root)?.strip_prefix('.')?.split('.');
    let (tenant, family_word, thing) = (words.next()?, words.next()?, words.next()?);
    let header = |name| Some(message.headers.as_ref()?.get(name)?.as_str());
    let number = |name| header(name)?.parse().ok();
    let info = message.info().ok()?;
    let body: usize = header("Nats-Msg-Size").and_then(|size| size.parse().ok()).unwrap_or_default();
    Some(Stored {
        family: family(family_word)?,
        thing: u128::from_str_radix(thing, 16).ok()?,
        tenant: tenant.to_owned(),
        tenants: header(wire::STATE_TENANTS)?.to_owned(),
        position: number(wire::STATE_POSITION)?,
        at_ms: millis(info.published),
        until_ms: number(wire::STATE_UNTIL)?,
        bytes: message.subject.len() + header(wire::STATE_SUBJECT)?.len() + body,
        sequence: info.stream_sequence,
    })
}

/// The stream, as it is or newly created.
async fn ensure(
    client: &Client,
    context: &Context,
    stream: &str,
    config: Config,
) -> Result<StreamInfo, Stop> {
    let mut info = source::info(client, stream).await?;
    if info.is_none() && client.server_info().cluster.is_some() {
        tokio::time::sleep(MISSING_TIMEOUT).await;
        info = source::info(client, stream).await?;
    }
    match info {
        Some(info) => {
            let handle = context.get_stream(stream).await.map_err(text)?;
            let existing = handle.cached_info().config.clone();
            let desired =
                Config { description: existing.description.clone(), ..merge(existing.clone(), config) };
            if desired != existing {
                context.update_stream(desired).await.map_err(text)?;
            }
            Ok(info)
        }
        None => {
            let replicated = config.clone();
            if context.create_stream(replicated).await.is_err() {
                // A single server keeps one copy.
                context.create_stream(Config { num_replicas: 1, ..config }).await.map_err(text)?;
            }
            source::info(client, stream).await?.ok_or_else(|| Stop::Failed("the stream is gone".into()))
        }
    }
}

/// `existing` with what this release relies on.
fn merge(existing: Config, own: Config) -> Config {
    Config {
        subjects: own.subjects,
        retention: own.retention,
        discard: own.discard,
        max_age: own.max_age,
        max_bytes: own.max_bytes,
        max_messages_per_subject: own.max_messages_per_subject,
        allow_direct: own.allow_direct,
        ..existing
    }
}

fn config(subjects: &Subjects, history: &HistoryConfig) -> Config {
    Config {
        name: subjects.state_stream(),
        description: Some(format!("last events of living things, since {:016x}", chance::random::<u64>())),
        subjects: vec![format!("{}.>", subjects.state())],
        max_messages_per_subject: 1,
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::Old,
        max_age: STREAM_AGE,
        // The keeper holds the limit itself. This one is for what it does not know of.
        max_bytes: i64::try_from(history.state_max_bytes.as_u64().saturating_mul(2)).unwrap_or(i64::MAX),
        storage: match history.storage {
            Storage::File => StorageType::File,
            Storage::Memory => StorageType::Memory,
        },
        num_replicas: history.replicas,
        duplicate_window: DUPLICATE_WINDOW,
        allow_direct: true,
        ..Config::default()
    }
}
