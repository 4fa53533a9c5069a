//! Creates, updates or removes the stream to match the configuration.
//!
//! Only the ingest that carries events changes a stream. One that stands by may be of another release or configuration:
//! if both put their settings right, the stream would change to and fro.
//!
//! Other settings of the stream, such as a description or a placement added by an operator, stay as they are.

use std::time::Duration;

use async_nats::jetstream::{
    self, ErrorCode,
    response::Response,
    stream::{Config, DiscardPolicy, Republish, RetentionPolicy, StorageType},
};
use blackhole_common::{chance, clock, nats::protocol::Message as Reply, wire::Subjects};
use serde::Deserialize;

use super::{connection::Connection, puback::NO_RESPONDERS};
use crate::{
    config::{HistoryConfig, Storage},
    error::IngestError,
};

/// How long a new stream detects copies of one delivery that come from two connections at once. Nothing depends on it
/// otherwise, so an existing stream keeps its own.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// How long a clustered stream must stay missing before it is created. A newly elected cluster leader does not know any
/// stream until it has caught up; a stream created before that would replace the existing one and invalidate cursors.
const MISSING_TIMEOUT: Duration = Duration::from_secs(5);
const MISSING_RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// JetStream's reply about a stream, as far as needed (`$JS.API.STREAM.*`).
#[derive(Deserialize)]
struct StreamInfo {
    #[serde(default)]
    config: Config,
    #[serde(default)]
    created: String,
    #[serde(default)]
    state: State,
}

/// The stream's state, as far as needed.
#[derive(Default, Deserialize)]
struct State {
    #[serde(default)]
    first_seq: u64,
    #[serde(default)]
    last_seq: u64,
    #[serde(default)]
    bytes: u64,
}

/// Which stream it is, and its first and last position.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamState {
    /// Identifies the stream.
    pub(super) id: u64,
    /// The position of the first event. It follows `last` if there is none.
    pub(super) first: u64,
    /// The position of the last event.
    pub(super) last: u64,
}

/// The state of the stream.
///
/// # Errors
/// [`IngestError::Stream`], and those of the connection.
pub(super) async fn state(
    connection: &mut Connection,
    subjects: &Subjects,
) -> Result<StreamState, IngestError> {
    let stream = subjects.stream();
    match request(connection, "INFO", &stream, b"").await? {
        Ok(StreamInfo { created, state, .. }) => {
            Ok(StreamState { id: identity(&created), first: state.first_seq, last: state.last_seq })
        }
        Err(error) => Err(IngestError::Stream { stream, reason: error.to_string() }),
    }
}

/// A number for the time of creation (FNV-1a).
fn identity(created: &str) -> u64 {
    created
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Whose settings the stream has.
#[derive(Debug)]
pub(super) enum Settings {
    /// As configured here: what the server has accepted, or nothing without history.
    Own(Option<Box<Config>>),
    /// Others, which the ingest that carries events may have given it.
    Others,
}

/// Creates the stream if it is missing. If this ingest `is_active`, also updates a stream that differs from the
/// configuration, or removes it if there is no history.
pub(super) async fn settle(
    connection: &mut Connection,
    history: &HistoryConfig,
    subjects: &Subjects,
    is_active: bool,
) -> Result<Settings, IngestError> {
    if !history.is_off() {
        return ensure(connection, history, subjects, is_active).await;
    }
    if !is_active {
        return Ok(Settings::Others);
    }
    remove(connection, subjects).await?;
    Ok(Settings::Own(None))
}

async fn ensure(
    connection: &mut Connection,
    history: &HistoryConfig,
    subjects: &Subjects,
    is_active: bool,
) -> Result<Settings, IngestError> {
    let stream = subjects.stream();
    let (verb, desired) = match find(connection, &stream).await? {
        Ok(StreamInfo { config, .. }) => {
            if let Some(prefix) = other_prefix(&config, subjects) {
                return Err(IngestError::StreamOfOtherPrefix { stream, prefix });
            }
            let desired = desired_config(config.clone(), history, subjects);
            if config == desired {
                return Ok(Settings::Own(Some(Box::new(config))));
            }
            if !is_active {
                tracing::info!(
                    stream,
                    "the stream keeps its other settings until this ingest carries events"
                );
                return Ok(Settings::Others);
            }
            ("UPDATE", desired)
        }
        Err(error) if is_missing(&error) => ("CREATE", desired_config(new_config(), history, subjects)),
        Err(error) => return Err(IngestError::Stream { stream, reason: error.to_string() }),
    };
    let result = match save(connection, verb, &stream, &desired).await? {
        Err(error) if error.error_code() == ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED => {
            tracing::warn!(
                stream,
                replicas = desired.num_replicas,
                "a single NATS server keeps one copy: history.replicas is ignored until there is a cluster"
            );
            save(connection, verb, &stream, &Config { num_replicas: 1, ..desired }).await?
        }
        result => result,
    };
    match result {
        Ok(StreamInfo { config, .. }) => {
            tracing::info!(stream, "created or updated the stream to match the configuration");
            Ok(Settings::Own(Some(Box::new(config))))
        }
        Err(error) => Err(config_error(stream, &error)),
    }
}

/// The prefix of another deployment whose stream has the same name: `a.b`, `a_b` and `A.b` do.
fn other_prefix(config: &Config, subjects: &Subjects) -> Option<String> {
    let own = format!("{}.>", subjects.ingest());
    let mut prefixes = config.subjects.iter().filter_map(|subject| subject.strip_suffix(".ingest.>"));
    let of_same_name = |prefix: &&str| Subjects::new(prefix).stream() == subjects.stream();
    let is_other = |prefix: &&str| format!("{prefix}.ingest.>") != own;
    prefixes.find(|prefix| is_other(prefix) && of_same_name(prefix)).map(str::to_owned)
}

async fn save(
    connection: &mut Connection,
    verb: &str,
    stream: &str,
    config: &Config,
) -> Result<Result<StreamInfo, jetstream::Error>, IngestError> {
    let json = serde_json::to_vec(config)
        .map_err(|error| IngestError::Stream { stream: stream.to_owned(), reason: error.to_string() })?;
    request(connection, verb, stream, &json).await
}

/// How many bytes of events the stream holds, and how many it may hold, by the reply to [`Connection::ask_stream_info`].
pub(super) fn size(reply: &Reply) -> Option<(u64, i64)> {
    let StreamInfo { config, state, .. } = parse(reply, "").ok()?.ok()?;
    Some((state.bytes, config.max_bytes))
}

impl Settings {
    /// Whether they differ from the configuration here.
    pub(super) fn is_left_to_others(&self) -> bool {
        matches!(self, Settings::Others)
    }

    /// Compares them with the reply to [`Connection::ask_stream_info`].
    ///
    /// # Errors
    /// [`IngestError::StreamChanged`] if the stream is gone, or this ingest `is_active` and a setting on which the
    /// services rely has changed. On the next connection it is put right.
    pub(super) fn check(
        self,
        reply: &Reply,
        history: &HistoryConfig,
        subjects: &Subjects,
        is_active: bool,
    ) -> Result<Settings, IngestError> {
        let stream = subjects.stream();
        match (parse(reply, &stream)?, self) {
            (Ok(StreamInfo { config, .. }), Settings::Own(Some(accepted))) => {
                let replicas = accepted.num_replicas;
                let desired =
                    Config { num_replicas: replicas, ..desired_config(config.clone(), history, subjects) };
                if config == *accepted || config == desired {
                    Ok(Settings::Own(Some(accepted)))
                } else if is_active {
                    Err(IngestError::StreamChanged(stream))
                } else {
                    Ok(Settings::Others)
                }
            }
            (Err(error), _) if is_missing(&error) => Err(IngestError::StreamChanged(stream)),
            // Of an error, events tell whether it matters.
            (_, settings) => Ok(settings),
        }
    }
}

/// The configuration of a new stream, with a unique description. If two ingests create the same stream at once, the
/// servers of a cluster may disagree about its creation time (nats-server 2.9.10), by which cursors identify the
/// stream.
fn new_config() -> Config {
    let description = format!("KAZOO's events for Blackhole, since {:016x}", chance::random::<u64>());
    Config { description: Some(description), ..Config::default() }
}

/// Requests the stream's info, and retries while a cluster may not know the stream yet.
async fn find(
    connection: &mut Connection,
    stream: &str,
) -> Result<Result<StreamInfo, jetstream::Error>, IngestError> {
    let started = clock::now();
    loop {
        match request(connection, "INFO", stream, b"").await? {
            Err(error)
                if is_missing(&error)
                    && connection.is_clustered()
                    && clock::now() - started < MISSING_TIMEOUT =>
            {
                tokio::time::sleep(MISSING_RETRY_INTERVAL).await;
            }
            result => return Ok(result),
        }
    }
}

fn is_missing(error: &jetstream::Error) -> bool {
    error.error_code() == ErrorCode::STREAM_NOT_FOUND
}

/// Removes the stream: without history, a leftover stream would be misleading.
async fn remove(connection: &mut Connection, subjects: &Subjects) -> Result<(), IngestError> {
    const NO_STREAM: [ErrorCode; 3] = [
        ErrorCode::STREAM_NOT_FOUND,
        ErrorCode::JETSTREAM_NOT_ENABLED,
        ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT,
    ];
    let stream = subjects.stream();
    match request(connection, "DELETE", &stream, b"").await {
        Ok(Ok(_)) => tracing::info!(stream, "removed the stream: history.max_age is 0s"),
        Ok(Err(error)) if NO_STREAM.contains(&error.error_code()) => {}
        Ok(Err(error)) => return Err(IngestError::Stream { stream, reason: error.to_string() }),
        // Without JetStream there is no stream.
        Err(IngestError::NoJetStream) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Sends a stream request to JetStream.
async fn request(
    connection: &mut Connection,
    verb: &str,
    stream: &str,
    payload: &[u8],
) -> Result<Result<StreamInfo, jetstream::Error>, IngestError> {
    let reply = connection.request(&format!("$JS.API.STREAM.{verb}.{stream}"), payload).await?;
    parse(&reply, stream)
}

fn parse(reply: &Reply, stream: &str) -> Result<Result<StreamInfo, jetstream::Error>, IngestError> {
    if reply.status() == Some(NO_RESPONDERS) {
        return Err(IngestError::NoJetStream);
    }
    match serde_json::from_slice(&reply.payload) {
        Ok(Response::Ok(info)) => Ok(Ok(info)),
        Ok(Response::Err { error }) => Ok(Err(error)),
        Err(error) => Err(IngestError::Stream { stream: stream.to_owned(), reason: error.to_string() }),
    }
}

/// `config` with all settings that the services rely on.
fn desired_config(config: Config, history: &HistoryConfig, subjects: &Subjects) -> Config {
    let all = |root: String| format!("{root}.>");
    Config {
        name: subjects.stream(),
        subjects: vec![all(subjects.ingest())],
        republish: Some(Republish {
            source: all(subjects.ingest()),
            destination: all(subjects.event()),
            headers_only: false,
        }),
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::Old,
        max_age: history.max_age,
        // The configuration check guarantees that it fits.
        max_bytes: i64::try_from(history.max_bytes.as_u64()).unwrap_or(i64::MAX),
        max_messages: -1,
        max_messages_per_subject: -1,
        max_message_size: -1,
        max_consumers: max_consumers(&config),
        storage: match history.storage {
            Storage::File => StorageType::File,
            Storage::Memory => StorageType::Memory,
        },
        num_replicas: history.replicas,
        duplicate_window: duplicate_window(&config).min(history.max_age),
        allow_direct: true,
        no_ack: false,
        ..config
    }
}

fn duplicate_window(current: &Config) -> Duration {
    if current.duplicate_window.is_zero() { DUPLICATE_WINDOW } else { current.duplicate_window }
}

/// The consumer limit of an existing stream cannot be changed; a new stream has none.
fn max_consumers(current: &Config) -> i32 {
    if current.name.is_empty() { -1 } else { current.max_consumers }
}

fn config_error(stream: String, error: &jetstream::Error) -> IngestError {
    let reason = error.to_string();
    if is_transient(error) {
        IngestError::Stream { stream, reason }
    } else {
        IngestError::StreamConfigRefused { stream, reason }
    }
}

/// Whether a retry may succeed: the cluster has no leader, the server is starting, or another ingest was faster.
fn is_transient(error: &jetstream::Error) -> bool {
    matches!(
        error.error_code(),
        ErrorCode::CLUSTER_NOT_AVAILABLE | ErrorCode::CLUSTER_NOT_LEADER | ErrorCode::STREAM_NAME_EXIST
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_stream_has_all_required_settings() {
        let subjects = Subjects::new("blackhole.v1");
        let config = desired_config(new_config(), &HistoryConfig::default(), &subjects);
        assert_eq!(config.name, "BLACKHOLE_V1");
        assert_eq!(config.subjects, ["blackhole.v1.ingest.>"]);
        let republish = config.republish.unwrap();
        assert_eq!(republish.source, "blackhole.v1.ingest.>");
        assert_eq!(republish.destination, "blackhole.v1.event.>");
        assert!(!republish.headers_only);
        assert_eq!((config.max_age, config.max_bytes), (Duration::from_secs(600), 1 << 30));
        assert_eq!(config.duplicate_window, DUPLICATE_WINDOW);
        assert_eq!(config.max_consumers, -1);
        assert_ne!(new_config().description, new_config().description);
    }

    #[test]
    fn the_stream_is_that_of_the_contract() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/contract/v1/stream.json");
        let fixture: Config = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        let subjects = Subjects::new("blackhole.v1");
        assert_eq!(desired_config(Config::default(), &HistoryConfig::default(), &subjects), fixture);
        assert_eq!(
            desired_config(fixture.clone(), &HistoryConfig::default(), &subjects),
            fixture,
            "nothing to update"
        );
    }

    fn reply(payload: &serde_json::Value) -> Reply {
        let payload = serde_json::to_vec(payload).unwrap().into();
        Reply {
            subscription: 1,
            subject: Default::default(),
            headers: Default::default(),
            payload,
            reply: Default::default(),
        }
    }

    #[test]
    fn the_stream_of_another_prefix_is_not_taken_over() {
        let config =
            |prefix: &str| desired_config(new_config(), &HistoryConfig::default(), &Subjects::new(prefix));
        for (own, other) in [("a.b", "a_b"), ("a.b", "A.b"), ("a_b.c", "a.b_c")] {
            assert_eq!(other_prefix(&config(other), &Subjects::new(own)), Some(other.to_owned()));
        }
        assert_eq!(other_prefix(&config("a.b"), &Subjects::new("a.b")), None);
        let edited = Config { subjects: vec!["x".into()], ..config("a.b") };
        assert_eq!(other_prefix(&edited, &Subjects::new("a.b")), None, "it is put right");
    }

    #[test]
    fn the_size_of_the_stream_is_in_the_reply() {
        let config = Config { max_bytes: 99, ..Config::default() };
        let info = serde_json::json!({ "config": config, "state": { "bytes": 77 } });
        assert_eq!(size(&reply(&info)), Some((77, 99)));
        assert_eq!(size(&reply(&serde_json::json!({ "error": { "code": 500 } }))), None);
    }

    #[test]
    fn a_stream_that_is_gone_or_changed_is_noticed() {
        let (subjects, history) = (Subjects::new("blackhole.v1"), HistoryConfig::default());
        let accepted = desired_config(new_config(), &history, &subjects);
        let check = |reply: &Reply, is_active| {
            let settings = Settings::Own(Some(Box::new(accepted.clone())));
            settings.check(reply, &history, &subjects, is_active)
        };
        let with = |config: &Config| reply(&serde_json::json!({ "config": config }));
        for unchanged in
            [accepted.clone(), Config { description: Some("an operator's".into()), ..accepted.clone() }]
        {
            assert!(!check(&with(&unchanged), true).unwrap().is_left_to_others());
            assert!(!check(&with(&unchanged), false).unwrap().is_left_to_others());
        }
        for changed in
            [Config { republish: None, ..accepted.clone() }, Config { max_bytes: 5, ..accepted.clone() }]
        {
            assert!(check(&with(&changed), true).is_err());
            assert!(check(&with(&changed), false).unwrap().is_left_to_others(), "another ingest did this");
        }
        let missing =
            serde_json::json!({ "error": { "code": 404, "err_code": 10059, "description": "gone" } });
        for is_active in [true, false] {
            let result = check(&reply(&missing), is_active);
            assert!(matches!(result, Err(IngestError::StreamChanged(stream)) if stream == "BLACKHOLE_V1"));
        }
    }

    #[test]
    fn other_settings_of_an_existing_stream_are_preserved() {
        let subjects = Subjects::new("blackhole.v1");
        let new = desired_config(Config::default(), &HistoryConfig::default(), &subjects);
        let existing = Config { description: Some("ours".into()), max_consumers: 9, ..new };
        assert_eq!(desired_config(existing.clone(), &HistoryConfig::default(), &subjects), existing);
        let short = HistoryConfig { max_age: Duration::from_secs(30), ..HistoryConfig::default() };
        let updated = desired_config(existing.clone(), &short, &subjects);
        let expected = Config { max_age: short.max_age, duplicate_window: short.max_age, ..existing };
        assert_eq!(updated, expected);
    }
}
