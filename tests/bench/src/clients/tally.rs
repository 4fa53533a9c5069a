//! Exact counts of lost, duplicated and out-of-order deliveries.

use std::collections::HashMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::histogram::Histogram;
use crate::load::Load;
use crate::stamp::Stamp;

/// The counts of all sessions of a worker, or of all workers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// Expected deliveries.
    pub(crate) expected: u64,
    /// Expected deliveries that arrived.
    pub(crate) delivered: u64,
    /// Expected deliveries that did not arrive at a connected session.
    pub(crate) lost: u64,
    /// Expected deliveries that did not arrive because the server closed the session.
    pub(crate) cut_off: u64,
    /// Repeated deliveries.
    pub(crate) duplicated: u64,
    /// Deliveries that arrived after a newer one of their lane. They count as delivered too.
    pub(crate) out_of_order: u64,
    /// Deliveries of lanes that the session has not bound.
    pub(crate) unexpected: u64,
    /// Sessions that the server closed, or that could not connect.
    pub(crate) closed: u32,
    /// Why the first of them was closed.
    pub(crate) reason: Option<String>,
    /// Latencies from the due time, of events that were due in the measured period.
    pub(crate) latency: Histogram,
}

impl Tally {
    /// Adds the counts of another worker.
    pub(crate) fn add(&mut self, other: &Tally) {
        self.expected += other.expected;
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.cut_off += other.cut_off;
        self.duplicated += other.duplicated;
        self.out_of_order += other.out_of_order;
        self.unexpected += other.unexpected;
        self.closed += other.closed;
        self.reason = self.reason.take().or_else(|| other.reason.clone());
        self.latency.add(&other.latency);
    }
}

/// Counts deliveries as they arrive, for all sessions together.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Expected deliveries that arrived.
    pub(crate) delivered: u64,
    duplicated: u64,
    out_of_order: u64,
    unexpected: u64,
    latency: Histogram,
    window: Range<u64>,
    /// Missing numbers below the next expected one, by session and lane. Empty unless events get lost or reordered.
    gaps: HashMap<(u32, u32), Vec<Range<u32>>>,
}

/// The position of a session in a lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExpectedLane {
    lane: u32,
    /// The first number to receive.
    first: u32,
    /// The next expected number.
    next: u32,
}

/// The lanes of a session in ascending order, if the events before `from_event` are published already.
pub(crate) fn expected_lanes(load: &Load, session: u32, from_event: u64) -> Box<[ExpectedLane]> {
    let expected = |lane| {
        let first = load.in_lane(lane, from_event) as u32;
        ExpectedLane { lane, first, next: first }
    };
    load.lanes_of(session).into_iter().map(expected).collect()
}

impl Ledger {
    /// Records latencies of events that are due in this period, and discards earlier ones.
    pub(crate) fn measure(&mut self, window: Range<u64>) {
        self.window = window;
        self.latency = Histogram::default();
    }

    /// Counts a delivery.
    pub(crate) fn arrived(&mut self, session: u32, lanes: &mut [ExpectedLane], stamp: Stamp, now: u64) {
        let place = match lanes {
            [_] => 0,
            _ => lanes.partition_point(|one| one.lane < stamp.lane),
        };
        let Some(lane) = lanes.get_mut(place).filter(|one| one.lane == stamp.lane) else {
            self.unexpected += 1;
            return;
        };
        if stamp.number < lane.first {
            // Published before this session connected: a server may still hold events for earlier sessions.
            return;
        }
        if stamp.number < lane.next {
            return self.arrived_late(session, stamp);
        }
        if stamp.number > lane.next {
            self.gaps.entry((session, lane.lane)).or_default().push(lane.next..stamp.number);
        }
        lane.next = stamp.number + 1;
        self.delivered += 1;
        if self.window.contains(&stamp.due) {
            self.latency.record(now.saturating_sub(stamp.due));
        }
    }

    fn arrived_late(&mut self, session: u32, stamp: Stamp) {
        let gaps = self.gaps.entry((session, stamp.lane)).or_default();
        let Some(place) = gaps.iter().position(|gap| gap.contains(&stamp.number)) else {
            self.duplicated += 1;
            return;
        };
        let gap = gaps.remove(place);
        let parts = [gap.start..stamp.number, stamp.number + 1..gap.end];
        gaps.extend(parts.into_iter().filter(|part| !part.is_empty()));
        self.out_of_order += 1;
        self.delivered += 1;
    }

    /// The tally after `events` published events. `sessions` has the lanes of each session, and whether it is still
    /// connected.
    pub(crate) fn close<'a>(
        &self,
        load: &Load,
        events: u64,
        sessions: impl Iterator<Item = (&'a [ExpectedLane], bool)>,
    ) -> Tally {
        let (mut expected, mut of_closed, mut received_by_closed) = (0, 0, 0);
        let mut closed = 0;
        for (lanes, connected) in sessions {
            let due: u64 =
                lanes.iter().map(|one| load.in_lane(one.lane, events) - u64::from(one.first)).sum();
            expected += due;
            if !connected {
                closed += 1;
                of_closed += due;
                received_by_closed += lanes.iter().map(|lane| u64::from(lane.next - lane.first)).sum::<u64>();
            }
        }
        let missing = expected.saturating_sub(self.delivered);
        let cut_off = (of_closed - received_by_closed.min(of_closed)).min(missing);
        Tally {
            expected,
            delivered: self.delivered,
            lost: missing - cut_off,
            cut_off,
            duplicated: self.duplicated,
            out_of_order: self.out_of_order,
            unexpected: self.unexpected,
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
        let mut ledger = Ledger::default();
        ledger.measure(0..100);
        let mut lanes = expected_lanes(&LOAD, 1, 0);
        for &number in numbers {
            ledger.arrived(1, &mut lanes, Stamp { lane: 1, number, due: 10 }, 30);
        }
        // Five of the ten events are for session 1.
        ledger.close(&LOAD, 10, [(&*lanes, connected)].into_iter())
    }

    #[test]
    fn events_that_arrive_once_and_in_order_are_delivered() {
        let tally = after(&[0, 1, 2, 3, 4], true);
        assert_eq!((tally.expected, tally.delivered, tally.lost, tally.duplicated), (5, 5, 0, 0));
        assert_eq!(tally.latency.total(), 5);
    }

    #[test]
    fn events_missing_in_the_middle_or_at_the_end_are_lost() {
        let tally = after(&[0, 3], true);
        assert_eq!((tally.delivered, tally.lost, tally.cut_off, tally.duplicated), (2, 3, 0, 0));
    }

    #[test]
    fn events_missing_in_a_closed_session_are_cut_off() {
        let tally = after(&[0, 1], false);
        assert_eq!((tally.delivered, tally.lost, tally.cut_off, tally.closed), (2, 0, 3, 1));
    }

    #[test]
    fn a_repeated_event_is_a_duplicate_and_a_late_one_is_out_of_order() {
        let tally = after(&[0, 3, 1, 1, 2, 0, 4], true);
        assert_eq!((tally.delivered, tally.lost, tally.duplicated, tally.out_of_order), (5, 0, 2, 2));
    }

    #[test]
    fn an_event_that_the_session_did_not_bind_is_unexpected() {
        let mut ledger = Ledger::default();
        let mut lanes = expected_lanes(&LOAD, 1, 4);
        ledger.arrived(1, &mut lanes, Stamp { lane: 0, number: 2, due: 0 }, 0);
        ledger.arrived(1, &mut lanes, Stamp { lane: 1, number: 2, due: 0 }, 0);
        let tally = ledger.close(&LOAD, 6, [(&*lanes, true)].into_iter());
        assert_eq!((tally.expected, tally.delivered, tally.unexpected), (1, 1, 1));
    }
}
