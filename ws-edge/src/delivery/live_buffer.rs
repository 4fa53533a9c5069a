//! Live events that come while a replay reads the past. Its sessions get them at its end, and are live.

use std::collections::HashSet;

use super::frame::event::Event;
use crate::ids::{ReplayId, SubjectNumber};

/// The most that a buffer keeps. A replay whose buffer overflows reads on in the stream instead.
const MAX_BYTES: usize = 4 << 20;

/// The live events of some subjects since a moment.
#[derive(Debug)]
pub(super) struct LiveBuffer {
    replay: ReplayId,
    subjects: HashSet<SubjectNumber>,
    events: Vec<Event>,
    bytes: usize,
}

impl LiveBuffer {
    /// An empty buffer for the subjects of `replay`.
    pub(super) fn new(replay: ReplayId, subjects: HashSet<SubjectNumber>) -> LiveBuffer {
        LiveBuffer { replay, subjects, events: Vec::new(), bytes: 0 }
    }

    /// The replay that it is for.
    pub(super) fn replay(&self) -> ReplayId {
        self.replay
    }

    /// Keeps an event that came for this subject, if the replay needs it.
    pub(super) fn add(&mut self, subject: SubjectNumber, event: &Event) {
        if self.bytes > MAX_BYTES || !self.subjects.contains(&subject) {
            return;
        }
        // An event comes once for each subject that it matches.
        if self.events.last().is_some_and(|last| last.position == event.position) {
            return;
        }
        self.bytes += event.bytes();
        if self.bytes > MAX_BYTES {
            self.events = Vec::new();
        } else {
            // A slice would keep the whole read buffer.
            self.events.push(event.detached());
        }
    }

    /// The events; `None` if they were too many.
    pub(super) fn into_events(self) -> Option<Vec<Event>> {
        (self.bytes <= MAX_BYTES).then_some(self.events)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::protocol::cursor::{EventPosition, StreamId};

    fn event(sequence: u64, bytes: usize) -> Event {
        let position = Some(EventPosition { stream: StreamId::new("t"), sequence });
        Event {
            subject: Bytes::new(),
            name: Bytes::new(),
            body: vec![b'x'; bytes].into(),
            owner: Bytes::new(),
            position,
        }
    }

    #[test]
    fn each_event_of_its_subjects_is_kept_once() {
        let mut buffer = LiveBuffer::new(1, HashSet::from([5, 6]));
        for (subject, sequence) in [(5, 1), (6, 1), (7, 2), (5, 3)] {
            buffer.add(subject, &event(sequence, 10));
        }
        let sequences = buffer.into_events().unwrap().into_iter().filter_map(|event| event.sequence());
        assert_eq!(sequences.collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn an_overflowed_buffer_has_nothing() {
        let mut buffer = LiveBuffer::new(1, HashSet::from([5]));
        buffer.add(5, &event(1, MAX_BYTES));
        buffer.add(5, &event(2, 1));
        assert!(buffer.events.is_empty(), "its memory is freed");
        assert!(buffer.into_events().is_none());
    }
}
