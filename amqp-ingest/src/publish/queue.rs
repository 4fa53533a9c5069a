//! The events that wait: what happens to each one from its arrival to its settlement.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::{
    ACK_TIMEOUT, CAUTIOUS_EVENTS, Publisher,
    connection::{Connection, TooLarge},
    pending::PendingEvent,
    puback::PubAck,
    settlement::{FromConsumer, Outcome, OutgoingEvent},
};
use crate::{body::Rejection, error::IngestError};

impl Publisher {
    pub(super) fn enqueue(&mut self, received: FromConsumer) {
        match received {
            FromConsumer::Began { source, checkpoint } => {
                // The broker delivers again what the previous session has left here.
                let published = self.pending.drain(..self.published).collect::<VecDeque<_>>();
                self.pending.retain(|pending| pending.event.source != source);
                let unpublished = std::mem::replace(&mut self.pending, published);
                self.pending.extend(unpublished);
                self.began.retain(|(other, _)| *other != source);
                self.began.push((source, checkpoint));
                self.must_read = true;
            }
            FromConsumer::Event(event) => self.pending.push_back(PendingEvent::new(event)),
        }
    }

    pub(super) fn publish_next(&mut self, connection: &mut Connection) -> Result<(), IngestError> {
        let (index, number) = (self.published, self.first_number + self.published as u64);
        let Some(pending) = self.pending.get_mut(index) else { return Ok(()) };
        let Some(source) = self.sources.get_mut(pending.event.source) else { return Ok(()) };
        self.published += 1;
        if pending.id.is_none() {
            let digest = pending.event.message.digest;
            let stored = if pending.event.redelivered {
                source.recognise(digest)
            } else {
                source.redeliveries_have_ended();
                None
            };
            if let Some(stored) = stored {
                pending.settle_as_stored(stored, self.stream, true, &self.metrics);
            } else if pending.event.settle_handle.is_abandoned() {
                // The broker delivers it again.
                pending.is_settled = true;
            }
            if pending.is_settled {
                self.remove_settled();
                return Ok(());
            }
            pending.id = Some(source.next_id(digest));
        }
        let Some(id) = pending.id else { return Ok(()) };
        pending.published_at = Some(Instant::now());
        let message = &pending.event.message;
        let queued = if self.history.is_off() {
            connection.publish_without_ack(message, id)
        } else {
            connection.publish(number, message, id, self.last_position)
        };
        match queued {
            Ok(()) => {
                self.last_position = self.last_position.map(|position| position + 1);
                Ok(())
            }
            Err(TooLarge { max_bytes }) => {
                let reason = format!("the server accepts at most {max_bytes} bytes (max_payload)");
                self.handle_puback(Some(number), PubAck::Rejected(Rejection::TooLarge, reason)).map(drop)
            }
        }
    }

    /// Without history: sends a barrier after the events published so far.
    pub(super) fn send_barrier(&mut self, connection: &mut Connection) {
        let next = self.first_number + self.published as u64;
        if self.barrier < next {
            self.barrier = next;
            connection.send_barrier(next);
        }
    }

    /// Without history: the server has processed every event before `number`. Returns whether there was one.
    pub(super) fn barrier_reached(&mut self, number: u64) -> Result<bool, IngestError> {
        let before = self.first_number;
        while self.first_number < number && self.published > 0 {
            self.handle_puback(Some(self.first_number), PubAck::Stored { duplicate: false, sequence: 0 })?;
        }
        Ok(self.first_number > before)
    }

    /// Handles the acknowledgement of event `number`. Returns whether the stream has stored the event.
    pub(super) fn handle_puback(&mut self, number: Option<u64>, puback: PubAck) -> Result<bool, IngestError> {
        let index = number
            .and_then(|number| number.checked_sub(self.first_number))
            .and_then(|index| usize::try_from(index).ok())
            .filter(|index| *index < self.published);
        let Some(pending) = index.and_then(|index| self.pending.get_mut(index)) else { return Ok(false) };
        let OutgoingEvent { message, settle_handle, .. } = &pending.event;
        let is_stored = match puback {
            PubAck::RetryLater(reason) => {
                self.cautious = CAUTIOUS_EVENTS;
                self.metrics.refusals.inc();
                return Err(IngestError::NotStored(reason));
            }
            PubAck::Changed(reason) => return Err(IngestError::StreamAhead(reason)),
            PubAck::Stored { duplicate, sequence } => {
                self.last_stored = Some(sequence);
                self.cautious = self.cautious.saturating_sub(1);
                if let Some(published_at) = pending.published_at {
                    self.metrics.ack_seconds.observe(published_at.elapsed().as_secs_f64());
                }
                let stored = pending.id.map(|id| (id, sequence));
                pending.settle_as_stored(stored, self.stream, duplicate, &self.metrics);
                true
            }
            PubAck::Rejected(rejection, reason) => {
                if let Some(suppressed) = self.rejection_log.permit() {
                    tracing::warn!(
                        subject = message.subject,
                        bytes = message.body.len(),
                        reason,
                        suppressed,
                        "rejected an event to the dead-letter exchange: the stream will never accept it"
                    );
                }
                settle_handle.settle(Outcome::Rejected(rejection));
                pending.is_settled = true;
                false
            }
        };
        self.remove_settled();
        Ok(is_stored)
    }

    /// Removes the settled events before the oldest unsettled one.
    fn remove_settled(&mut self) {
        while let Some(pending) = self.pending.pop_front_if(|pending| pending.is_settled) {
            self.first_number += 1;
            self.published -= 1;
            if let Some(source) = self.sources.get_mut(pending.event.source) {
                pending.checkpoint.into_iter().for_each(|checkpoint| source.settle(checkpoint));
            }
        }
    }

    pub(super) fn ack_deadline(&self) -> Instant {
        let oldest = self.pending.front().and_then(|pending| pending.published_at);
        oldest.unwrap_or_else(Instant::now) + ACK_TIMEOUT
    }

    /// Schedules all unsettled events for publishing again.
    pub(super) fn reset_connection_state(&mut self) {
        self.pending.retain(|pending| !pending.is_settled && !pending.event.settle_handle.is_abandoned());
        for pending in &mut self.pending {
            pending.published_at = None;
        }
        self.published = 0;
        self.first_number = 0;
        self.barrier = 0;
        self.must_read = true;
    }
}
