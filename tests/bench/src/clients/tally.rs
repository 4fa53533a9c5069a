//! What sessions were owed and what they got: lost, duplicated and late ones, exactly.

use std::collections::HashMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::histogram::Histogram;
use crate::load::Load;
use crate::stamp::Stamp;

/// The account of all sessions of a worker, or of a whole run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// Deliveries that were owed.
    pub(crate) expected: u64,
    /// Of these, those that arrived.
    pub(crate) delivered: u64,
    /// Those that did not, to sessions that are connected still.
    pub(crate) lost: u64,
    /// Those that did not, because the server had closed the session.
    pub(crate) cut_off: u64,
    /// What arrived once more.
    pub(crate) duplicated: u64,
    /// What arrived after something newer of its lane; it is among the delivered.
    pub(crate) out_of_order: u64,
    /// What arrived and nobody had bound.
    pub(crate) foreign: u64,
    /// Sessions that the server closed, or that could not be connected.
    pub(crate) closed: u32,
    /// Why the first one was closed.
    pub(crate) reason: Option<String>,
    /// The latencies, from the time an event was due, of those due in the measured time.
    pub(crate) latency: Histogram,
}

impl Tally {
    /// Adds another worker's.
    pub(crate) fn add(&mut self, other: &Tally) {
        self.expected += other.expected;
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.cut_off += other.cut_off;
        self.duplicated += other.duplicated;
        self.out_of_order += other.out_of_order;
        self.foreign += other.foreign;
        self.closed += other.closed;
        self.reason = self.reason.take().or_else(|| other.reason.clone());
        self.latency.add(&other.latency);
    }
}

/// The sessions' accounts, and what happened to all of them together.
#[derive(Debug, Default)]
pub(crate) struct Books {
    /// Deliveries that arrived and were owed.
    pub(crate) delivered: u64,
    duplicated: u64,
    out_of_order: u64,
    foreign: u64,
    latency: Histogram,
    window: Range<u64>,
    /// What is missing below the next expected number, by session and lane. Empty unless something goes wrong.
    holes: HashMap<(u32, u32), Vec<Range<u32>>>,
}

/// One session's account of one lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owed {
    lane: u32,
    /// Where it begins.
    first: u32,
    /// The next number that should come.
    next: u32,
}

/// The lanes of a session, in ascending order, with all events before `from_event` published already.
pub(crate) fn owed(load: &Load, session: u32, from_event: u64) -> Box<[Owed]> {
    let owed = |lane| {
        let first = load.in_lane(lane, from_event) as u32;
        Owed { lane, first, next: first }
    };
    load.lanes_of(session).into_iter().map(owed).collect()
}

impl Books {
    /// Records the latency of what is due in this time, and forgets that of before.
    pub(crate) fn measure(&mut self, window: Range<u64>) {
        self.window = window;
        self.latency = Histogram::default();
    }

    /// Enters an arrival.
    pub(crate) fn arrived(&mut self, session: u32, lanes: &mut [Owed], stamp: Stamp, now: u64) {
        let place = match lanes {
            [_] => 0,
            _ => lanes.partition_point(|owed| owed.lane < stamp.lane),
        };
        let Some(owed) = lanes.get_mut(place).filter(|owed| owed.lane == stamp.lane) else {
            self.foreign += 1;
            return;
        };
        if stamp.number < owed.first {
            // Of before its time: a server may still hold what was published for sessions that are gone.
            return;
        }
        if stamp.number < owed.next {
            return self.arrived_late(session, stamp);
        }
        if stamp.number > owed.next {
            self.holes.entry((session, owed.lane)).or_default().push(owed.next..stamp.number);
        }
        owed.next = stamp.number + 1;
        self.delivered += 1;
        if self.window.contains(&stamp.due) {
            self.latency.record(now.saturating_sub(stamp.due));
        }
    }

    fn arrived_late(&mut self, session: u32, stamp: Stamp) {
        let holes = self.holes.entry((session, stamp.lane)).or_default();
        let Some(place) = holes.iter().position(|hole| hole.contains(&stamp.number)) else {
            self.duplicated += 1;
            return;
        };
        let hole = holes.remove(place);
        let parts = [hole.start..stamp.number, stamp.number + 1..hole.end];
        holes.extend(parts.into_iter().filter(|part| !part.is_empty()));
        self.out_of_order += 1;
        self.delivered += 1;
    }

    /// Closes the account: `sessions` are their numbers, lanes, and whether they are connected still; `events` were
    /// published in all.
    pub(crate) fn close<'a>(
        &self,
        load: &Load,
        events: u64,
        sessions: impl Iterator<Item = (&'a [Owed], bool)>,
    ) -> Tally {
        let (mut expected, mut of_closed, mut closed_got) = (0, 0, 0);
        let mut closed = 0;
        for (lanes, connected) in sessions {
            let owed = lanes.iter().map(|owed| load.in_lane(owed.lane, events) - u64::from(owed.first));
            let owed: u64 = owed.sum();
            expected += owed;
            if !connected {
                closed += 1;
                of_closed += owed;
                closed_got += lanes.iter().map(|owed| u64::from(owed.next - owed.first)).sum::<u64>();
            }
        }
        let missing = expected.saturating_sub(self.delivered);
        let cut_off = (of_closed - closed_got.min(of_closed)).min(missing);
        Tally {
            expected,
            delivered: self.delivered,
            lost: missing - cut_off,
            cut_off,
            duplicated: self.duplicated,
            out_of_order: self.out_of_order,
            foreign: self.foreign,
            closed,
            reason: None,
            latency: self.latency.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Pattern;

    const LOAD: Load = Load { pattern: Pattern::Sharded, sessions: 2 };

    fn after(numbers: &[u32], connected: bool) -> Tally {
        let mut books = Books::default();
        books.measure(0..100);
        let mut lanes = owed(&LOAD, 1, 0);
        for &number in numbers {
            books.arrived(1, &mut lanes, Stamp { lane: 1, number, due: 10 }, 30);
        }
        // Of ten events, five are session 1's.
        books.close(&LOAD, 10, [(&*lanes, connected)].into_iter())
    }

    #[test]
    fn what_arrives_once_and_in_order_is_all_there_is() {
        let tally = after(&[0, 1, 2, 3, 4], true);
        assert_eq!((tally.expected, tally.delivered, tally.lost, tally.duplicated), (5, 5, 0, 0));
        assert_eq!(tally.latency.total(), 5);
    }

    #[test]
    fn what_is_missing_in_the_middle_or_at_the_end_is_lost() {
        let tally = after(&[0, 3], true);
        assert_eq!((tally.delivered, tally.lost, tally.cut_off, tally.duplicated), (2, 3, 0, 0));
    }

    #[test]
    fn what_is_missing_of_a_closed_session_is_cut_off() {
        let tally = after(&[0, 1], false);
        assert_eq!((tally.delivered, tally.lost, tally.cut_off, tally.closed), (2, 0, 3, 1));
    }

    #[test]
    fn what_comes_twice_is_a_duplicate_and_what_comes_late_is_not() {
        let tally = after(&[0, 3, 1, 1, 2, 0, 4], true);
        assert_eq!((tally.delivered, tally.lost, tally.duplicated, tally.out_of_order), (5, 0, 2, 2));
    }

    #[test]
    fn what_nobody_bound_is_foreign() {
        let mut books = Books::default();
        let mut lanes = owed(&LOAD, 1, 4);
        books.arrived(1, &mut lanes, Stamp { lane: 0, number: 2, due: 0 }, 0);
        books.arrived(1, &mut lanes, Stamp { lane: 1, number: 2, due: 0 }, 0);
        let tally = books.close(&LOAD, 6, [(&*lanes, true)].into_iter());
        assert_eq!((tally.expected, tally.delivered, tally.foreign), (1, 1, 1));
    }
}
