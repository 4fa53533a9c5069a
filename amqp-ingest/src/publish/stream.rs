//! The stream: created where it is missing, updated where it differs, removed where there is to be no history.
//!
//! What an operator has added to the stream (a description, a placement, …) stays as it is.

use std::time::{Duration, Instant};

use async_nats::jetstream::{
    self, ErrorCode,
    response::Response,
    stream::{Config, DiscardPolicy, Republish, RetentionPolicy, StorageType},
};
use blackhole_common::wire::Subjects;
use serde::Deserialize;

use super::{answer::NO_RESPONDERS, connection::Connection};
use crate::{
    config::{HistoryConfig, Storage},
    error::IngestError,
};

/// How long the stream recognises an event by its id: longer than a broker takes to deliver again.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// A stream that a cluster does not find is asked for again, for this long. A server that was just elected to lead the
/// cluster knows no stream until it has read what was decided before it; a stream that is made then takes the place of
/// the one that is there, and its readers lose their places.
const MISSED_FOR: Duration = Duration::from_secs(5);
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(250);

/// What JetStream tells of a stream, as far as it matters (NATS ADR-31, `$JS.API.STREAM.*`).
#[derive(Deserialize)]
struct Told {
    #[serde(default)]
    config: Config,
}

/// Makes the stream what the configuration says.
pub(super) async fn ensure(
    connection: &mut Connection,
    history: &HistoryConfig,
    subjects: &Subjects,
) -> Result<(), IngestError> {
    let stream = subjects.stream();
    let (verb, wanted) = match find(connection, &stream).await? {
        Ok(Told { config }) => {
            let wanted = configured(config.clone(), history, subjects);
            if config == wanted {
                return Ok(());
            }
            ("UPDATE", wanted)
        }
        Err(error) if is_missing(&error) => ("CREATE", configured(fresh(), history, subjects)),
        Err(error) => return Err(IngestError::Stream { stream, reason: error.to_string() }),
    };
    let wanted = serde_json::to_vec(&wanted)
        .map_err(|error| IngestError::Stream { stream: stream.clone(), reason: error.to_string() })?;
    match ask(connection, verb, &stream, &wanted).await? {
        Ok(_) => {
            tracing::info!(stream, "made the stream what the configuration says");
            Ok(())
        }
        Err(error) => Err(refused(stream, &error)),
    }
}

/// What no other ingest asks for: where two ask for the same before a cluster has decided, its servers do not agree on
/// when the stream was made (nats-server 2.9.10), and by that cursors tell which stream is theirs.
fn fresh() -> Config {
    let description = format!("KAZOO's events for Blackhole, since {:016x}", rand::random::<u64>());
    Config { description: Some(description), ..Config::default() }
}

/// Asks what the stream is, until it is known or surely missing.
async fn find(
    connection: &mut Connection,
    stream: &str,
) -> Result<Result<Told, jetstream::Error>, IngestError> {
    let began = Instant::now();
    loop {
        match ask(connection, "INFO", stream, b"").await? {
            Err(error) if is_missing(&error) && connection.is_clustered() && began.elapsed() < MISSED_FOR => {
                tokio::time::sleep(ASK_AGAIN_AFTER).await;
            }
            told => return Ok(told),
        }
    }
}

fn is_missing(error: &jetstream::Error) -> bool {
    error.error_code() == ErrorCode::STREAM_NOT_FOUND
}

/// Takes the stream away: where there is no history, one that stays would only look like it.
pub(super) async fn remove(connection: &mut Connection, subjects: &Subjects) -> Result<(), IngestError> {
    const NONE_THERE: [ErrorCode; 3] = [
        ErrorCode::STREAM_NOT_FOUND,
        ErrorCode::JETSTREAM_NOT_ENABLED,
        ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT,
    ];
    let stream = subjects.stream();
    match ask(connection, "DELETE", &stream, b"").await {
        Ok(Ok(_)) => tracing::info!(stream, "removed the stream: history.max_age is 0s"),
        Ok(Err(error)) if NONE_THERE.contains(&error.error_code()) => {}
        Ok(Err(error)) => return Err(IngestError::Stream { stream, reason: error.to_string() }),
        // A server without JetStream has none.
        Err(IngestError::NoJetStream) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Asks JetStream about the stream, or to do something with it.
async fn ask(
    connection: &mut Connection,
    verb: &str,
    stream: &str,
    payload: &[u8],
) -> Result<Result<Told, jetstream::Error>, IngestError> {
    let answer = connection.request(&format!("$JS.API.STREAM.{verb}.{stream}"), payload).await?;
    if answer.status() == Some(NO_RESPONDERS) {
        return Err(IngestError::NoJetStream);
    }
    match serde_json::from_slice(&answer.payload) {
        Ok(Response::Ok(told)) => Ok(Ok(told)),
        Ok(Response::Err { error }) => Ok(Err(error)),
        Err(error) => Err(IngestError::Stream { stream: stream.to_owned(), reason: error.to_string() }),
    }
}

/// `config` with everything set that the services rely on.
fn configured(config: Config, history: &HistoryConfig, subjects: &Subjects) -> Config {
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
        // Checked with the configuration to fit.
        max_bytes: i64::try_from(history.max_bytes.as_u64()).unwrap_or(i64::MAX),
        max_messages: -1,
        max_messages_per_subject: -1,
        max_message_size: -1,
        max_consumers: config_max_consumers(&config),
        storage: match history.storage {
            Storage::File => StorageType::File,
            Storage::Memory => StorageType::Memory,
        },
        num_replicas: history.replicas,
        duplicate_window: DUPLICATE_WINDOW.min(history.max_age),
        allow_direct: true,
        no_ack: false,
        ..config
    }
}

/// A stream's limit of consumers cannot be changed; a new one has none.
fn config_max_consumers(present: &Config) -> i32 {
    if present.name.is_empty() { -1 } else { present.max_consumers }
}

fn refused(stream: String, error: &jetstream::Error) -> IngestError {
    let reason = error.to_string();
    if is_passing(error) {
        IngestError::Stream { stream, reason }
    } else {
        IngestError::StreamRefused { stream, reason }
    }
}

/// JetStream is there but not able: a cluster without a leader, a server that is still starting. Or another ingest was
/// faster.
fn is_passing(reason: &jetstream::Error) -> bool {
    matches!(
        reason.error_code(),
        ErrorCode::CLUSTER_NOT_AVAILABLE | ErrorCode::CLUSTER_NOT_LEADER | ErrorCode::STREAM_NAME_EXIST
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_operator_added_stays() {
        let subjects = Subjects::new("blackhole.v1");
        let fresh = configured(Config::default(), &HistoryConfig::default(), &subjects);
        assert_eq!(fresh.name, "BLACKHOLE_V1");
        assert_eq!(fresh.subjects, ["blackhole.v1.ingest.>"]);
        assert_eq!(fresh.duplicate_window, DUPLICATE_WINDOW);
        let described = Config { description: Some("ours".into()), max_consumers: 9, ..fresh };
        assert_eq!(configured(described.clone(), &HistoryConfig::default(), &subjects), described);
        let short = HistoryConfig { max_age: Duration::from_secs(30), ..HistoryConfig::default() };
        let changed = configured(described, &short, &subjects);
        assert_eq!((changed.max_age, changed.duplicate_window), (short.max_age, short.max_age));
        assert_eq!(changed.description.as_deref(), Some("ours"));
    }
}
