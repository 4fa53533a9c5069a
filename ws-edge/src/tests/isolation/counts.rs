//! How much was tried.

use std::fmt;

/// What was tried.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Pairs of an event and a session's binding.
    pub(super) trials: u64,
    pub(super) worlds: u64,
    pub(super) sessions: u64,
    pub(super) delivered: u64,
    /// Of those, to sessions that may have only their own user's.
    pub(super) own: u64,
    /// Events that other sessions' accounts or users own.
    pub(super) withheld: u64,
    /// Sessions that came with a `since`, and those that were recovered.
    pub(super) resumed: u64,
    pub(super) recovered: u64,
}

impl Counts {
    /// Whether all that matters has happened often.
    pub(super) fn is_varied(&self) -> bool {
        let enough = self.trials / 500;
        let are_enough =
            [self.delivered, self.withheld, self.resumed, self.recovered].iter().all(|count| *count > enough);
        // About one trial in 500 is an event of a user's own.
        are_enough && self.own > enough / 4
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { trials, worlds, sessions, delivered, own, withheld, resumed, recovered } = self;
        write!(
            f,
            "{trials} trials in {worlds} worlds with {sessions} sessions: {delivered} events delivered, {own} of them to users, {withheld} of \
             others withheld, {resumed} sessions came with `since`, {recovered} of them recovered"
        )
    }
}
