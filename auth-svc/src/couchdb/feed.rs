//! Follows the changes of a database: reads it whole, then its changes feed, and again whenever that is necessary.
//!
//! A feed sends a line break every 4 s, so that HAProxy does not cut it and a dead connection is noticed. When it is lost,
//! the next one begins at the last position; that may be at another node. Everything is read anew if
//!
//! - the position is refused,
//! - the database is another one than before (`instance_start_time`),
//! - the feed ends regularly, as it does when the database is deleted. One that is made again would accept the old position.

use std::{future::Future, sync::Arc, time::Duration};

use blackhole_common::{backoff::Backoff, readiness::Latch};
use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

use super::{
    client::{Client, CouchError, encoded},
    documents::{self, Change, DatabaseInfo, Line},
};
use crate::claims::unix_now;

/// HAProxy usually cuts connections that are silent for 12 s.
const HEARTBEAT_MS: u64 = 4000;
/// A feed that is silent for this long is dead.
const SILENCE: Duration = Duration::from_secs(10);
/// Lines have an id, a position and a revision: less than 1 KiB.
const MAX_LINE_BYTES: usize = 1024 * 1024;
/// How long further changes are waited for, to be read together, and how many bytes of them.
const GATHER: Duration = Duration::from_millis(10);
const MAX_GATHERED_BYTES: usize = 512 * 1024;
/// After this many failures in a row the position may be the reason.
const MAX_FAILURES: u32 = 3;

/// What is read from a database, and kept current.
pub trait Follower: Send + Sync + 'static {
    /// The name of the database.
    const DATABASE: &'static str;

    /// Reads everything that is needed. What is known already may be newer than what a node answers, except in an `other`
    /// database.
    ///
    /// # Errors
    /// If it cannot be read. It is tried again.
    fn load(&self, other: bool) -> impl Future<Output = Result<(), CouchError>> + Send;

    /// Reads what has changed. Returns once that is in force.
    ///
    /// # Errors
    /// If it cannot be read. The same changes will come again.
    fn apply(&self, changes: Vec<Change>) -> impl Future<Output = Result<(), CouchError>> + Send;
}

/// What others see of a database that is followed.
#[derive(Clone, Debug)]
pub struct Followed {
    /// Whether it was read.
    loaded: watch::Sender<bool>,
    /// The same, for readiness.
    ready: Latch,
    /// Whether its changes come.
    current: Latch,
    /// When something came last, in Unix seconds.
    heard_at: Gauge,
}

impl Followed {
    /// A database that was not read yet. `current` tells whether its changes come, `heard_at` when something came last.
    pub fn new(ready: Latch, current: Latch, heard_at: Gauge) -> Followed {
        Followed { loaded: watch::Sender::new(false), ready, current, heard_at }
    }

    /// Waits until it was read.
    pub async fn loaded(&self) {
        // The sender is kept.
        let _ = self.loaded.subscribe().wait_for(|loaded| *loaded).await;
    }
}

/// Where a feed goes on.
struct Position {
    since: String,
}

/// The database that was read last.
struct Read {
    /// What identifies it, if it says so.
    instance: Option<String>,
    /// Whether it may have been replaced by another that does not say so.
    is_doubtful: bool,
}

impl Read {
    /// Whether a database is another one than this, or may be.
    fn is_other(&self, instance: Option<&str>) -> bool {
        // Releases that do not identify databases say 0.
        let is_told = instance.is_some_and(|instance| instance.trim_matches('"') != "0");
        self.instance.as_deref() != instance || (self.is_doubtful && !is_told)
    }
}

/// How a feed has ended.
enum Ended {
    /// By itself.
    Regularly,
    /// It was never accepted.
    Refused(CouchError),
    /// For another reason.
    Lost(CouchError),
}

/// Follows a database without end.
pub async fn follow<F: Follower>(client: Arc<Client>, follower: Arc<F>, followed: Followed) {
    let mut backoff = Backoff::for_brokers();
    let mut position = None;
    let mut failures = 0;
    // The database that was read last, and whether it may have been replaced since.
    let mut read = Read { instance: None, is_doubtful: false };
    loop {
        match run(&client, &*follower, &followed, &mut position, &mut backoff, &mut read).await {
            Ended::Regularly => {
                tracing::warn!(
                    database = F::DATABASE,
                    "the feed of changes has ended, reading everything again"
                );
                (position, read.is_doubtful) = (None, true);
            }
            Ended::Refused(error) => {
                failures += 1;
                lost::<F>(&followed, &error);
                if matches!(error, CouchError::Status { status: 400 | 404, .. }) || failures >= MAX_FAILURES {
                    (position, failures) = (None, 0);
                }
            }
            Ended::Lost(error) => {
                failures = 0;
                lost::<F>(&followed, &error);
            }
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

/// Logs the loss, once.
fn lost<F: Follower>(followed: &Followed, error: &CouchError) {
    if followed.current.set(false) {
        tracing::warn!(database = F::DATABASE, %error, "lost couchdb's changes, trying again");
    } else {
        tracing::debug!(database = F::DATABASE, %error, "couchdb's changes are not available");
    }
}

/// Reads the database if there is no position, and follows its changes until they end.
async fn run<F: Follower>(
    client: &Client,
    follower: &F,
    followed: &Followed,
    position: &mut Option<Position>,
    backoff: &mut Backoff,
    read: &mut Read,
) -> Ended {
    let info = match database(client, F::DATABASE).await {
        Ok(info) => info,
        Err(error) => return Ended::Lost(error),
    };
    let instance = info.instance_start_time.map(|time| time.get().to_owned());
    let is_other = read.is_other(instance.as_deref());
    let since = match position {
        Some(position) if !is_other => position.since.clone(),
        _ => {
            if let Err(error) = follower.load(is_other).await {
                return Ended::Lost(error);
            }
            let since = info.update_seq.text();
            *position = Some(Position { since: since.clone() });
            *read = Read { instance, is_doubtful: false };
            followed.ready.set(true);
            followed.loaded.send_replace(true);
            since
        }
    };
    let mut body = match changes(client, F::DATABASE, &since).await {
        Ok(body) => body,
        Err(error) => return Ended::Refused(error),
    };
    if followed.current.set(true) {
        tracing::info!(database = F::DATABASE, "following couchdb's changes");
    }
    let cut = |reason: &str| {
        let path = format!("/{}/_changes", F::DATABASE);
        Ended::Lost(CouchError::Malformed { path, reason: reason.to_owned() })
    };
    let mut buffer = BytesMut::new();
    loop {
        followed.heard_at.set(i64::try_from(unix_now()).unwrap_or(i64::MAX));
        let frame = match timeout(SILENCE, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return cut(&error.to_string()),
            Ok(None) => return cut("the connection was closed"),
            Err(_) => return cut("silent for 10 s"),
        };
        let Ok(data) = frame.into_data() else { continue };
        buffer.extend_from_slice(&data);
        // Of many changes, more are asked about at once.
        let until = Instant::now() + GATHER;
        while buffer.len() < MAX_GATHERED_BYTES {
            let Ok(Some(Ok(frame))) = timeout_at(until, body.frame()).await else { break };
            buffer.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new()));
        }
        let (changes, ended) = match take_lines(&mut buffer) {
            Ok(lines) => lines,
            Err(reason) => return cut(&reason),
        };
        if let Some(since) = changes.last().map(|change| change.sequence.text()) {
            if let Err(error) = follower.apply(changes).await {
                return Ended::Lost(error);
            }
            *position = Some(Position { since });
        }
        backoff.reset();
        if ended {
            followed.current.set(false);
            return Ended::Regularly;
        }
    }
}

/// Takes the complete lines from a buffer, and says whether one of them ends the feed.
fn take_lines(buffer: &mut BytesMut) -> Result<(Vec<Change>, bool), String> {
    let mut changes = Vec::new();
    while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
        let text = buffer.split_to(end);
        buffer.advance(1);
        if text.trim_ascii().is_empty() {
            continue;
        }
        match documents::line(&text)? {
            Line::Change(change) => changes.push(change),
            Line::End => return Ok((changes, true)),
        }
    }
    if buffer.len() > MAX_LINE_BYTES {
        return Err("a line is too long".into());
    }
    Ok((changes, false))
}

/// The feed of the changes of a database after a position. CouchDB 2 and BigCouch begin their answer with its first line, which
/// is a heartbeat if nothing changes.
///
/// # Errors
/// If it does not begin.
pub async fn changes(client: &Client, database: &str, since: &str) -> Result<Incoming, CouchError> {
    let since = encoded(since);
    let path = format!("/{database}/_changes?feed=continuous&heartbeat={HEARTBEAT_MS}&since={since}");
    client.stream(&path, SILENCE).await
}

/// What a database says about itself.
///
/// # Errors
/// If it cannot be asked, or does not exist.
pub async fn database(client: &Client, name: &str) -> Result<DatabaseInfo, CouchError> {
    let path = format!("/{name}");
    let json = client.get(&path).await?.ok_or_else(|| missing(client, &path))?;
    serde_json::from_slice(&json).map_err(|error| CouchError::Malformed { path, reason: error.to_string() })
}

/// A database is missing.
pub(super) fn missing(client: &Client, path: &str) -> CouchError {
    let server = client.servers().collect::<Vec<_>>().join(", ");
    CouchError::Status { server, path: path.to_owned(), status: 404 }
}

#[cfg(test)]
mod tests {
    use super::{super::documents::Revision, *};

    #[test]
    fn lines_are_taken_once_they_are_complete() {
        let mut buffer = BytesMut::from(
            "\n{\"seq\":[5,\"g1\"],\"id\":\"a\",\"changes\":[{\"rev\":\"3-x\"}]}\n\n{\"seq\":\"9-g\",\"id\":\"b\",\"changes\":[{\"rev\":\"4-x\"}],\"deleted\":true}\n{\"last",
        );
        let (changes, ended) = take_lines(&mut buffer).unwrap();
        let read: Vec<_> = changes
            .iter()
            .map(|change| (change.sequence.text(), change.id.as_str(), change.revision, change.is_deleted))
            .collect();
        let [third, fourth] = ["3-x", "4-x"].map(Revision::of);
        assert_eq!(
            read,
            [("[5,\"g1\"]".to_owned(), "a", third, false), ("9-g".to_owned(), "b", fourth, true)]
        );
        assert!(!ended);
        assert_eq!(&buffer[..], b"{\"last");
        buffer.extend_from_slice(b"_seq\":7,\"pending\":0}\n");
        assert!(matches!(take_lines(&mut buffer), Ok((changes, true)) if changes.is_empty()));
        buffer.extend_from_slice(b"<html>\n");
        assert!(take_lines(&mut buffer).is_err());
        let mut endless = BytesMut::from(&vec![b'x'; MAX_LINE_BYTES + 1][..]);
        assert!(take_lines(&mut endless).is_err());
    }
}
