//! What comes live while a pass of the catch-up reads the past: its sessions get it at the end, and are live.

use std::collections::HashSet;

use super::SubjectNumber;
use crate::{frame::Event, outbox::PassNumber};

/// What a tail keeps at most. A pass whose tail overflows reads on in the stream instead.
const MOST_BYTES: usize = 4 << 20;

/// The live events of some subjects since a moment.
#[derive(Debug)]
pub(super) struct Tail {
    pass: PassNumber,
    subjects: HashSet<SubjectNumber>,
    events: Vec<Event>,
    bytes: usize,
}

impl Tail {
    pub(super) fn new(pass: PassNumber, subjects: HashSet<SubjectNumber>) -> Tail {
        Tail { pass, subjects, events: Vec::new(), bytes: 0 }
    }

    /// The pass that it is for.
    pub(super) fn pass(&self) -> PassNumber {
        self.pass
    }

    /// Keeps an event, if it is for one of the subjects.
    pub(super) fn note(&mut self, subject: SubjectNumber, event: &Event) {
        if self.bytes > MOST_BYTES || !self.subjects.contains(&subject) {
            return;
        }
        // An event comes once for each subject that it matches.
        let is_known = self.events.last().is_some_and(|last| last.place == event.place);
        if is_known {
            return;
        }
        self.bytes += event.bytes();
        if self.bytes > MOST_BYTES {
            self.events = Vec::new();
        } else {
            // What was read beside it would be kept too.
            self.events.push(event.detached());
        }
    }

    /// The events, or nothing where they were too many.
    pub(super) fn into_events(self) -> Option<Vec<Event>> {
        (self.bytes <= MOST_BYTES).then_some(self.events)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::cursor::{Identity, Place};

    fn event(sequence: u64, bytes: usize) -> Event {
        let place = Some(Place { stream: Identity::new("t"), sequence });
        Event { subject: Bytes::new(), name: Bytes::new(), body: vec![b'x'; bytes].into(), place }
    }

    #[test]
    fn a_tail_keeps_each_event_of_its_subjects_once() {
        let mut tail = Tail::new(1, HashSet::from([5, 6]));
        for (subject, sequence) in [(5, 1), (6, 1), (7, 2), (5, 3)] {
            tail.note(subject, &event(sequence, 10));
        }
        let sequences = tail.into_events().unwrap().into_iter().map(|event| event.place.unwrap().sequence);
        assert_eq!(sequences.collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn a_tail_that_overflowed_has_nothing() {
        let mut tail = Tail::new(1, HashSet::from([5]));
        tail.note(5, &event(1, MOST_BYTES));
        tail.note(5, &event(2, 1));
        assert!(tail.into_events().is_none());
    }
}
