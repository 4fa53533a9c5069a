//! Tracks the unacknowledged deliveries of one channel, so that a contiguous run of settled ones is acknowledged at
//! once.
//!
//! Delivery tags increase from 1 on each channel without a gap (AMQP 0-9-1, 1.8.3.13), so the tag gives the index.

use std::collections::VecDeque;

use crate::checkpoint::Checkpoint;

/// The state of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeliveryState {
    /// Not settled yet.
    InFlight,
    /// Settled, and to be acknowledged. The checkpoint tells where it is stored, if it is.
    Done(Option<Checkpoint>),
    /// Rejected, so the broker considers it settled already.
    Rejected,
}

/// The deliveries from the oldest unsettled one on.
#[derive(Debug)]
pub(super) struct AckWindow {
    /// The delivery tag of the front.
    first_tag: u64,
    states: VecDeque<DeliveryState>,
}

impl AckWindow {
    /// The window of a new channel.
    pub(super) fn new() -> AckWindow {
        AckWindow { first_tag: 1, states: VecDeque::new() }
    }

    /// The number of deliveries from the oldest unsettled to the newest.
    pub(super) fn len(&self) -> usize {
        self.states.len()
    }

    /// Adds the newest delivery. Returns `false` if its tag does not follow the previous one.
    pub(super) fn push(&mut self, tag: u64, state: DeliveryState) -> bool {
        let next = self.first_tag.wrapping_add(self.states.len() as u64);
        if tag != next {
            return false;
        }
        self.states.push_back(state);
        true
    }

    /// Sets the state of a delivery. Ignores tags outside the window.
    pub(super) fn settle(&mut self, tag: u64, state: DeliveryState) {
        let index = tag.checked_sub(self.first_tag).and_then(|index| usize::try_from(index).ok());
        if let Some(current) = index.and_then(|index| self.states.get_mut(index)) {
            *current = state;
        }
    }

    /// Removes the settled deliveries at the front. Returns the tag up to which to acknowledge, if any, and the
    /// checkpoint of the last stored one. The tag is never that of a rejected delivery, which the broker no longer
    /// knows.
    pub(super) fn advance(&mut self) -> Option<(u64, Option<Checkpoint>)> {
        let mut ack_up_to: Option<(u64, Option<Checkpoint>)> = None;
        while let Some(state) = self.states.front() {
            match state {
                DeliveryState::InFlight => break,
                DeliveryState::Done(checkpoint) => {
                    let before = ack_up_to.and_then(|(_, checkpoint)| checkpoint);
                    ack_up_to = Some((self.first_tag, checkpoint.or(before)));
                }
                DeliveryState::Rejected => {}
            }
            self.states.pop_front();
            self.first_tag = self.first_tag.wrapping_add(1);
        }
        ack_up_to
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn stored(number: u64) -> DeliveryState {
        DeliveryState::Done(Some(checkpoint(number)))
    }

    fn checkpoint(number: u64) -> Checkpoint {
        Checkpoint { epoch: 1, number, sequence: number, stream: 1 }
    }

    #[test]
    fn only_a_contiguous_settled_run_is_acknowledged() {
        let mut window = AckWindow::new();
        for tag in 1..=4 {
            assert!(window.push(tag, DeliveryState::InFlight));
        }
        assert!(!window.push(6, DeliveryState::InFlight));
        assert!(!window.push(4, DeliveryState::InFlight));
        window.settle(2, DeliveryState::Done(None));
        assert_eq!(window.advance(), None);
        window.settle(1, stored(7));
        assert_eq!(window.advance(), Some((2, Some(checkpoint(7)))), "of the last stored one");
        window.settle(3, DeliveryState::Rejected);
        assert_eq!(window.advance(), None);
        // Tags outside the window.
        window.settle(1, DeliveryState::Done(None));
        window.settle(99, DeliveryState::Done(None));
        assert_eq!((window.advance(), window.len()), (None, 1));
        window.settle(4, DeliveryState::Done(None));
        assert_eq!((window.advance(), window.len()), (Some((4, None)), 0));
    }

    proptest! {
        #[test]
        fn every_delivery_is_settled_once_and_as_early_as_possible(
            (rejected, order) in prop::collection::vec(any::<bool>(), 1..40).prop_flat_map(|rejected| {
                let tags: Vec<u64> = (1..=rejected.len() as u64).collect();
                (Just(rejected), Just(tags).prop_shuffle())
            })
        ) {
            let mut window = AckWindow::new();
            // What the broker and the publisher have not settled yet.
            let mut unacked: BTreeSet<u64> = (1..=order.len() as u64).collect();
            let mut in_flight = unacked.clone();
            for tag in &in_flight {
                prop_assert!(window.push(*tag, DeliveryState::InFlight));
            }
            for tag in &order {
                in_flight.remove(tag);
                if rejected[*tag as usize - 1] {
                    prop_assert!(unacked.remove(tag));
                    window.settle(*tag, DeliveryState::Rejected);
                } else {
                    window.settle(*tag, DeliveryState::Done(None));
                }
                if let Some((up_to, _)) = window.advance() {
                    // The broker closes the channel on an unknown tag, and settles everything below a known one.
                    prop_assert!(unacked.contains(&up_to));
                    unacked.retain(|tag| *tag > up_to);
                }
                prop_assert!(in_flight.is_subset(&unacked), "acknowledged before it was settled");
                let oldest = in_flight.first().copied().unwrap_or(order.len() as u64 + 1);
                prop_assert!(unacked.first().is_none_or(|tag| *tag >= oldest), "{unacked:?}");
                prop_assert_eq!(window.len() as u64, order.len() as u64 + 1 - oldest);
            }
            prop_assert!(unacked.is_empty());
        }
    }
}
