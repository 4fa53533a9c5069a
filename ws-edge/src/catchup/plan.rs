//! The plan of a replay: what it reads of the stream, and whether it read all of it.

use std::{collections::BTreeSet, sync::Arc};

/// Break-even point: creating a filtered reader costs about as much as reading this many unfiltered events.
const EVENTS_PER_READER: u64 = 1000;
/// Most readers that one replay merges: each holds a consumer at the server and events in memory.
const MAX_READERS: usize = 64;

/// What a replay reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// All events, of all tenants.
    Everything,
    /// The events of these subjects, each with a reader of its own.
    Filtered(Vec<Arc<str>>),
}

impl Reading {
    /// Chooses what costs less for these subjects in a gap of that many events.
    ///
    /// Filters cover whole tenants, so that their number does not depend on how many subjects a client asks for. Who
    /// needs a few subjects of one tenant gets them alone.
    pub(crate) fn choose(event_root: &str, subjects: Vec<Arc<str>>, gap: u64) -> Reading {
        let tenants: BTreeSet<Arc<str>> =
            subjects.iter().map(|subject| tenant_filter(event_root, subject)).collect();
        let filters = if subjects.len() <= tenants.len() { subjects } else { Vec::from_iter(tenants) };
        if filters.len() > MAX_READERS || gap <= filtered_cost(filters.len()) {
            Reading::Everything
        } else {
            Reading::Filtered(filters)
        }
    }
}

/// How reading for a replay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadEnd {
    /// Everything was read.
    Complete,
    /// No session needs it any more.
    Unneeded,
    /// The account has used up its budget. Everything up to this position was read.
    Exhausted(u64),
}

/// The subject that covers all events of a subject's tenant. `>` does not match zero words: a subject without words after
/// the tenant, for events with an empty routing key, is its own filter.
fn tenant_filter(event_root: &str, subject: &Arc<str>) -> Arc<str> {
    let rest = subject.get(event_root.len() + 1..).unwrap_or_default();
    match rest.split_once('.') {
        Some((tenant, _)) => format!("{event_root}.{tenant}.>").into(),
        None => Arc::clone(subject),
    }
}

/// How many of these sessions, newest first, one replay that reads everything serves best. Each is given as its position
/// and its account. The other accounts get replays of their own, with filtered readers.
///
/// Reading everything costs all events from the oldest of these sessions' positions to `last`. A filtered replay costs
/// its set-up. The events of the account are delivered either way.
pub(super) fn shared<'a>(sessions: &[(u64, &'a str)], last: u64) -> usize {
    let mut apart: BTreeSet<&'a str> = BTreeSet::new();
    // What the sessions from each index on cost if they are read filtered.
    let mut filtered: Vec<u64> = sessions
        .iter()
        .rev()
        .map(|(_, account)| {
            apart.insert(account);
            filtered_cost(apart.len())
        })
        .collect();
    filtered.reverse();
    let mut best = (filtered.first().copied().unwrap_or_default(), 0);
    for (index, (after, _)) in sessions.iter().enumerate() {
        let rest = filtered.get(index + 1).copied().unwrap_or_default();
        let cost = last.saturating_sub(*after).saturating_add(rest);
        if cost <= best.0 {
            best = (cost, index + 1);
        }
    }
    best.1
}

fn filtered_cost(readers: usize) -> u64 {
    readers as u64 * EVENTS_PER_READER
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(subjects: &[&str], gap: u64) -> Reading {
        Reading::choose("ev", subjects.iter().map(|&subject| subject.into()).collect(), gap)
    }

    fn filtered(filters: &[&str]) -> Reading {
        Reading::Filtered(filters.iter().map(|&filter| filter.into()).collect())
    }

    #[test]
    fn one_reader_serves_all_subjects_of_a_tenant() {
        let many: Vec<String> = (0..1000).map(|call| format!("ev.acc.call.*.{call}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(reading(&many, 1_000_000), filtered(&["ev.acc.>"]));
        let subjects = ["ev.acc.call.*.*", "ev.acc.fax.*", "ev.@realm.update.*.*"];
        assert_eq!(reading(&subjects, 1_000_000), filtered(&["ev.@realm.>", "ev.acc.>"]));
    }

    #[test]
    fn a_single_subject_is_read_alone() {
        assert_eq!(reading(&["ev.acc.call.*.x"], 1_000_000), filtered(&["ev.acc.call.*.x"]));
    }

    #[test]
    fn events_with_an_empty_routing_key_are_covered() {
        let subjects = ["ev.acc", "ev.acc.>", "ev.acc.a"];
        assert_eq!(reading(&subjects, 1_000_000), filtered(&["ev.acc", "ev.acc.>"]));
    }

    #[test]
    fn a_short_gap_is_read_as_a_whole() {
        assert_eq!(reading(&["ev.acc.a", "ev.acc.b"], 1000), Reading::Everything);
        assert_eq!(reading(&["ev.acc.a", "ev.acc.b"], 1001), filtered(&["ev.acc.>"]));
    }

    #[test]
    fn so_is_one_for_more_tenants_than_readers() {
        let tenants: Vec<String> = (0..=MAX_READERS).map(|tenant| format!("ev.t{tenant}.a")).collect();
        let tenants: Vec<&str> = tenants.iter().map(String::as_str).collect();
        assert_eq!(reading(&tenants, u64::MAX), Reading::Everything);
        assert!(matches!(reading(&tenants[1..], u64::MAX), Reading::Filtered(_)));
    }

    #[test]
    fn many_accounts_with_recent_cursors_share_a_replay() {
        let accounts: Vec<String> = (0..5000).map(|account| account.to_string()).collect();
        let storm: Vec<(u64, &str)> =
            (1..).zip(&accounts).map(|(age, account)| (1_000_000 - age, account.as_str())).collect();
        assert_eq!(shared(&storm, 1_050_000), 5000);
    }

    #[test]
    fn an_old_cursor_delays_nobody() {
        assert_eq!(shared(&[(999_990, "a"), (999_980, "b"), (100, "c")], 1_000_000), 2);
        assert_eq!(shared(&[(100, "a")], 1_000_000), 0);
        assert_eq!(shared(&[(999_000, "a")], 1_000_000), 1);
        assert_eq!(shared(&[], 100), 0);
    }

    #[test]
    fn many_sessions_of_one_account_weigh_as_one() {
        let sessions = vec![(990_000, "a"); 60];
        assert_eq!(shared(&sessions, 1_000_000), 0);
        assert_eq!(shared(&[&[(999_990, "b")], &sessions[..]].concat(), 1_000_000), 1);
    }
}
