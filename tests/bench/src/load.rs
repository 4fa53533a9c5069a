//! Which sessions there are, what they bind, and which of them an event is for.
//!
//! Events go round over *lanes*: event `k` is number `k / lanes` of lane `k % lanes`. A session binds whole lanes, so
//! what it is owed is known exactly, without keeping anything about single events.

use serde::{Deserialize, Serialize};

/// How sessions and lanes belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Pattern {
    /// All sessions bind the one lane.
    Fanout,
    /// Each session has an account and a lane of its own.
    Sharded,
    /// As sharded, with a binding that is one single subject.
    Single,
    /// Each session binds so many lanes of its account, each by a subject of its own.
    Subjects(u32),
    /// Ten sessions to an account, three bindings each, half of them wildcards.
    Mixed,
}

/// A load: its pattern and size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Load {
    /// How sessions and lanes belong together.
    pub(crate) pattern: Pattern,
    /// How many sessions.
    pub(crate) sessions: u32,
}

/// What the events of a lane have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lane {
    /// The number of its account.
    pub(crate) account: u32,
    /// What kind of event.
    pub(crate) kind: Kind,
    /// The one id that they have; without it each event has its own.
    pub(crate) id: Option<u32>,
}

/// Kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A call's; its key does not tell the account, its body does.
    Call(&'static str),
    /// A fax's; its key tells the account.
    Fax,
}

/// The calls' event names, one for each of a mixed session's bindings.
const CALLS: [&str; 3] = ["CHANNEL_CREATE", "CHANNEL_ANSWER", "CHANNEL_DESTROY"];
/// Sessions per account, where sessions share one.
const SHARING: u32 = 10;
/// Ids per event name of a mixed account.
const IDS: u32 = 2;
const MIXED_LANES: u32 = CALLS.len() as u32 * IDS;

impl Load {
    /// How many lanes there are.
    pub(crate) fn lanes(&self) -> u32 {
        match self.pattern {
            Pattern::Fanout => 1,
            Pattern::Sharded | Pattern::Single => self.sessions,
            Pattern::Subjects(each) => self.sessions * each,
            Pattern::Mixed => self.sessions.div_ceil(SHARING) * MIXED_LANES,
        }
    }

    /// How many accounts are needed, numbered from 0.
    pub(crate) fn accounts(&self) -> u32 {
        match self.pattern {
            Pattern::Fanout => 1,
            Pattern::Sharded | Pattern::Single | Pattern::Subjects(_) => self.sessions,
            Pattern::Mixed => self.sessions.div_ceil(SHARING),
        }
    }

    /// What a lane's events are.
    pub(crate) fn lane(&self, lane: u32) -> Lane {
        match self.pattern {
            Pattern::Fanout | Pattern::Sharded => {
                Lane { account: lane, kind: Kind::Call(CALLS[0]), id: None }
            }
            Pattern::Single => Lane { account: lane, kind: Kind::Fax, id: Some(lane) },
            Pattern::Subjects(each) => Lane { account: lane / each, kind: Kind::Fax, id: Some(lane) },
            Pattern::Mixed => {
                let name = CALLS[(lane % MIXED_LANES / IDS) as usize];
                Lane { account: lane / MIXED_LANES, kind: Kind::Call(name), id: Some(lane) }
            }
        }
    }

    /// The account that a session is of.
    pub(crate) fn account_of(&self, session: u32) -> u32 {
        match self.pattern {
            Pattern::Fanout => 0,
            Pattern::Sharded | Pattern::Single | Pattern::Subjects(_) => session,
            Pattern::Mixed => session / SHARING,
        }
    }

    /// What a session binds: each binding's lane, with the id only where it is a part of the binding.
    pub(crate) fn bindings(&self, session: u32) -> Vec<Lane> {
        let account = self.account_of(session);
        match self.pattern {
            Pattern::Fanout => vec![self.lane(0)],
            Pattern::Sharded | Pattern::Single => vec![self.lane(session)],
            Pattern::Subjects(each) => (0..each).map(|one| self.lane(session * each + one)).collect(),
            Pattern::Mixed => {
                let wildcards = wildcards(session);
                let name = |(index, id): (usize, Option<u32>)| {
                    let lane = account * MIXED_LANES + index as u32 * IDS + session % IDS;
                    Lane { id: id.map(|_| lane), ..self.lane(lane) }
                };
                (0..CALLS.len()).map(|index| name((index, (index >= wildcards).then_some(0)))).collect()
            }
        }
    }

    /// The lanes whose events a session is owed, in ascending order.
    pub(crate) fn lanes_of(&self, session: u32) -> Vec<u32> {
        match self.pattern {
            Pattern::Fanout => vec![0],
            Pattern::Sharded | Pattern::Single => vec![session],
            Pattern::Subjects(each) => (session * each..(session + 1) * each).collect(),
            Pattern::Mixed => {
                let bound = self.bindings(session);
                let first = self.account_of(session) * MIXED_LANES;
                let fits = |lane: &u32| {
                    let of = self.lane(*lane);
                    bound.iter().any(|one| one.kind == of.kind && (one.id.is_none() || one.id == of.id))
                };
                (first..first + MIXED_LANES).filter(fits).collect()
            }
        }
    }

    /// How many deliveries an event causes on average.
    pub(crate) fn deliveries_per_event(&self) -> f64 {
        match self.pattern {
            Pattern::Fanout => f64::from(self.sessions),
            Pattern::Sharded | Pattern::Single | Pattern::Subjects(_) => 1.0,
            Pattern::Mixed => {
                let owed: usize = (0..self.sessions).map(|session| self.lanes_of(session).len()).sum();
                owed as f64 / f64::from(self.lanes())
            }
        }
    }

    /// How many of the first `events` events are in a lane.
    pub(crate) fn in_lane(&self, lane: u32, events: u64) -> u64 {
        let lanes = u64::from(self.lanes());
        (events + lanes - 1 - u64::from(lane)) / lanes
    }
}

/// Of a mixed session's three bindings, so many are wildcards: two and one in turn.
fn wildcards(session: u32) -> usize {
    if session.is_multiple_of(2) { 2 } else { 1 }
}

/// The id of an account.
pub(crate) fn account_id(account: u32) -> String {
    format!("{:032x}", u128::from(account) | 0xb1ac << 112)
}

/// The SIP realm of an account.
pub(crate) fn realm(account: u32) -> String {
    format!("r{account}.bench.example.com")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Pattern; 5] =
        [Pattern::Fanout, Pattern::Sharded, Pattern::Single, Pattern::Subjects(7), Pattern::Mixed];

    #[test]
    fn every_event_is_in_one_lane() {
        for pattern in ALL {
            let load = Load { pattern, sessions: 40 };
            for events in [0, 1, 39, 40, 1_001] {
                let all: u64 = (0..load.lanes()).map(|lane| load.in_lane(lane, events)).sum();
                assert_eq!(all, events);
            }
        }
    }

    #[test]
    fn a_mixed_session_is_owed_what_its_bindings_match() {
        let load = Load { pattern: Pattern::Mixed, sessions: 40 };
        assert_eq!(load.bindings(10).iter().filter(|lane| lane.id.is_none()).count(), 2);
        assert_eq!(load.bindings(11).iter().filter(|lane| lane.id.is_none()).count(), 1);
        assert_eq!(load.lanes_of(10), [6, 7, 8, 9, 10]);
        assert_eq!(load.lanes_of(11), [6, 7, 9, 11]);
        assert_eq!(load.deliveries_per_event(), 7.5);
    }

    #[test]
    fn lanes_and_accounts_fit() {
        for pattern in ALL {
            let load = Load { pattern, sessions: 40 };
            for session in 0..40 {
                let account = load.account_of(session);
                assert!(account < load.accounts());
                for lane in load.lanes_of(session) {
                    assert!(lane < load.lanes());
                    assert_eq!(load.lane(lane).account, account);
                }
            }
        }
    }
}
