//! How much of the stream may be read for each account.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{delivery::frame::event::Event, metrics::Metrics};

/// An account that has not read for this long may read as much at once as it may otherwise in this time.
const BURST: Duration = Duration::from_secs(2);
/// A filtered reader makes the server look at every event in the gap: each counts as this many bytes.
const POSITION_BYTES: u64 = 16;

/// The budgets of all accounts: bytes per second.
#[derive(Debug)]
pub(super) struct Budgets {
    bytes_per_second: u64,
    /// When each account will have paid for what it has read. An account that could read a whole burst is not in here.
    paid: HashMap<Arc<str>, Instant>,
}

impl Budgets {
    /// Each account may read this many bytes per second.
    pub(super) fn new(bytes_per_second: u64) -> Budgets {
        Budgets { bytes_per_second: bytes_per_second.max(1), paid: HashMap::new() }
    }

    /// Notes that `bytes` were read for an account.
    pub(super) fn charge(&mut self, account: &Arc<str>, bytes: u64, now: Instant) {
        let full = now.checked_sub(BURST).unwrap_or(now);
        let paid = self.paid.get(account).map_or(full, |paid| (*paid).max(full));
        let time = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        if self.paid.len() == self.paid.capacity() {
            self.paid.retain(|_, paid| *paid > full);
        }
        self.paid.insert(Arc::clone(account), paid + time);
    }

    /// Notes that a filtered reader has passed this many positions of the stream.
    pub(super) fn charge_positions(&mut self, account: &Arc<str>, positions: u64, now: Instant) {
        self.charge(account, positions.saturating_mul(POSITION_BYTES), now);
    }

    /// When the account may read again; `None`: now.
    pub(super) fn exhausted_until(&self, account: &str, now: Instant) -> Option<Instant> {
        self.paid.get(account).copied().filter(|paid| *paid > now)
    }
}

/// Charges what a replay reads to its accounts.
pub(super) struct Charge<'c> {
    budgets: &'c Mutex<Budgets>,
    metrics: &'c Metrics,
    accounts: Vec<Arc<str>>,
    /// Bytes that were read and not charged yet.
    bytes: u64,
}

impl<'c> Charge<'c> {
    /// For a replay of the sessions of these accounts.
    pub(super) fn new(
        budgets: &'c Mutex<Budgets>,
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
        let (mut budgets, now) = (self.budgets.lock(), Instant::now());
        let share = std::mem::take(&mut self.bytes) / (self.accounts.len() as u64).max(1);
        self.accounts.iter().for_each(|account| budgets.charge(account, share, now));
        let [account] = &*self.accounts else { return false };
        let is_exhausted = budgets.exhausted_until(account, now).is_some();
        if is_exhausted {
            self.metrics.replays_throttled.inc();
        }
        is_exhausted
    }

    /// Charges that filtered readers have looked for events at this many positions.
    pub(super) fn settle_positions(&mut self, positions: u64) {
        let now = Instant::now();
        let mut budgets = self.budgets.lock();
        self.accounts.iter().for_each(|account| budgets.charge_positions(account, positions, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_account_may_read_a_burst_and_then_pays_for_it() {
        let mut budgets = Budgets::new(1000);
        let (account, now) = (Arc::from("a"), Instant::now());
        budgets.charge(&account, 1999, now);
        assert_eq!(budgets.exhausted_until("a", now), None);
        budgets.charge(&account, 3001, now);
        assert_eq!(budgets.exhausted_until("a", now), Some(now + seconds(3)));
        assert_eq!(budgets.exhausted_until("a", now + seconds(3)), None);
        assert_eq!(budgets.exhausted_until("b", now), None, "an account of its own");
    }

    #[test]
    fn unused_time_adds_up_to_one_burst() {
        let mut budgets = Budgets::new(1000);
        let (account, now) = (Arc::from("a"), Instant::now());
        budgets.charge(&account, 1, now);
        let later = now + seconds(100);
        budgets.charge(&account, 3000, later);
        assert_eq!(budgets.exhausted_until("a", later), Some(later + seconds(1)));
    }

    #[test]
    fn looking_for_an_accounts_events_counts_too() {
        let mut budgets = Budgets::new(POSITION_BYTES);
        let (account, now) = (Arc::from("a"), Instant::now());
        budgets.charge_positions(&account, 5, now);
        assert_eq!(budgets.exhausted_until("a", now), Some(now + seconds(3)));
    }

    #[test]
    fn accounts_that_have_paid_are_forgotten() {
        let mut budgets = Budgets::new(1000);
        let start = Instant::now();
        for second in 0..10_000 {
            budgets.charge(&Arc::from(second.to_string()), 1000, start + seconds(second));
        }
        assert!(budgets.paid.len() < 20, "{}", budgets.paid.len());
    }
}
