//! The plan of a replay: whether one unfiltered reader or several filtered ones read less of the stream.

/// Break-even point: creating a filtered reader costs about as much as reading this many unfiltered events.
const EVENTS_PER_READER: u64 = 1000;
/// Sessions with more subjects than this use an unfiltered reader.
pub(super) const MAX_FILTERED_READERS: usize = 16;

/// A lagging session as the plan sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gap {
    /// It has had everything up to this position.
    pub(super) after: u64,
    /// How many subjects it has.
    pub(super) subjects: usize,
}

/// How many of these sessions, newest first, one unfiltered reader serves best. Each of the others gets a replay of its
/// own, with filtered readers.
///
/// An unfiltered reader costs all events from the oldest session's position to `last`. Filtered readers cost their set-up
/// for each subject. The events that match are delivered either way.
pub(super) fn shared(sessions: &[Gap], last: u64) -> usize {
    let mut filtered: u64 =
        sessions.iter().fold(0, |sum: u64, gap| sum.saturating_add(filtered_cost(gap.subjects)));
    let mut best = (filtered, 0);
    for (index, gap) in sessions.iter().enumerate() {
        filtered = filtered.saturating_sub(filtered_cost(gap.subjects));
        let cost = last.saturating_sub(gap.after).saturating_add(filtered);
        if cost <= best.0 {
            best = (cost, index + 1);
        }
    }
    best.1
}

fn filtered_cost(subjects: usize) -> u64 {
    if subjects > MAX_FILTERED_READERS {
        // More than any gap. A quarter, so that sums of a few do not overflow.
        u64::MAX / 4
    } else {
        subjects as u64 * EVENTS_PER_READER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared_of(sessions: &[(u64, usize)], last: u64) -> usize {
        let gaps: Vec<Gap> = sessions.iter().map(|&(after, subjects)| Gap { after, subjects }).collect();
        shared(&gaps, last)
    }

    #[test]
    fn many_sessions_with_recent_cursors_share_a_reader() {
        let storm: Vec<(u64, usize)> = (0..5000).map(|session| (1_000_000 - session, 3)).collect();
        assert_eq!(shared_of(&storm, 1_050_000), 5000);
    }

    #[test]
    fn one_session_with_an_old_cursor_gets_its_own_readers_and_delays_nobody() {
        let mut sessions: Vec<(u64, usize)> = (0..100).map(|session| (1_000_000 - session, 3)).collect();
        sessions.push((100, 3));
        assert_eq!(shared_of(&sessions, 1_000_100), 100);
        assert_eq!(shared_of(&[(100, 3)], 1_000_000), 0);
    }

    #[test]
    fn a_short_gap_is_read_unfiltered() {
        assert_eq!(shared_of(&[(100, 1)], 200), 1);
        assert_eq!(shared_of(&[(100, 1)], 100), 1);
        assert_eq!(shared_of(&[], 100), 0);
    }

    #[test]
    fn a_session_with_very_many_subjects_is_read_unfiltered() {
        assert_eq!(shared_of(&[(0, 1000)], 10_000_000), 1);
    }
}
