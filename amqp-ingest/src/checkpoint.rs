//! What identifies an event on its way through the ingest, and how far a queue was acknowledged.
//!
//! RabbitMQ gives a message no identity that survives a redelivery. The ingest therefore numbers the events of a queue,
//! and stores the number of the last acknowledged one in RabbitMQ, in one transaction with the acknowledgement
//! (`Checkpoint`). The stream contains the number of each event ([`EventId`]). Whoever consumes the queue next
//! compares the two, and knows how many of the redelivered events are stored already.

use std::fmt;

use blackhole_common::chance;
use serde::{Deserialize, Serialize};

/// Half of the SHA-256 of what the publisher gave the event: equal for equal events, and for every delivery of one.
pub type Digest = u128;

/// The id of an event: the header `Nats-Msg-Id`. Every copy of one delivery has the same id, whichever ingest publishes
/// it; equal events have different ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventId {
    /// Identifies the sequence of numbers: random, chosen when no checkpoint is known.
    pub epoch: u64,
    /// The event's number in its queue.
    pub number: u64,
    /// The digest of the event.
    pub digest: Digest,
}

/// The last event of a queue that was acknowledged to the broker, or that is known to be stored with all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    /// See [`EventId::epoch`].
    pub(crate) epoch: u64,
    /// See [`EventId::number`].
    pub(crate) number: u64,
    /// The event's position in the stream, or an earlier one: that of no later event is before it.
    pub(crate) sequence: u64,
    /// Identifies the stream: one that was deleted and made again counts its positions anew.
    pub(crate) stream: u64,
}

impl Checkpoint {
    /// That of a queue of which nothing is acknowledged: it only says in which epoch events are numbered.
    pub(crate) fn first() -> Checkpoint {
        Checkpoint { epoch: chance::random(), number: 0, sequence: 0, stream: 0 }
    }

    /// Whether it is the [first](Checkpoint::first).
    pub(crate) fn is_first(&self) -> bool {
        self.number == 0
    }

    /// Reads what is stored at the broker. Somebody else may have published anything there; no queue has had that many events.
    pub(crate) fn parse(message: &[u8]) -> Option<Checkpoint> {
        serde_json::from_slice(message)
            .ok()
            .filter(|checkpoint: &Checkpoint| checkpoint.number < u64::MAX / 2)
    }

    /// As it is stored at the broker.
    pub(crate) fn to_json(self) -> Vec<u8> {
        serde_json::to_vec(&self).unwrap_or_default()
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}-{:032x}", self.epoch, self.number, self.digest)
    }
}

impl EventId {
    /// Parses an id. Earlier releases wrote the digest alone: then `Err` has it. `None` for anything else.
    pub fn parse(text: &str) -> Option<Result<EventId, Digest>> {
        let hexadecimal = |text: &str, digits: usize| {
            (text.len() == digits).then(|| u128::from_str_radix(text, 16).ok()).flatten()
        };
        let Some((epoch, rest)) = text.split_once('-') else { return hexadecimal(text, 32).map(Err) };
        let (number, digest) = rest.split_once('-')?;
        Some(Ok(EventId {
            epoch: u64::try_from(hexadecimal(epoch, 16)?).ok()?,
            number: number.parse().ok()?,
            digest: hexadecimal(digest, 32)?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_parsed_as_they_are_written() {
        let id = EventId { epoch: 0xa1, number: 17, digest: 0xb2 };
        let text = id.to_string();
        assert_eq!(text, "00000000000000a1-17-000000000000000000000000000000b2");
        assert_eq!(EventId::parse(&text), Some(Ok(id)));
        assert_eq!(EventId::parse("1f90a08f195e2d0c018b771bf6f40f76").map(|id| id.is_err()), Some(true));
        for text in ["", "x", "a1-17-b2", &text[1..], &text[..40], "1f90a08f195e2d0c018b771bf6f40f7g"] {
            assert_eq!(EventId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn checkpoints_survive_being_stored() {
        let checkpoint = Checkpoint { epoch: u64::MAX, number: 2, sequence: 3, stream: 4 };
        assert_eq!(Checkpoint::parse(&checkpoint.to_json()), Some(checkpoint));
        assert_eq!(Checkpoint::parse(b"{}"), None);
        assert_eq!(Checkpoint::parse(&Checkpoint { number: u64::MAX, ..checkpoint }.to_json()), None);
    }
}
