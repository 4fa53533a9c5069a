//! How much of the stream is read for each account.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

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
        let (mut budgets, now) = (self.budgets.lock(), Instant::now());
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
        let (mut budgets, now) = (self.budgets.lock(), Instant::now());
        let bytes = positions.saturating_mul(POSITION_BYTES) as f64;
        self.accounts.iter().for_each(|account| budgets.charge(account, bytes, now));
    }
}
