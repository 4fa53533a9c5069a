//! What a client is owed for one binding.

use std::collections::BTreeSet;

use super::Published;

/// The events that a client is owed for a binding, and those that it got. It goes on in the next session, if the client
/// resumes after its last frame.
#[derive(Clone, Debug, Default)]
pub(crate) struct Thread {
    /// It is owed all events from this one on.
    pub(crate) owed_from: u64,
    /// It must not get any before this one.
    pub(crate) may_from: u64,
    got: BTreeSet<u64>,
    /// Everything owed before this one came.
    complete: u64,
}

/// How an event does not fit.
pub(crate) enum Misfit {
    Twice,
    OutOfOrder(u64),
    TooEarly,
    Gap(u64),
}

impl Thread {
    pub(crate) fn new(owed_from: u64, may_from: u64) -> Thread {
        Thread { owed_from, may_from, got: BTreeSet::new(), complete: 0 }
    }

    /// Takes an event.
    pub(crate) fn take(
        &mut self,
        number: u64,
        events: &[Published],
        account: usize,
        binding: &str,
        may_be_late: bool,
    ) -> Option<Misfit> {
        let last = self.got.last().copied().unwrap_or_default();
        if !self.got.insert(number) {
            return Some(Misfit::Twice);
        }
        if number < self.may_from {
            return Some(Misfit::TooEarly);
        }
        if may_be_late {
            return None;
        }
        if number < last {
            return Some(Misfit::OutOfOrder(last));
        }
        let gap = self.first_missing(events, account, binding, number);
        self.complete = number;
        gap.map(Misfit::Gap)
    }

    /// The first event before `end` that is owed and has not come.
    pub(crate) fn first_missing(
        &self,
        events: &[Published],
        account: usize,
        binding: &str,
        end: u64,
    ) -> Option<u64> {
        let from = self.owed_from.max(self.complete).max(1);
        let end = end.min(events.len() as u64 + 1);
        (from..end).find(|number| {
            let event = &events[*number as usize - 1];
            let is_owed = event.account == account && !event.is_lost && matches(binding, &event.key);
            is_owed && !self.got.contains(number)
        })
    }
}

/// Whether a binding `call.{event}.{call_id}` gets the events with this key.
pub(crate) fn matches(binding: &str, key: &str) -> bool {
    let (mut wanted, mut words) = (binding.split('.'), key.split('.'));
    loop {
        match (wanted.next(), words.next()) {
            (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(own), Some(word)) if own == word => {}
            _ => return false,
        }
    }
}
