//! The events that wait: what happens to each one from its arrival to its settlement.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::{
    ACK_TIMEOUT, CAUTIOUS_EVENTS, Publisher,
    connection::{Connection, Expected, TooLarge},
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
                if let Some(known) = self.sources.get_mut(source) {
                    let left = self.pending.iter().filter(|pending| pending.event.source == source);
                    let unsettled = left.filter(|pending| !pending.is_settled);
                    unsettled.filter_map(|pending| pending.id).for_each(|id| known.remember(id));
                }
                let published = self.pending.drain(..self.published).collect::<VecDeque<_>>();
                self.pending.retain(|pending| pending.event.source != source);
                let unpublished = std::mem::replace(&mut self.pending, published);
                self.pending.extend(unpublished);
                self.began.retain(|(other, _)| *other != source);
                self.began.push((source, checkpoint));
                self.forget_waiting(source);
                self.must_read = true;
            }
            FromConsumer::Event(event) => self.pending.push_back(PendingEvent::new(event)),
        }
    }

    /// Publishes what waits, until `max_published` events are published and not acknowledged.
    ///
    /// If positions are compared, only the last event of each burst asks for an acknowledgement. Each event names the one
    /// before it, so the stream has the last one only if it has all of them, one after the other.
    pub(super) async fn publish_waiting(
        &mut self,
        connection: &mut Connection,
        max_published: usize,
    ) -> Result<(), IngestError> {
        let mut next = self.next_to_publish(connection, max_published);
        while let Some(number) = next {
            next = self.next_to_publish(connection, max_published);
            let is_full = connection.is_full();
            self.publish(connection, number, next.is_none() || is_full || self.last_position.is_none());
            if is_full {
                connection.flush().await?;
            }
        }
        Ok(())
    }

    /// The number of the next event to publish. Events before it that need not be published are settled.
    fn next_to_publish(&mut self, connection: &Connection, max_published: usize) -> Option<u64> {
        while self.published < self.pending.len().min(max_published) {
            let (index, number) = (self.published, self.first_number + self.published as u64);
            let is_new = self.identify(index);
            if is_new && self.must_wait(index) {
                continue;
            }
            self.published += 1;
            if is_new {
                let Some(message) = self.pending.get(index).map(|pending| &pending.event.message) else {
                    continue;
                };
                let Err(TooLarge { max_bytes }) = connection.check_size(message) else { return Some(number) };
                self.reject(
                    index,
                    Rejection::TooLarge,
                    &format!("the server accepts at most {max_bytes} bytes (max_payload)"),
                );
            }
            self.remove_settled();
        }
        None
    }

    /// Gives an event its id. Returns whether it has to be published: it is settled if the stream has it already.
    pub(super) fn identify(&mut self, index: usize) -> bool {
        let Some(pending) = self.pending.get_mut(index) else { return false };
        let Some(source) = self.sources.get_mut(pending.event.source) else { return false };
        if pending.id.is_none() {
            let digest = pending.event.message.digest;
            let stored = if pending.event.redelivered {
                source.recognise(digest)
            } else {
                source.recognise_new(digest)
            };
            if let Some(stored) = stored {
                pending.settle_as_stored(stored, self.stream, true, &self.metrics);
            }
        }
        if pending.is_settled {
            return false;
        }
        // Also if it has an id, and was published on an earlier connection: its next delivery may get another one.
        if pending.event.settle_handle.is_abandoned() {
            pending.is_settled = true;
            return false;
        }
        if pending.id.is_none() {
            pending.overtaken_since = source.overtaken_since();
            pending.has_no_checkpoint = source.has_unnumbered();
            let id = source.next_id(pending.event.message.digest);
            if pending.overtaken_since.is_some() {
                source.overtake(id.number);
            }
            pending.id = Some(id);
        }
        true
    }

    fn publish(&mut self, connection: &mut Connection, number: u64, asks_for_ack: bool) {
        let Some(pending) = self.index(number).and_then(|index| self.pending.get_mut(index)) else { return };
        let Some(id) = pending.id else { return };
        pending.published_at = Some(Instant::now());
        let message = &pending.event.message;
        if self.history.is_off() {
            connection.publish(message, id, None, Expected::default());
            return;
        }
        pending.asks_for_ack = asks_for_ack;
        let expected = Expected { position: self.last_position, id: self.unacknowledged };
        connection.publish(message, id, asks_for_ack.then_some(number), expected);
        self.last_position = self.last_position.map(|position| position + 1);
        self.unacknowledged = (!asks_for_ack).then_some(id);
    }

    /// The index of the published event with this number.
    fn index(&self, number: u64) -> Option<usize> {
        let index = number.checked_sub(self.first_number).and_then(|index| usize::try_from(index).ok())?;
        (index < self.published).then_some(index)
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
        let Some(index) = number.and_then(|number| self.index(number)) else { return Ok(false) };
        let mut before = self.pending.range(..index).rev().filter(|pending| !pending.is_settled);
        let is_burst = before.next().is_some_and(|pending| !pending.asks_for_ack && !self.history.is_off());
        let is_stored = match puback {
            PubAck::RetryLater(reason) => {
                self.cautious = CAUTIOUS_EVENTS;
                self.metrics.refusals.inc();
                return Err(IngestError::NotStored(reason));
            }
            // One of the burst may have been refused: then the next connection hears why.
            PubAck::Changed(reason) => {
                self.cautious = if is_burst { CAUTIOUS_EVENTS } else { self.cautious };
                return Err(IngestError::StreamAhead(reason));
            }
            // A copy that was sent before this connection says nothing about the rest of the burst.
            PubAck::Stored { duplicate: true, .. } if is_burst => {
                return Err(IngestError::StreamAhead("an event of the burst was stored before".into()));
            }
            PubAck::Rejected(..) if is_burst => {
                self.cautious = CAUTIOUS_EVENTS;
                return Err(IngestError::StreamAhead("an event of the burst was refused".into()));
            }
            PubAck::Stored { duplicate, sequence } => {
                self.last_stored = Some(sequence);
                self.stream_end = sequence;
                self.cautious = self.cautious.saturating_sub(1);
                self.settle_burst(index, sequence, duplicate);
                true
            }
            PubAck::Rejected(rejection, reason) => {
                self.reject(index, rejection, &reason);
                false
            }
        };
        self.remove_settled();
        Ok(is_stored)
    }

    /// The stream has an event at this position, and right before it those of the burst that it ends.
    fn settle_burst(&mut self, last: usize, mut sequence: u64, duplicate: bool) {
        for index in (0..=last).rev() {
            let Some(pending) = self.pending.get_mut(index) else { return };
            // What was settled without being published has no position.
            if pending.is_settled {
                continue;
            }
            if index < last && pending.asks_for_ack {
                return;
            }
            if let Some(published_at) = pending.published_at {
                self.metrics.ack_seconds.observe(published_at.elapsed().as_secs_f64());
            }
            let stored = pending.id.map(|id| (id, sequence));
            pending.settle_as_stored(stored, self.stream, duplicate, &self.metrics);
            sequence = sequence.saturating_sub(1);
        }
    }

    /// The stream will never accept this event.
    fn reject(&mut self, index: usize, rejection: Rejection, reason: &str) {
        let Some(pending) = self.pending.get_mut(index) else { return };
        let OutgoingEvent { message, settle_handle, .. } = &pending.event;
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
    }

    /// Removes the settled events before the oldest unsettled one.
    fn remove_settled(&mut self) {
        while let Some(pending) = self.pending.pop_front_if(|pending| pending.is_settled) {
            self.first_number += 1;
            self.published -= 1;
            if let Some(source) = self.sources.get_mut(pending.event.source) {
                pending.checkpoint.into_iter().for_each(|checkpoint| source.settle(checkpoint));
                pending.id.into_iter().for_each(|id| source.end(id));
            }
        }
    }

    /// The end of the stream was read: settles the events that were found there.
    pub(super) fn settle_found(&mut self) {
        let mut pending = std::mem::take(&mut self.pending);
        pending.retain_mut(|pending| {
            let Some(id) = pending.id else { return true };
            let Some(source) = self.sources.get_mut(pending.event.source) else { return true };
            let found = match source.take(id) {
                Some(sequence) => Some(Some((id, sequence))),
                // The copy of an earlier delivery may have arrived after this one got its id.
                None if pending.event.redelivered => source.recognise(id.digest),
                None => None,
            };
            let Some(stored) = found else { return true };
            pending.settle_as_stored(stored, self.stream, true, &self.metrics);
            pending.checkpoint.into_iter().for_each(|checkpoint| source.settle(checkpoint));
            source.end(id);
            false
        });
        self.pending = pending;
    }

    pub(super) fn ack_deadline(&self) -> Instant {
        let oldest = self.pending.front().and_then(|pending| pending.published_at);
        oldest.unwrap_or_else(Instant::now) + ACK_TIMEOUT
    }

    /// Schedules all unsettled events for publishing again.
    pub(super) fn reset_connection_state(&mut self) {
        for pending in self.pending.iter().filter(|pending| pending.is_settled) {
            if let (Some(id), Some(source)) = (pending.id, self.sources.get_mut(pending.event.source)) {
                source.end(id);
            }
        }
        self.pending.retain(|pending| !pending.is_settled && !pending.event.settle_handle.is_abandoned());
        for pending in &mut self.pending {
            pending.published_at = None;
        }
        self.published = 0;
        self.first_number = 0;
        self.barrier = 0;
        self.unacknowledged = None;
        self.must_read = true;
        self.stop_waiting();
    }
}

#[cfg(test)]
mod tests;
