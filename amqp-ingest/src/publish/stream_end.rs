//! Reads the ids of the events at the end of the stream.

use blackhole_common::{
    nats::protocol::Message,
    wire::{self, Subjects},
};
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Duration, timeout};

use super::{
    connection::Connection,
    source::Source,
    stream::{self, StreamState},
};
use crate::{
    checkpoint::{Digest, EventId},
    error::IngestError,
};

/// How long to wait for the next event.
const EVENT_TIMEOUT: Duration = Duration::from_secs(2);

/// The server deletes the consumer this long after it has lost its subscriber, in nanoseconds.
const CONSUMER_LIFETIME_NANOS: u64 = 5_000_000_000;

/// An event at the end of the stream.
struct StoredEvent<'m> {
    /// Its position.
    sequence: u64,
    /// Its id; the digest alone if an earlier release has stored it. `None` if it was published by somebody else.
    id: Option<Result<EventId, Digest>>,
    /// Its zone; empty if the broker has no name.
    zone: &'m str,
}

/// What was found at the end of the stream.
pub(super) struct StreamEnd {
    /// The stream.
    pub(super) stream: StreamState,
    /// Others publish into it too.
    pub(super) is_shared: bool,
}

/// Reads what the sources need to know. `last_stored` is the position of the last event of this ingest.
///
/// # Errors
/// Those of [`read`].
pub(super) async fn survey(
    connection: &mut Connection,
    subjects: &Subjects,
    sources: &mut [Source],
    last_stored: Option<u64>,
) -> Result<StreamEnd, IngestError> {
    let stream = stream::state(connection, subjects).await?;
    let from = sources.iter().map(|source| source.read_from(stream.id, stream.last)).min();
    let from = from.unwrap_or(stream.last + 1).max(stream.first);
    sources.iter_mut().for_each(|source| source.start_reading(stream.last));
    let mut is_shared = false;
    read(connection, &subjects.stream(), (from, stream.last), |StoredEvent { sequence, id, zone }| {
        let is_own = matches!(id, Some(Ok(id)) if sources.iter().any(|source| source.is_own(id.epoch)));
        is_shared |= !is_own && last_stored.is_some_and(|last| sequence > last);
        if let Some(id) = id {
            sources.iter_mut().for_each(|source| source.observe(sequence, id, zone));
        }
    })
    .await?;
    sources.iter_mut().for_each(Source::finish_reading);
    Ok(StreamEnd { stream, is_shared })
}

/// The reply to the creation of a consumer, as far as needed.
#[derive(Deserialize)]
struct Created {
    error: Option<async_nats::jetstream::Error>,
}

/// Calls `each` for the events from position `from` to position `last`, which is the last of the stream. Events that
/// have expired are left out.
///
/// # Errors
/// [`IngestError::Stream`], and the errors of the connection.
async fn read(
    connection: &mut Connection,
    stream: &str,
    (from, last): (u64, u64),
    mut each: impl FnMut(StoredEvent<'_>),
) -> Result<(), IngestError> {
    if from > last {
        return Ok(());
    }
    let deliver_subject = connection.subscribe_ending();
    let request = json!({
        "stream_name": stream,
        "config": {
            "deliver_subject": deliver_subject,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": from,
            "ack_policy": "none",
            "replay_policy": "instant",
            "headers_only": true,
            "inactive_threshold": CONSUMER_LIFETIME_NANOS,
        },
    });
    connection.send_request(&format!("$JS.API.CONSUMER.CREATE.{stream}"), request.to_string().as_bytes());
    let failed = |reason: String| IngestError::Stream { stream: stream.to_owned(), reason };
    // The server says with each event how many follow. A server that lags behind the leader knows less.
    let mut is_complete = false;
    loop {
        connection.flush().await?;
        let Some(message) = connection.next()? else {
            match timeout(EVENT_TIMEOUT, connection.fill()).await {
                Ok(filled) => filled?,
                Err(_) if is_complete && !connection.is_clustered() => break,
                Err(_) => return Err(failed("the server does not send its last events".into())),
            }
            continue;
        };
        if connection.is_answer(&message) {
            let created: Created =
                serde_json::from_slice(&message.payload).map_err(|error| failed(error.to_string()))?;
            if let Some(error) = created.error {
                return Err(failed(error.to_string()));
            }
            continue;
        }
        let position = position(&message.reply).filter(|_| connection.is_ending(&message));
        let Some((sequence, pending)) = position else { continue };
        each(StoredEvent {
            sequence,
            id: message.header(wire::MESSAGE_ID).and_then(EventId::parse),
            zone: zone(&message),
        });
        is_complete = pending == 0;
        if sequence >= last {
            break;
        }
    }
    connection.unsubscribe_ending();
    Ok(())
}

fn zone(message: &Message) -> &str {
    message.header(wire::ZONE).unwrap_or_default()
}

/// The position of an event in the stream and the number of events after it, from the subject for its acknowledgement:
/// `$JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<of consumer>.<time>.<pending>`, or with two more tokens after
/// `ACK` (domain, account) and possibly one at the end (NATS ADR-15).
fn position(reply: &[u8]) -> Option<(u64, u64)> {
    let tokens: Vec<&str> = std::str::from_utf8(reply).ok()?.split('.').collect();
    let first = if tokens.len() > 9 { 7 } else { 5 };
    let number = |index: usize| tokens.get(index)?.parse().ok();
    Some((number(first)?, number(first + 3)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_from_both_forms_of_the_reply_subject() {
        for (reply, expected) in [
            ("$JS.ACK.BLACKHOLE_V1.c.1.18348.7.1700000000.3", Some((18348, 3))),
            ("$JS.ACK.hub.account.BLACKHOLE_V1.c.1.18348.7.1700000000.3", Some((18348, 3))),
            ("$JS.ACK.hub.account.BLACKHOLE_V1.c.1.18348.7.1700000000.3.random", Some((18348, 3))),
            ("", None),
            ("_INBOX.x.1", None),
        ] {
            assert_eq!(position(reply.as_bytes()), expected, "{reply}");
        }
    }
}
