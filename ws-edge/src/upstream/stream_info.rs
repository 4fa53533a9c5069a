//! The stream's state, as the server reports it: which stream it is, what it holds, and which server leads it.

use std::time::{Duration, SystemTime};

use async_nats::RequestErrorKind;
use blackhole_common::{nats::requests::Requests, wire::Subjects};
use bytes::Bytes;
use serde::Deserialize;
use thiserror::Error;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::protocol::cursor::StreamId;

/// About the largest event: nats-server's default `max_payload`.
const MAX_EVENT_BYTES: u64 = 1 << 20;

/// The stream cannot be read, or its state is not available, at the moment.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct StreamError(pub(super) String);

impl StreamError {
    /// With what went wrong.
    pub fn new(error: impl std::fmt::Display) -> StreamError {
        StreamError(error.to_string())
    }
}

/// The stream's state at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// Which stream it is.
    pub id: StreamId,
    /// When it was created.
    pub created: SystemTime,
    /// The position of its oldest event; one more than the newest if it is empty.
    pub first: u64,
    /// When its oldest event was stored; without meaning if it is empty.
    pub first_at: SystemTime,
    /// When its newest event was stored, which may have left it since.
    pub last_at: SystemTime,
    /// The position of its newest event.
    pub last: u64,
    /// How long it keeps events.
    pub max_age: Duration,
    /// It uses less than half of its bytes, and there is room for the largest event: events have left it by age only.
    pub is_roomy: bool,
    /// The server that leads it; `None` without replicas.
    pub leader: Option<String>,
}

/// The subject for questions about the stream.
pub(super) fn info_subject(subjects: &Subjects) -> String {
    format!("$JS.API.STREAM.INFO.{}", subjects.stream())
}

/// Asks the server; `None` if there is no stream.
///
/// # Errors
/// When there is no usable answer at the moment.
pub(crate) async fn ask(
    requests: &dyn Requests,
    subjects: &Subjects,
    limit: Duration,
) -> Result<Option<StreamInfo>, StreamError> {
    match requests.request(info_subject(subjects), Bytes::new(), limit).await {
        Ok(answer) => read(&answer),
        // A server without JetStream has no stream.
        Err(RequestErrorKind::NoResponders) => Ok(None),
        Err(error) => Err(StreamError::new(error)),
    }
}

/// Reads the server's answer.
///
/// # Errors
/// When it neither describes a stream nor says that there is none.
pub fn read(answer: &[u8]) -> Result<Option<StreamInfo>, StreamError> {
    #[derive(Deserialize)]
    struct Answer {
        created: Option<String>,
        state: Option<State>,
        config: Option<Config>,
        cluster: Option<Cluster>,
        error: Option<ApiError>,
    }
    #[derive(Deserialize)]
    struct State {
        bytes: u64,
        first_seq: u64,
        first_ts: String,
        last_seq: u64,
        last_ts: String,
    }
    #[derive(Deserialize)]
    struct Config {
        /// Nanoseconds.
        max_age: u64,
        max_bytes: i64,
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
    match serde_json::from_slice(answer).map_err(StreamError::new)? {
        Answer { created: Some(created), state: Some(state), config: Some(config), cluster, .. } => {
            // A single server reports itself as the leader of an unnamed group without replicas. No other server takes
            // over from it, and its end also ends the connection.
            let group = cluster.filter(|cluster| cluster.name.is_some() || !cluster.replicas.is_empty());
            let leader = match group {
                Some(Cluster { leader: Some(leader), .. }) if !leader.is_empty() => Some(leader),
                // A former leader that knows no successor yet: it may have fewer events than clients have seen.
                Some(_) => return Err(StreamError("the stream has no leader".to_owned())),
                None => None,
            };
            let time = |text: &str| OffsetDateTime::parse(text, &Rfc3339).map(SystemTime::from);
            Ok(Some(StreamInfo {
                id: StreamId::new(&created),
                created: time(&created).map_err(StreamError::new)?,
                first: state.first_seq,
                first_at: time(&state.first_ts).map_err(StreamError::new)?,
                last: state.last_seq,
                last_at: time(&state.last_ts).map_err(StreamError::new)?,
                max_age: Duration::from_nanos(config.max_age),
                is_roomy: u64::try_from(config.max_bytes).map_or(true, |max| is_roomy(state.bytes, max)),
                leader,
            }))
        }
        Answer { error: Some(ApiError { code: 404, .. }), .. } => Ok(None),
        Answer { error: Some(error), .. } => Err(StreamError(error.description)),
        _ => Err(StreamError("the stream's information cannot be read".to_owned())),
    }
}

/// Whether a stream that may have `max` bytes, and has fewer, cannot just have dropped an event for want of space.
fn is_roomy(bytes: u64, max: u64) -> bool {
    bytes < max / 2 && max - bytes > MAX_EVENT_BYTES
}

impl StreamInfo {
    /// Whether `reported` cannot be a later state of this stream, which already had an event at `position`.
    ///
    /// The servers of a cluster may disagree for a while. A leader that was frozen or cut off reports an old state until it
    /// learns of its successor. A newly elected leader of the cluster knows no streams until it has replayed the cluster's
    /// log; if asked to create the stream before that, it creates a new one.
    pub(super) fn is_contradicted(&self, reported: Option<&StreamInfo>, position: u64) -> bool {
        self.leader.is_some()
            && reported.is_none_or(|reported| reported.id != self.id || reported.last < position)
    }

    /// Whether all events after position `after` are still stored.
    pub(crate) fn reaches_back_to(&self, after: u64) -> bool {
        after.saturating_add(1) >= self.first
    }

    /// Whether all events published after `time` are still stored.
    ///
    /// The age of events that were dropped for space is unknown. So this holds only if an older event is still stored,
    /// nothing was ever dropped, or events are dropped by age only. An empty stream has had something after `time` unless
    /// its newest event is older.
    pub(crate) fn reaches_back_to_time(&self, time: SystemTime, now: SystemTime) -> bool {
        if time < self.created {
            return false;
        }
        if self.first > self.last {
            return self.last == 0 || self.last_at <= time;
        }
        let is_young = now.duration_since(time).is_ok_and(|age| age <= self.max_age);
        self.first <= 1 || self.first_at <= time || (is_young && self.is_roomy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SINGLE: &str = r#"{"type":"io.nats.jetstream.api.v1.stream_info_response","config":{"max_age":600000000000,"max_bytes":1073741824},"created":"2026-11-25T10:00:00.5Z","state":{"messages":3,"bytes":900,"first_seq":5,"first_ts":"2026-11-25T10:30:00Z","last_seq":7,"last_ts":"2026-11-25T10:31:00Z"},"cluster":{"leader":"NAME"}}"#;

    fn info() -> StreamInfo {
        read(SINGLE.as_bytes()).unwrap().unwrap()
    }

    fn minutes(info: &StreamInfo, after_creation: u64) -> SystemTime {
        info.created + Duration::from_secs(60 * after_creation)
    }

    #[test]
    fn a_servers_answer_is_read() {
        let info = info();
        assert_eq!((info.first, info.last, info.leader.as_deref()), (5, 7, None));
        assert_eq!(info.max_age, Duration::from_secs(600));
        let clustered = SINGLE.replace(r#""leader":"NAME""#, r#""leader":"n1","replicas":[{"name":"n2"}]"#);
        assert_eq!(read(clustered.as_bytes()).unwrap().unwrap().leader.as_deref(), Some("n1"));
        let leaderless = SINGLE.replace(r#""leader":"NAME""#, r#""name":"c","replicas":[{"name":"n2"}]"#);
        assert!(read(leaderless.as_bytes()).is_err());
        let unreplicated = SINGLE.replace(r#""leader":"NAME""#, r#""name":"c","leader":"n1""#);
        assert_eq!(read(unreplicated.as_bytes()).unwrap().unwrap().leader.as_deref(), Some("n1"));
        assert_eq!(read(br#"{"error":{"code":404,"err_code":10059}}"#).unwrap(), None);
        let error = read(br#"{"error":{"code":503,"description":"not now"}}"#).unwrap_err();
        assert_eq!(error.to_string(), "not now");
        assert!(read(b"{}").is_err() && read(b"nonsense").is_err());
    }

    #[test]
    fn only_a_cluster_can_contradict_itself() {
        let (single, mut clustered) = (info(), info());
        clustered.leader = Some("n1".to_owned());
        let other = StreamInfo { id: StreamId::new("another"), ..clustered.clone() };
        for (reported, position, contradicts) in [
            (Some(&clustered), 7, false),
            (Some(&clustered), 8, true),
            (Some(&other), 7, true),
            (None, 7, true),
        ] {
            assert_eq!(
                clustered.is_contradicted(reported, position),
                contradicts,
                "{reported:?} at {position}"
            );
            assert!(!single.is_contradicted(reported, position), "a single server is always right");
        }
    }

    #[test]
    fn it_reaches_back_to_its_oldest_event() {
        let info = info();
        assert!(info.reaches_back_to(4) && info.reaches_back_to(7) && info.reaches_back_to(u64::MAX));
        assert!(!info.reaches_back_to(3) && !info.reaches_back_to(0));
    }

    #[test]
    fn a_stream_is_roomy_if_even_the_largest_event_would_not_have_filled_it() {
        let mib = 1 << 20;
        assert!(is_roomy(40 * mib, 100 * mib) && is_roomy(0, 3 * mib));
        assert!(!is_roomy(50 * mib, 100 * mib), "it was fuller perhaps");
        assert!(!is_roomy(mib / 4, mib), "one event has made room");
    }

    #[test]
    fn it_reaches_back_to_a_time_if_no_later_event_can_have_been_dropped() {
        let mut info = info();
        let now = minutes(&info, 32);
        // Older than the oldest event, but younger than `max_age`, and events are dropped by age only.
        assert!(info.reaches_back_to_time(minutes(&info, 25), now));
        assert!(!info.reaches_back_to_time(minutes(&info, 20), now), "older than max_age");
        info.is_roomy = false;
        assert!(!info.reaches_back_to_time(minutes(&info, 25), now), "may have been dropped for space");
        assert!(info.reaches_back_to_time(minutes(&info, 31), now), "an older event is still stored");
        info.first = 1;
        assert!(info.reaches_back_to_time(minutes(&info, 1), now), "nothing was ever dropped");
        (info.first, info.is_roomy) = (8, true);
        assert!(
            !info.reaches_back_to_time(minutes(&info, 30), now),
            "its last events aged out or were purged"
        );
        assert!(info.reaches_back_to_time(minutes(&info, 31), now), "its last event is older");
        (info.first, info.last) = (1, 0);
        assert!(info.reaches_back_to_time(minutes(&info, 1), now), "it never had one");
        assert!(!info.reaches_back_to_time(info.created - Duration::from_secs(1), now), "before the stream");
    }
}
