//! Which lagging sessions are brought up to date next. Decides only; [`Catchup`](super::Catchup) runs the replays.
//!
//! Short gaps and long ones have places of their own, so that who was away for a moment waits for nobody who was away for
//! hours. An account has at most one replay of each length: many sessions of one account take one place, and those that
//! come meanwhile share the next replay.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use super::plan::shared;
use crate::ids::{ReplayId, SessionNumber};

/// Replays of each length that run at the same time.
const PLACES: usize = 4;
/// Gaps of at most this many events, of all accounts, are short.
const SHORT_GAP: u64 = 10_000;

/// Lagging sessions that wait for a replay, and the replays that run. `S` is a session.
#[derive(Debug)]
pub(super) struct Schedule<S> {
    waiting: HashMap<SessionNumber, Waiting<S>>,
    arrivals: u64,
    running: BTreeMap<ReplayId, (Length, HashSet<Arc<str>>)>,
    last_replay: ReplayId,
}

/// A session that waits for a replay.
#[derive(Debug)]
pub(super) struct Waiting<S> {
    /// Its number.
    pub(super) number: SessionNumber,
    /// Whose session it is.
    pub(super) account: Arc<str>,
    /// It has had everything up to this position.
    pub(super) after: u64,
    /// The session itself.
    pub(super) session: S,
    /// The order in which sessions came.
    pub(super) arrival: u64,
}

/// A replay that is to be run.
#[derive(Debug)]
pub(super) struct Job<S> {
    /// Its id, for [`Schedule::finished`].
    pub(super) id: ReplayId,
    /// The accounts of its sessions.
    pub(super) accounts: Vec<Arc<str>>,
    /// Its sessions.
    pub(super) sessions: Vec<Waiting<S>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Length {
    Short,
    Long,
}

impl Length {
    fn of(gap: u64) -> Length {
        if gap <= SHORT_GAP { Length::Short } else { Length::Long }
    }
}

impl<S> Default for Schedule<S> {
    fn default() -> Self {
        Schedule { waiting: HashMap::new(), arrivals: 0, running: BTreeMap::new(), last_replay: 0 }
    }
}

impl<S> Schedule<S> {
    /// Adds a session. One that waits already has its place still, with its new position.
    pub(super) fn add(&mut self, number: SessionNumber, account: Arc<str>, after: u64, session: S) {
        self.arrivals += 1;
        let arrival = self.waiting.get(&number).map_or(self.arrivals, |waiting| waiting.arrival);
        self.waiting.insert(number, Waiting { number, account, after, session, arrival });
    }

    /// Whether no session waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The accounts of the sessions that wait.
    pub(super) fn accounts(&self) -> impl Iterator<Item = &str> {
        self.waiting.values().map(|waiting| &*waiting.account)
    }

    /// Takes out all sessions that wait.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = S> {
        self.waiting.drain().map(|(_, waiting)| waiting.session)
    }

    /// The next replay, in a stream whose newest position is `last`; `None` if nobody waits that may run now.
    /// `may_read` tells whether an account has something left of its budget.
    pub(super) fn next(&mut self, last: u64, may_read: impl Fn(&str) -> bool) -> Option<Job<S>> {
        [Length::Short, Length::Long].into_iter().find_map(|length| self.next_of(length, last, &may_read))
    }

    fn next_of(&mut self, length: Length, last: u64, may_read: &impl Fn(&str) -> bool) -> Option<Job<S>> {
        let running = || self.running.values().filter(|(own, _)| *own == length);
        if running().count() >= PLACES {
            return None;
        }
        let is_ready = |waiting: &&Waiting<S>| {
            Length::of(last.saturating_sub(waiting.after)) == length
                && may_read(&waiting.account)
                && !running().any(|(_, accounts)| accounts.contains(&waiting.account))
        };
        let mut ready: Vec<&Waiting<S>> = self.waiting.values().filter(is_ready).collect();
        let first = ready.iter().min_by_key(|waiting| waiting.arrival)?.account.clone();
        ready.sort_by_key(|waiting| std::cmp::Reverse((waiting.after, waiting.arrival)));
        let gaps: Vec<(u64, &str)> = ready.iter().map(|waiting| (waiting.after, &*waiting.account)).collect();
        match shared(&gaps, last) {
            0 => ready.retain(|waiting| waiting.account == first),
            count => ready.truncate(count),
        }
        let numbers: Vec<SessionNumber> = ready.into_iter().map(|waiting| waiting.number).collect();
        let sessions: Vec<Waiting<S>> =
            numbers.iter().filter_map(|number| self.waiting.remove(number)).collect();
        let accounts: HashSet<Arc<str>> =
            sessions.iter().map(|session| Arc::clone(&session.account)).collect();
        self.last_replay += 1;
        self.running.insert(self.last_replay, (length, accounts.clone()));
        Some(Job { id: self.last_replay, accounts: accounts.into_iter().collect(), sessions })
    }

    /// A replay has ended.
    pub(super) fn finished(&mut self, replay: ReplayId) {
        self.running.remove(&replay);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAST: u64 = 1_000_000;

    fn schedule(sessions: &[(SessionNumber, &str, u64)]) -> Schedule<()> {
        let mut schedule = Schedule::default();
        for &(number, account, gap) in sessions {
            schedule.add(number, account.into(), LAST - gap, ());
        }
        schedule
    }

    /// The next replay's id and sessions.
    fn next(schedule: &mut Schedule<()>) -> Option<(ReplayId, Vec<SessionNumber>)> {
        let job = schedule.next(LAST, |_| true)?;
        let mut numbers: Vec<SessionNumber> = job.sessions.iter().map(|session| session.number).collect();
        numbers.sort();
        Some((job.id, numbers))
    }

    #[test]
    fn a_short_gap_does_not_wait_for_long_ones() {
        let long: Vec<(SessionNumber, String)> = (1..=20).map(|n| (n, format!("a{n}"))).collect();
        let mut sessions: Vec<(SessionNumber, &str, u64)> =
            long.iter().map(|(number, account)| (*number, account.as_str(), 500_000)).collect();
        let mut schedule = schedule(&sessions.split_off(0));
        let started: Vec<_> = std::iter::from_fn(|| next(&mut schedule)).collect();
        assert_eq!(started, [(1, vec![1]), (2, vec![2]), (3, vec![3]), (4, vec![4])], "in their order");
        schedule.add(100, "b".into(), LAST - 10, ());
        assert_eq!(next(&mut schedule), Some((5, vec![100])));
        schedule.finished(2);
        assert_eq!(next(&mut schedule), Some((6, vec![5])));
    }

    #[test]
    fn many_sessions_of_one_account_take_one_place() {
        let sessions: Vec<(SessionNumber, &str, u64)> = (1..=60).map(|n| (n, "a", 500_000 + n)).collect();
        let mut schedule = schedule(&sessions);
        assert_eq!(next(&mut schedule), Some((1, (1..=60).collect())));
        schedule.add(61, "a".into(), 0, ());
        schedule.add(62, "b".into(), 0, ());
        assert_eq!(next(&mut schedule), Some((2, vec![62])));
        assert_eq!(next(&mut schedule), None, "the account has a replay already");
        schedule.finished(1);
        assert_eq!(next(&mut schedule), Some((3, vec![61])));
    }

    #[test]
    fn an_account_that_has_read_its_share_waits() {
        let mut schedule = schedule(&[(1, "a", 500_000), (2, "b", 600_000)]);
        let job = schedule.next(LAST, |account| account != "a").unwrap();
        assert_eq!((job.accounts, job.sessions.len()), (vec!["b".into()], 1));
        assert!(schedule.next(LAST, |account| account != "a").is_none());
        assert_eq!(schedule.accounts().collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn accounts_with_recent_positions_share_a_replay() {
        let mut schedule = schedule(&[(1, "a", 10), (2, "b", 900), (3, "c", 9_000)]);
        assert_eq!(next(&mut schedule), Some((1, vec![1, 2])));
        assert_eq!(next(&mut schedule), Some((2, vec![3])));
        assert!(schedule.is_empty());
    }

    #[test]
    fn a_session_waits_once() {
        let mut schedule = schedule(&[(1, "a", 500_000), (2, "b", 500_000)]);
        schedule.add(1, "a".into(), LAST - 600_000, ());
        assert_eq!(next(&mut schedule), Some((1, vec![1])), "it keeps its place in the order");
        assert_eq!(next(&mut schedule), Some((2, vec![2])));
        assert_eq!(next(&mut schedule), None);
    }
}
