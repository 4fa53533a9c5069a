//! The stream: created where it is missing, updated where it differs, removed where there is to be no history.
//!
//! What an operator has added to the stream (a description, a placement, …) stays as it is.

use std::time::Duration;

use async_nats::{
    Client, RequestErrorKind,
    jetstream::{
        self, ErrorCode,
        context::{CreateStreamError, CreateStreamErrorKind, GetStreamErrorKind},
        stream::{Config, DiscardPolicy, Republish, RetentionPolicy, StorageType},
    },
};
use blackhole_common::wire::Subjects;
use serde::Deserialize;

use crate::{
    config::{HistoryConfig, Storage},
    error::IngestError,
};

/// How long the stream recognises an event by its id: longer than a broker takes to deliver again.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// Makes the stream what the configuration says.
pub(super) async fn ensure(
    client: &Client,
    history: &HistoryConfig,
    subjects: &Subjects,
) -> Result<(), IngestError> {
    let jetstream = jetstream::new(client.clone());
    let stream = subjects.stream();
    match jetstream.get_stream(&stream).await {
        Ok(present) => {
            let present = &present.cached_info().config;
            let wanted = configured(present.clone(), history, subjects);
            if *present == wanted {
                return Ok(());
            }
            jetstream.update_stream(&wanted).await.map_err(|error| refused(&stream, &error))?;
            tracing::info!(stream, "updated the stream to the configuration");
        }
        Err(error) => {
            match error.kind() {
                GetStreamErrorKind::JetStream(reason)
                    if reason.error_code() == ErrorCode::STREAM_NOT_FOUND => {}
                _ => return Err(IngestError::Stream { stream, reason: cause(&error) }),
            }
            let wanted = configured(Config::default(), history, subjects);
            jetstream.create_stream(wanted).await.map_err(|error| refused(&stream, &error))?;
            tracing::info!(stream, "created the stream");
        }
    }
    Ok(())
}

/// Takes the stream away: where there is no history, one that stays would only look like it.
pub(super) async fn remove(client: &Client, subjects: &Subjects) -> Result<(), IngestError> {
    #[derive(Deserialize)]
    struct Reply {
        error: Option<jetstream::Error>,
    }
    let stream = subjects.stream();
    let answer = match client.request(format!("$JS.API.STREAM.DELETE.{stream}"), "".into()).await {
        Ok(answer) => answer,
        // A server without JetStream has none.
        Err(error) if error.kind() == RequestErrorKind::NoResponders => return Ok(()),
        Err(error) => return Err(IngestError::Stream { stream, reason: error.to_string() }),
    };
    let reply: Reply = serde_json::from_slice(&answer.payload)
        .map_err(|error| IngestError::Stream { stream: stream.clone(), reason: error.to_string() })?;
    const NONE_THERE: [ErrorCode; 3] = [
        ErrorCode::STREAM_NOT_FOUND,
        ErrorCode::JETSTREAM_NOT_ENABLED,
        ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT,
    ];
    match reply.error {
        None => tracing::info!(stream, "removed the stream: history.max_age is 0s"),
        Some(error) if NONE_THERE.contains(&error.error_code()) => {}
        Some(error) => return Err(IngestError::Stream { stream, reason: error.to_string() }),
    }
    Ok(())
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

fn refused(stream: &str, error: &CreateStreamError) -> IngestError {
    match error.kind() {
        CreateStreamErrorKind::JetStream(reason) if !is_passing(&reason) => {
            IngestError::StreamRefused { stream: stream.to_owned(), reason: reason.to_string() }
        }
        _ => IngestError::Stream { stream: stream.to_owned(), reason: cause(error) },
    }
}

/// JetStream is there but not able: a cluster without a leader, a server that is still starting.
fn is_passing(reason: &jetstream::Error) -> bool {
    matches!(reason.error_code(), ErrorCode::CLUSTER_NOT_AVAILABLE | ErrorCode::CLUSTER_NOT_LEADER)
}

/// What lies below the client's own words.
fn cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
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
