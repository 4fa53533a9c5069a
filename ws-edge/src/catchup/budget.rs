//! How much of the stream is read for each account.

use std::{sync::Arc, time::Duration};

use blackhole_common::clock;
use parking_lot::Mutex;

use crate::{delivery::frame::event::Event, limits::budget::Budgets, metrics::Metrics};

/// An account that has not read for this long may read as much at once as it may otherwise in this time.
pub(super) const BURST: Duration = Duration::from_secs(2);
/// A filtered reader makes the server look at every event in the gap: each counts as this many bytes.
const POSITION_BYTES: u64 = 16;

/// Charges what a replay reads to its accounts.
pub(super) struct Charge<'c> {
    budgets: &'c Mutex<Budgets<Arc<str>>>,
    metrics: &'c Metrics,
    accounts: Vec<Arc<str>>,
    /// Bytes that were read and not charged yet.
    bytes: u64,
}

impl<'c> Charge<'c> {
    /// For a replay of the sessions of these accounts.
    pub(super) fn new(
        budgets: &'c Mutex<Budgets<Arc<str>>>,
        metrics: &'c Metrics,
        accounts: Vec<Arc<str>>,
    ) -> Charge<'c> {
        Charge { budgets, metrics, accounts, bytes: 0 }
    }

    /// Notes an event that was read.
    pub(super) fn add(&mut self, event: &Event) {
        let bytes = event.bytes() as u64;
        self.metrics.replayed_bytes.inc_by(bytes);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Charges what was read since the last call, in equal parts. Returns whether an only account has used up its budget:
    /// a replay that many accounts share is short.
    pub(super) fn settle(&mut self) -> bool {
        let (mut budgets, now) = (self.budgets.lock(), clock::now());
        let share = std::mem::take(&mut self.bytes) as f64 / self.accounts.len() as f64;
        self.accounts.iter().for_each(|account| budgets.charge(account, share, now));
        let [account] = &*self.accounts else { return false };
        let is_exhausted = budgets.exhausted_until(&**account, now).is_some();
        if is_exhausted {
            self.metrics.replays_throttled.inc();
        }
        is_exhausted
    }

    /// Charges that filtered readers have looked for events at this many positions.
    pub(super) fn settle_positions(&mut self, positions: u64) {
        let (mut budgets, now) = (self.budgets.lock(), clock::now());
        let bytes = positions.saturating_mul(POSITION_BYTES) as f64;
        self.accounts.iter().for_each(|account| budgets.charge(account, bytes, now));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::delivery::testing::event;

    /// How many times what takes a second to pay an account has used.
    fn used(budgets: &Mutex<Budgets<Arc<str>>>, account: &str, since: Instant) -> f64 {
        let paid = budgets.lock().exhausted_until(account, since);
        paid.map_or(0.0, |paid| (paid - since).as_secs_f64().round())
    }

    #[test]
    fn what_a_replay_reads_is_charged_to_its_accounts_in_equal_parts() {
        let event = event("ev.t.a", 1);
        let budgets = Mutex::new(Budgets::new(event.bytes() as f64, Duration::ZERO));
        let (metrics, since) = (Metrics::default(), Instant::now());
        let charge = |accounts: &[&str]| {
            Charge::new(&budgets, &metrics, accounts.iter().map(|&account| account.into()).collect())
        };
        let mut alone = charge(&["a"]);
        assert!(!alone.settle(), "nothing was read");
        (0..3).for_each(|_| alone.add(&event));
        assert!(alone.settle());
        assert_eq!(used(&budgets, "a", since), 3.0);

        let mut shared = charge(&["b", "c"]);
        (0..4).for_each(|_| shared.add(&event));
        assert!(!shared.settle(), "a replay that is shared goes on");
        assert_eq!((used(&budgets, "b", since), used(&budgets, "c", since)), (2.0, 2.0));
        let bytes = 7 * event.bytes() as u64;
        assert_eq!((metrics.replayed_bytes.get(), metrics.replays_throttled.get()), (bytes, 1));
    }

    #[test]
    fn looking_for_events_is_charged_too() {
        let budgets = Mutex::new(Budgets::new(POSITION_BYTES as f64, Duration::ZERO));
        let (metrics, since) = (Metrics::default(), Instant::now());
        Charge::new(&budgets, &metrics, vec!["a".into()]).settle_positions(5);
        assert_eq!(used(&budgets, "a", since), 5.0);
    }
}
