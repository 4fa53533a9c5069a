//! The deliveries of one channel that are not settled yet, so that those settled in a row can be acknowledged to
//! the broker at once.
//!
//! Delivery tags count up from 1 on each channel without a gap (AMQP 0-9-1, 1.8.3.13), so a tag's place is known.

use std::collections::VecDeque;

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// On its way to the stream.
    InFlight,
    /// To be acknowledged.
    Done,
    /// Rejected, and thereby settled with the broker already.
    Rejected,
}

/// The deliveries from the oldest unsettled one on.
#[derive(Debug)]
pub(super) struct Window {
    /// The tag of the front.
    first: u64,
    states: VecDeque<State>,
}

impl Window {
    /// That of a new channel.
    pub(super) fn new() -> Window {
        Window { first: 1, states: VecDeque::new() }
    }

    /// How many deliveries are between the oldest unsettled and the newest.
    pub(super) fn len(&self) -> usize {
        self.states.len()
    }

    /// Adds the newest delivery. Returns whether its tag is the next one.
    pub(super) fn push(&mut self, tag: u64, state: State) -> bool {
        let next = self.first.wrapping_add(self.states.len() as u64);
        if tag != next {
            return false;
        }
        self.states.push_back(state);
        true
    }

    /// Says what became of a delivery.
    pub(super) fn settle(&mut self, tag: u64, state: State) {
        let place = tag.checked_sub(self.first).and_then(|place| usize::try_from(place).ok());
        if let Some(known) = place.and_then(|place| self.states.get_mut(place)) {
            *known = state;
        }
    }

    /// Drops what is settled at the front. Returns the tag up to which the broker is to be told that everything is
    /// done, if there is anything to tell: never that of a rejected delivery, which the broker no longer knows.
    pub(super) fn advance(&mut self) -> Option<u64> {
        let mut done = None;
        while let Some(state) = self.states.front() {
            match state {
                State::InFlight => break,
                State::Done => done = Some(self.first),
                State::Rejected => {}
            }
            self.states.pop_front();
            self.first = self.first.wrapping_add(1);
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_a_settled_prefix_is_told() {
        let mut window = Window::new();
        for tag in 1..=4 {
            assert!(window.push(tag, State::InFlight));
        }
        assert!(!window.push(6, State::InFlight) && !window.push(4, State::InFlight));
        window.settle(2, State::Done);
        assert_eq!(window.advance(), None);
        window.settle(1, State::Done);
        assert_eq!(window.advance(), Some(2));
        window.settle(3, State::Rejected);
        assert_eq!(window.advance(), None);
        window.settle(1, State::Done);
        window.settle(99, State::Done);
        window.settle(4, State::Done);
        assert_eq!(window.advance(), Some(4));
        assert_eq!(window.len(), 0);
    }

    proptest! {
        #[test]
        fn every_delivery_is_settled_once(
            rejected in prop::collection::vec(any::<bool>(), 1..40), order in any::<u64>()
        ) {
            let mut window = Window::new();
            let mut unsettled: BTreeSet<u64> = (1..=rejected.len() as u64).collect();
            let mut open: Vec<u64> = unsettled.iter().copied().collect();
            for tag in &open {
                prop_assert!(window.push(*tag, State::InFlight));
            }
            let mut random = order;
            while !open.is_empty() {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let tag = open.swap_remove((random >> 33) as usize % open.len());
                if rejected[tag as usize - 1] {
                    prop_assert!(unsettled.remove(&tag));
                    window.settle(tag, State::Rejected);
                } else {
                    window.settle(tag, State::Done);
                }
                if let Some(up_to) = window.advance() {
                    // The broker refuses a tag that it does not know, and takes all below that it does.
                    prop_assert!(unsettled.contains(&up_to));
                    prop_assert!(open.iter().all(|tag| *tag > up_to));
                    unsettled.retain(|tag| *tag > up_to);
                }
            }
            prop_assert!(unsettled.is_empty() && window.len() == 0);
        }
    }
}
