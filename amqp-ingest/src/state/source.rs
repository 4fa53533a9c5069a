//! Reading the events, from their stream.

use std::time::Duration;

use async_nats::{
    Client,
    jetstream::{
        self,
        consumer::{AckPolicy, Consumer, DeliverPolicy, pull},
    },
};
use blackhole_common::wire;
use futures_util::StreamExt;
use serde::Deserialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::{Instant, timeout};

use super::living::{KEPT_HEADERS, StreamEvent};

/// Time for an answer of JetStream, and between two messages of one fetch.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Messages of one fetch.
const FETCH: usize = 200;
/// A batch that has this many bytes fetches no more.
const MAX_BATCH_BYTES: usize = 8 << 20;
/// The server deletes a consumer that has not fetched for this long.
const CONSUMER_LIFETIME: Duration = Duration::from_secs(60);
/// A consumer that has not fetched for this long is made anew.
const CONSUMER_IDLE: Duration = Duration::from_secs(20);
/// Attempts to get a consumer at the stream's leader: with three servers one in three succeeds.
const MAX_PLACEMENTS: usize = 20;

/// A stream, as its leader reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StreamInfo {
    /// When it was created, as the server writes it.
    pub(super) created: String,
    pub(super) first: u64,
    /// When its oldest message was stored, in milliseconds since 1970.
    pub(super) first_ms: u64,
    pub(super) last: u64,
    /// The server that leads it; `None` without replicas.
    pub(super) leader: Option<String>,
}

/// Asks about a stream; `None` if there is none.
///
/// # Errors
/// When there is no usable answer.
pub(super) async fn info(client: &Client, stream: &str) -> Result<Option<StreamInfo>, String> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        created: String,
        state: Option<State>,
        cluster: Option<Cluster>,
        error: Option<ApiError>,
    }
    #[derive(Deserialize)]
    struct State {
        first_seq: u64,
        first_ts: String,
        last_seq: u64,
    }
    #[derive(Deserialize)]
    struct Cluster {
        name: Option<String>,
        leader: Option<String>,
        #[serde(default)]
        replicas: Vec<serde::de::IgnoredAny>,
    }
    #[derive(Deserialize)]
    struct ApiError {
        code: u16,
        #[serde(default)]
        description: String,
    }
    let asked = client.request(format!("$JS.API.STREAM.INFO.{stream}"), "".into());
    let answer = timeout(ANSWER_TIMEOUT, asked).await.map_err(text)?.map_err(text)?;
    let answer: Answer = serde_json::from_slice(&answer.payload).map_err(text)?;
    match (answer.state, answer.error) {
        (Some(state), _) => {
            let group = answer.cluster.filter(|group| group.name.is_some() || !group.replicas.is_empty());
            let leader = match group.map(|group| group.leader.unwrap_or_default()) {
                Some(leader) if leader.is_empty() => return Err(format!("{stream} has no leader")),
                leader => leader,
            };
            let first_ms = millis(OffsetDateTime::parse(&state.first_ts, &Rfc3339).map_err(text)?);
            let (first, last) = (state.first_seq, state.last_seq);
            Ok(Some(StreamInfo { created: answer.created, first, first_ms, last, leader }))
        }
        (None, Some(ApiError { code: 404, .. })) => Ok(None),
        (None, Some(error)) => Err(error.description),
        (None, None) => Err(format!("the answer about {stream} cannot be read")),
    }
}

pub(super) fn millis(time: OffsetDateTime) -> u64 {
    u64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or_default()
}

pub(super) fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// A consumer of a stream's messages that match `filter`, from position `from`, at the stream's leader: only that one is
/// known to have them all.
pub(super) async fn consumer(
    client: &Client,
    stream: &str,
    filter: &str,
    from: u64,
    headers_only: bool,
    leader: Option<&str>,
) -> Result<Consumer<pull::Config>, String> {
    for _ in 0..MAX_PLACEMENTS {
        let handle = jetstream::new(client.clone()).get_stream_no_info(stream).await.map_err(text)?;
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from.max(1) },
            ack_policy: AckPolicy::None,
            filter_subject: filter.to_owned(),
            inactive_threshold: CONSUMER_LIFETIME,
            memory_storage: true,
            num_replicas: 1,
            headers_only,
            ..Default::default()
        };
        let consumer = handle.create_consumer(config).await.map_err(text)?;
        let server = consumer.cached_info().cluster.as_ref().and_then(|cluster| cluster.leader.clone());
        if leader.is_none() || leader == server.as_deref() {
            return Ok(consumer);
        }
        delete(client, stream, &consumer).await;
    }
    Err("the cluster places no consumer at the stream's leader".to_owned())
}

/// Deletes a consumer, without waiting for the answer.
pub(super) async fn delete(client: &Client, stream: &str, consumer: &Consumer<pull::Config>) {
    let subject = format!("$JS.API.CONSUMER.DELETE.{stream}.{}", consumer.cached_info().name);
    let _ = client.publish(subject, "".into()).await;
}

/// Fetches messages. The flag tells whether there are no more.
pub(super) async fn fetch(
    consumer: &Consumer<pull::Config>,
    max: usize,
) -> Result<(Vec<jetstream::Message>, bool), String> {
    let mut batch = timeout(ANSWER_TIMEOUT, consumer.fetch().max_messages(max).messages()).await;
    let batch = batch.as_mut().map_err(text)?.as_mut().map_err(text)?;
    let (mut messages, mut is_exhausted) = (Vec::new(), true);
    while let Some(message) = timeout(ANSWER_TIMEOUT, batch.next()).await.map_err(text)? {
        let message = message.map_err(text)?;
        is_exhausted = message.info().map_err(text)?.pending == 0;
        messages.push(message);
    }
    Ok((messages, is_exhausted))
}

/// All events, in order. A consumer with a filter would not tell up to which position it has delivered everything: what is
/// stored is not pending there at once.
pub(super) struct Source {
    client: Client,
    stream: String,
    root: String,
    consumer: Option<(Consumer<pull::Config>, Option<String>)>,
    fetched_at: Instant,
    /// Everything up to here was read.
    complete: u64,
}

impl Source {
    /// The events after position `after`.
    pub(super) fn new(client: Client, stream: String, root: String, after: u64) -> Source {
        Source { client, stream, root, consumer: None, fetched_at: Instant::now(), complete: after }
    }

    /// The next events, in order, of those up to the stream's last one, and up to which position these are all.
    ///
    /// # Errors
    /// If the stream cannot be read.
    pub(super) async fn next(&mut self, info: &StreamInfo) -> Result<(Vec<StreamEvent>, u64), String> {
        let (mut events, mut bytes) = (Vec::new(), 0);
        while self.complete < info.last && bytes < MAX_BATCH_BYTES {
            let messages = self.fetch(info).await?;
            if messages.is_empty() {
                break;
            }
            for message in messages {
                let (position, published) = {
                    let info = message.info().map_err(text)?;
                    (info.stream_sequence, info.published)
                };
                // A consumer that moved to another server begins anew.
                if position <= self.complete {
                    continue;
                }
                self.complete = position;
                let event = event(&self.root, position, millis(published), message.message);
                bytes += event.as_ref().map_or(0, StreamEvent::bytes);
                events.extend(event);
            }
        }
        Ok((events, self.complete))
    }

    async fn fetch(&mut self, info: &StreamInfo) -> Result<Vec<jetstream::Message>, String> {
        let is_usable = |own: &(_, Option<String>)| own.1 == info.leader;
        if self.fetched_at.elapsed() > CONSUMER_IDLE || !self.consumer.as_ref().is_some_and(is_usable) {
            if let Some((consumer, _)) = self.consumer.take() {
                delete(&self.client, &self.stream, &consumer).await;
            }
            let leader = info.leader.as_deref();
            let consumer = consumer(&self.client, &self.stream, "", self.complete + 1, false, leader).await?;
            self.consumer = Some((consumer, info.leader.clone()));
        }
        let Some((consumer, _)) = &self.consumer else { return Ok(Vec::new()) };
        let (messages, _) = fetch(consumer, FETCH).await?;
        self.fetched_at = Instant::now();
        Ok(messages)
    }
}

fn event(root: &str, position: u64, at_ms: u64, message: async_nats::Message) -> Option<StreamEvent> {
    let below = message.subject.strip_prefix(root)?.strip_prefix('.')?.to_owned();
    let own = message.headers?;
    let headers =
        KEPT_HEADERS.into_iter().filter_map(|name| Some((name, own.get(name)?.as_str().to_owned())));
    let headers: Vec<_> = headers.collect();
    // Somebody else's.
    headers.iter().find(|(name, _)| *name == wire::EVENT_NAME)?;
    Some(StreamEvent { position, below, at_ms, headers, body: message.payload })
}
