//! An event that is not settled, or not yet removed.

use tokio::time::Instant;

use super::{
    settlement::{Outcome, OutgoingEvent},
    stream::StreamState,
};
use crate::{
    checkpoint::{Checkpoint, EventId},
    metrics::Metrics,
};

/// An event between its arrival and the settlement of all events before it.
#[derive(Debug)]
pub(super) struct PendingEvent {
    /// The event.
    pub(super) event: OutgoingEvent,
    /// Its id, since it was first to be published.
    pub(super) id: Option<EventId>,
    /// A position before that of all events that come after it in the queue, if some of them are published before it.
    pub(super) overtaken_since: Option<u64>,
    /// It must not be acknowledged with a checkpoint: stored events without a number may come after it in the queue.
    pub(super) has_no_checkpoint: bool,
    /// It has waited for an account, or for earlier events of its call, on this connection.
    pub(super) has_waited: bool,
    /// When it was published on the current connection.
    pub(super) published_at: Option<Instant>,
    /// It asked for an acknowledgement; otherwise that of a later event of the same burst stands for it.
    pub(super) asks_for_ack: bool,
    /// Settled, but an older event is not.
    pub(super) is_settled: bool,
    /// Where it is stored.
    pub(super) checkpoint: Option<Checkpoint>,
}

impl PendingEvent {
    /// An event that has just arrived.
    pub(super) fn new(event: OutgoingEvent) -> PendingEvent {
        PendingEvent {
            event,
            id: None,
            overtaken_since: None,
            has_no_checkpoint: false,
            has_waited: false,
            published_at: None,
            asks_for_ack: false,
            is_settled: false,
            checkpoint: None,
        }
    }

    /// The stream has the event, with this id at this position. Without history there is no stream; without an id an
    /// earlier release has stored it.
    pub(super) fn settle_as_stored(
        &mut self,
        stored: Option<(EventId, u64)>,
        stream: Option<StreamState>,
        duplicate: bool,
        metrics: &Metrics,
    ) {
        metrics.published.inc();
        metrics.bytes.inc_by(self.event.message.body.len() as u64);
        if duplicate {
            metrics.duplicates.inc();
        }
        let stored = stored.filter(|_| !self.has_no_checkpoint);
        self.checkpoint = stored.zip(stream).map(|((id, sequence), stream)| Checkpoint {
            epoch: id.epoch,
            number: id.number,
            sequence: self.overtaken_since.map_or(sequence, |since| since.min(sequence)),
            stream: stream.id,
        });
        self.event.settle_handle.settle(Outcome::Stored(self.checkpoint));
        self.is_settled = true;
    }
}
