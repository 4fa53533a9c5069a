//! The sessions, their bindings, and the events each of them has to receive.
//!
//! Events are distributed round-robin over *lanes*: event `k` is number `k / lanes` of lane `k % lanes`. A session
//! binds whole lanes, so the events it has to receive are known exactly without any record of single events.

use serde::{Deserialize, Serialize};

/// How sessions bind lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Pattern {
    /// There is one lane, which all sessions bind.
    Fanout,
    /// Each session has its own account and lane.
    Sharded,
    /// As sharded, with a binding for a single subject.
    Single,
    /// Each session binds this many lanes of its account, each by its own subject.
    Subjects(u32),
    /// Ten sessions per account with three bindings each, half of them wildcards.
    Mixed,
}

/// A load: pattern and size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Load {
    /// How sessions bind lanes.
    pub(crate) pattern: Pattern,
    /// The number of sessions.
    pub(crate) sessions: u32,
}

/// What all events of a lane have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lane {
    /// The number of its account.
    pub(crate) account: u32,
    /// The kind of the events.
    pub(crate) kind: Kind,
    /// The id of all events; if there is none, each event has its own.
    pub(crate) id: Option<u32>,
}

/// Kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A call event: the account is in the body, not in the key.
    Call(&'static str),
    /// A fax event: the account is in the key.
    Fax,
}

/// The names of call events, one for each binding of a mixed session.
const CALLS: [&str; 3] = ["CHANNEL_CREATE", "CHANNEL_ANSWER", "CHANNEL_DESTROY"];
/// Sessions per account in a mixed load.
const SHARING: u32 = 10;
/// Ids per event name and account in a mixed load.
const IDS: u32 = 2;
const MIXED_LANES: u32 = CALLS.len() as u32 * IDS;

impl Load {
    /// The number of lanes.
    pub(crate) fn lanes(&self) -> u32 {
        match self.pattern {
            Pattern::Fanout => 1,
            Pattern::Sharded | Pattern::Single => self.sessions,
            Pattern::Subjects(each) => self.sessions * each,
            Pattern::Mixed => self.sessions.div_ceil(SHARING) * MIXED_LANES,
        }
    }

    /// The number of accounts, which are numbered from 0.
    pub(crate) fn accounts(&self) -> u32 {
        match self.pattern {
            Pattern::Fanout => 1,
            Pattern::Sharded | Pattern::Single | Pattern::Subjects(_) => self.sessions,
            Pattern::Mixed => self.sessions.div_ceil(SHARING),
        }
    }

    /// The properties of a lane.
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

    /// The account of a session.
    pub(crate) fn account_of(&self, session: u32) -> u32 {
        match self.pattern {
            Pattern::Fanout => 0,
            Pattern::Sharded | Pattern::Single | Pattern::Subjects(_) => session,
            Pattern::Mixed => session / SHARING,
        }
    }

    /// The bindings of a session, each as a lane. The id is set only where the binding contains it.
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

    /// The lanes whose events a session has to receive, in ascending order.
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

    /// Average number of deliveries per event.
    pub(crate) fn deliveries_per_event(&self) -> f64 {
        match self.pattern {
            Pattern::Fanout => f64::from(self.sessions),
            Pattern::Sharded | Pattern::Single | Pattern::Subjects(_) => 1.0,
            Pattern::Mixed => {
                let lanes: usize = (0..self.sessions).map(|session| self.lanes_of(session).len()).sum();
                lanes as f64 / f64::from(self.lanes())
            }
        }
    }

    /// How many of the first `events` events belong to a lane.
    pub(crate) fn in_lane(&self, lane: u32, events: u64) -> u64 {
        let lanes = u64::from(self.lanes());
        (events + lanes - 1 - u64::from(lane)) / lanes
    }
}

/// The number of wildcards among the three bindings of a mixed session: two and one alternately.
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
    fn every_event_belongs_to_one_lane() {
        for pattern in ALL {
            let load = Load { pattern, sessions: 40 };
            for events in [0, 1, 39, 40, 1_001] {
                let all: u64 = (0..load.lanes()).map(|lane| load.in_lane(lane, events)).sum();
                assert_eq!(all, events);
            }
        }
    }

    #[test]
    fn a_mixed_session_expects_the_lanes_that_its_bindings_match() {
        let load = Load { pattern: Pattern::Mixed, sessions: 40 };
        assert_eq!(load.bindings(10).iter().filter(|lane| lane.id.is_none()).count(), 2);
        assert_eq!(load.bindings(11).iter().filter(|lane| lane.id.is_none()).count(), 1);
        assert_eq!(load.lanes_of(10), [6, 7, 8, 9, 10]);
        assert_eq!(load.lanes_of(11), [6, 7, 9, 11]);
        assert_eq!(load.deliveries_per_event(), 7.5);
    }

    #[test]
    fn lanes_belong_to_the_account_of_their_session() {
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
