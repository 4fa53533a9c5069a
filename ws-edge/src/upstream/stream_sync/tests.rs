use std::time::SystemTime;

use super::{super::contradiction::MIN_STALE, *};

const SUBJECT: &[u8] = b"ev.t.a";

/// A stream that ends at `last`, with a leader if there are several servers.
fn stream(name: &str, last: u64, leader: Option<&str>) -> StreamInfo {
    StreamInfo {
        id: StreamId::new(name),
        created: SystemTime::UNIX_EPOCH,
        first: 1,
        first_at: SystemTime::UNIX_EPOCH,
        last_at: SystemTime::UNIX_EPOCH,
        last,
        max_age: Duration::from_secs(600),
        is_roomy: true,
        leader: leader.map(str::to_owned),
    }
}

/// In sync with a stream that ends at `last`.
fn in_sync(last: u64, leader: Option<&str>, now: Instant) -> StreamSync {
    let mut sync = StreamSync::new(now);
    let effects = sync.informed(Some(stream("s", last, leader)), 0, now);
    assert_eq!(names(&effects), [format!("verified {last}"), "release".to_owned()]);
    sync
}

fn names(effects: &[Effect]) -> Vec<String> {
    let name = |effect: &Effect| match effect {
        Effect::ResetPositions => "reset".to_owned(),
        Effect::Truncate(last) => format!("truncate {last}"),
        Effect::Verified(position) => format!("verified {position}"),
        Effect::Release => "release".to_owned(),
        Effect::Repair(gap) => format!("repair {}..={}", gap.after + 1, gap.last),
    };
    effects.iter().map(name).collect()
}

fn accepts(sync: &mut StreamSync, sequence: u64) -> bool {
    sync.accept(sequence, &Bytes::from_static(SUBJECT), Instant::now()).is_some()
}

#[test]
fn events_are_held_back_until_the_stream_is_known() {
    let now = Instant::now();
    let mut sync = StreamSync::new(now);
    assert!(!sync.is_in_sync() && !accepts(&mut sync, 5));
    sync.informed(Some(stream("s", 5, None)), 0, now);
    assert!(sync.is_in_sync() && accepts(&mut sync, 5), "watermarks recognise what was stored before");
    assert!(accepts(&mut sync, 6));
}

#[test]
fn a_gap_after_a_lost_connection_is_repaired_from_the_last_event() {
    let now = Instant::now();
    let mut sync = in_sync(5, None, now);
    assert!(accepts(&mut sync, 6));
    sync.disconnected(now);
    assert_eq!(names(&sync.informed(Some(stream("s", 9, None)), 0, now)), ["repair 7..=9"]);
    assert_eq!(names(&sync.repaired(false, now)), [""; 0]);
    assert_eq!(sync.next_check(), now + RETRY_INTERVAL, "the stream could not be read");
    assert_eq!(names(&sync.informed(Some(stream("s", 10, None)), 0, now)), ["repair 7..=10"]);
    assert_eq!(names(&sync.repaired(true, now)), ["verified 10", "release"]);
    assert!(sync.is_in_sync());
}

#[test]
fn a_new_leader_means_a_repair_from_what_is_verified() {
    let start = Instant::now();
    let mut sync = in_sync(5, Some("n1"), start);
    assert!(accepts(&mut sync, 6) && accepts(&mut sync, 8));
    let later = start + CHECK_INTERVAL;
    let effects = sync.informed(Some(stream("s", 9, Some("n2"))), 0, later);
    let Some(Effect::Repair(gap)) = effects.first() else { panic!("{effects:?}") };
    assert_eq!((gap.after, gap.last), (5, 9), "n1 may have kept 7 to itself");
    assert!(format!("{:?}", gap.seen).contains("[6, 8]"), "{:?}", gap.seen);
}

#[test]
fn what_the_stream_had_one_check_ago_is_verified() {
    let start = Instant::now();
    let mut sync = in_sync(5, Some("n1"), start);
    let check = |n: u32| start + CHECK_INTERVAL * n;
    assert_eq!(names(&sync.informed(Some(stream("s", 7, Some("n1"))), 0, check(1))), ["verified 0"]);
    assert_eq!(names(&sync.informed(Some(stream("s", 8, Some("n1"))), 0, check(1))), [""; 0], "too early");
    assert_eq!(names(&sync.informed(Some(stream("s", 9, Some("n1"))), 0, check(2))), ["verified 7"]);
}

#[test]
fn positions_that_go_back_are_another_streams() {
    let now = Instant::now();
    let mut sync = in_sync(5, None, now);
    assert!(accepts(&mut sync, 8) && accepts(&mut sync, 8), "one message for each subject that it matches");
    assert!(!accepts(&mut sync, 7));
    assert!(
        sync.accept(8, &Bytes::from_static(b"ev.t.b"), now).is_none(),
        "another event at the same position"
    );
    sync.doubt(now);
    assert_eq!(names(&sync.informed(Some(stream("new", 7, None)), 0, now)), ["reset", "repair 1..=7"]);
}

/// The stream is deleted, or the server has started with an empty store.
fn without_stream(last: u64, now: Instant) -> StreamSync {
    let mut sync = in_sync(last, None, now);
    sync.disconnected(now);
    assert_eq!(names(&sync.informed(None, 0, now)), ["reset", "release"]);
    sync
}

#[test]
fn all_events_of_a_stream_that_is_made_anew_reach_the_sessions() {
    let now = Instant::now();
    let mut sync = without_stream(1000, now);
    assert!(!accepts(&mut sync, 1), "of which stream it is must be known first");
    sync.doubt(now);
    assert_eq!(names(&sync.informed(Some(stream("new", 3, None)), 0, now)), ["repair 1..=3"]);
    assert_eq!(names(&sync.repaired(true, now)), ["verified 3", "release"]);
    assert!(accepts(&mut sync, 4));

    let mut sync = without_stream(1000, now);
    let effects = sync.informed(Some(stream("new", 3, None)), 0, now);
    assert_eq!(names(&effects), ["repair 1..=3"], "also if none of them has come live");
}

#[test]
fn an_empty_stream_that_is_made_anew_needs_no_repair() {
    let now = Instant::now();
    let mut sync = without_stream(1000, now);
    assert_eq!(names(&sync.informed(Some(stream("new", 0, None)), 0, now)), ["release"]);
    assert!(sync.is_in_sync() && accepts(&mut sync, 1) && accepts(&mut sync, 2));
}

#[test]
fn the_first_events_of_the_first_stream_reach_the_sessions() {
    let now = Instant::now();
    let mut sync = StreamSync::new(now);
    assert_eq!(names(&sync.informed(None, 0, now)), ["release"], "sessions subscribe without a stream");
    assert_eq!(names(&sync.informed(Some(stream("s", 2, None)), 0, now)), ["repair 1..=2"]);
}

#[test]
fn a_stream_that_comes_back_continues_where_it_was() {
    let now = Instant::now();
    let mut sync = without_stream(1000, now);
    assert_eq!(names(&sync.informed(Some(stream("s", 1003, None)), 0, now)), ["repair 1001..=1003"]);
}

#[test]
fn a_stream_that_is_replaced_between_two_checks_is_read_from_its_beginning() {
    let now = Instant::now();
    let mut sync = in_sync(1000, None, now);
    assert!(accepts(&mut sync, 1), "it may be an earlier event of the known stream");
    let effects = sync.informed(Some(stream("new", 2, None)), 0, now);
    assert_eq!(names(&effects), ["reset", "repair 1..=2"]);
    assert_eq!(names(&sync.repaired(true, now)), ["verified 2", "release"]);
}

#[test]
fn a_repair_that_is_not_enough_is_followed_by_another() {
    let now = Instant::now();
    let mut sync = in_sync(5, Some("n1"), now);
    sync.doubt(now);
    assert_eq!(names(&sync.informed(Some(stream("s", 7, Some("n1"))), 0, now)), ["repair 6..=7"]);
    sync.dropped();
    assert_eq!(names(&sync.repaired(true, now)), ["verified 7"], "a held message was dropped");
    assert!(!sync.is_in_sync());
    assert_eq!(sync.next_check(), now);
}

#[test]
fn a_server_that_contradicts_what_is_known_is_believed_only_after_a_while() {
    let now = Instant::now();
    let mut sync = in_sync(5, Some("n1"), now);
    for _ in 0..MIN_STALE {
        assert!(sync.believe(None, 5, now).is_err(), "they came at once");
    }
    assert!(sync.believe(None, 5, now + STALE_TIMEOUT).is_ok());
    assert_eq!(names(&sync.informed(None, 0, now)), ["reset"]);
    assert!(sync.is_in_sync(), "events without a history come as they are");
}

#[test]
fn an_answer_that_fits_is_believed_at_once() {
    let now = Instant::now();
    let mut sync = in_sync(5, Some("n1"), now);
    assert!(sync.believe(Some(stream("s", 4, Some("n1"))), 5, now).is_err(), "less than what has come");
    assert!(sync.believe(Some(stream("s", 5, Some("n1"))), 5, now).is_ok());
    assert!(sync.believe(Some(stream("s", 4, Some("n1"))), 5, now).is_err(), "counted anew");
}

#[test]
fn a_stream_that_comes_back_shorter_gives_its_positions_anew() {
    let now = Instant::now();
    let mut sync = in_sync(9, None, now);
    sync.disconnected(now);
    assert_eq!(names(&sync.informed(Some(stream("s", 5, None)), 9, now)), ["truncate 5", "release"]);
    assert!(accepts(&mut sync, 6) && accepts(&mut sync, 7), "new events at positions that were others'");

    let mut sync = in_sync(9, None, now);
    assert!(accepts(&mut sync, 10));
    assert_eq!(
        names(&sync.informed(Some(stream("s", 9, None)), 9, now)),
        [""; 0],
        "the answer was under way"
    );
}

#[test]
fn a_stream_that_comes_back_shorter_with_another_leader_is_noticed() {
    let now = Instant::now();
    let mut sync = in_sync(9, Some("n1"), now);
    let effects = sync.informed(Some(stream("s", 5, Some("n2"))), 9, now);
    assert_eq!(names(&effects), ["truncate 5", "release"]);
    assert!(accepts(&mut sync, 6));
}

#[test]
fn a_stream_that_comes_back_shorter_before_its_events_came_is_noticed() {
    let now = Instant::now();
    let mut sync = in_sync(5, None, now);
    sync.informed(Some(stream("s", 9, None)), sync.expected(), now);
    sync.disconnected(now);
    assert_eq!(sync.expected(), 9, "it was reported");
    let effects = sync.informed(Some(stream("s", 7, None)), sync.expected(), now);
    assert_eq!(names(&effects), ["truncate 7", "repair 6..=7"], "what was reported and did not come is owed");
}

#[test]
fn events_of_a_stream_that_the_server_does_not_know_yet_wait_for_it() {
    let now = Instant::now();
    let mut sync = StreamSync::new(now);
    assert_eq!(names(&sync.informed(None, 0, now)), ["release"]);
    assert!(!accepts(&mut sync, 5) && !sync.has_no_stream(now));
    sync.doubt(now);
    assert_eq!(names(&sync.informed(None, 0, now)), [""; 0], "it is asked again");
    assert_eq!(names(&sync.informed(Some(stream("s", 5, None)), 0, now)), ["repair 5..=5"]);
}

#[test]
fn a_cluster_that_denies_a_stream_at_first_is_believed_only_after_a_while() {
    let now = Instant::now();
    let mut sync = StreamSync::new(now);
    sync.connected(true, now);
    for _ in 0..MIN_STALE {
        assert!(sync.believe(None, 0, now).is_err(), "it may have elected a leader just now");
    }
    let later = now + STALE_TIMEOUT;
    assert!(sync.believe(None, 0, later).is_ok());
    sync.informed(None, 0, later);
    assert!(sync.believe(None, 0, later).is_ok(), "nothing else is known");
    assert!(!accepts(&mut sync, 5));
    let created = sync.informed(Some(stream("s", 5, Some("n1"))), 0, later);
    assert_eq!(names(&created), ["repair 1..=5"], "it is a new one");
}

#[test]
fn a_server_that_denies_a_stream_for_long_is_believed() {
    let now = Instant::now();
    let mut sync = StreamSync::new(now);
    sync.informed(None, 0, now);
    assert!(!accepts(&mut sync, 5));
    sync.doubt(now);
    let later = Instant::now() + STALE_TIMEOUT;
    assert_eq!(names(&sync.informed(None, 0, later)), ["release"]);
    assert!(sync.has_no_stream(later));
}
