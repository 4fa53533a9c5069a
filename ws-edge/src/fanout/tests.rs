use std::collections::BTreeMap;

use blackhole_common::subject::subject_matches;
use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{
    cursor::{Identity, Place},
    frame::{ShownKey, View, tests::payload},
    outbox::tests::{Kept, outbox},
};

const LINGER: Duration = Duration::from_secs(5);
const ROOM: usize = 1 << 20;

fn fanout() -> Arc<Fanout> {
    Arc::new(Fanout::new("ev", LINGER, Arc::new(Writers::new(Arc::default())), Arc::default()))
}

fn shape(binding: &str) -> Arc<Shape> {
    Arc::new(Shape::new(View::Args, None, "acc", binding, binding, ShownKey::AsPublished))
}

fn wish(binding: &str, subjects: &[&str]) -> Wish {
    let subjects = subjects.iter().map(|&subject| subject.to_owned()).collect();
    Wish { shape: shape(binding), subjects, since: None }
}

/// An event at a position of the stream; 0 for none.
fn event(subject: &str, sequence: u64) -> Event {
    let place = (sequence > 0).then(|| Place { stream: Identity::new("t"), sequence });
    let name = Bytes::from(format!("n{sequence}"));
    Event { subject: subject.to_owned().into(), name, body: Bytes::from_static(b"{}"), place }
}

fn deliver(fanout: &Fanout, number: SubjectNumber, event: &Event) {
    fanout.deliver(number, event, &EventFrames::read("ev", event).unwrap());
}

fn deliver_missed(fanout: &Fanout, event: &Event, late: bool) {
    fanout.deliver_missed(event, &EventFrames::read("ev", event).unwrap(), late);
}

/// The frames that a session was sent since it was last asked.
fn received(outbox: &Outbox, kept: &Kept) -> Vec<String> {
    outbox.flush();
    let bytes = kept.take();
    let mut rest = bytes.as_slice();
    let mut frames = Vec::new();
    while let Some(&length) = rest.get(1) {
        let size = if length < 126 {
            2 + usize::from(length)
        } else {
            4 + usize::from(u16::from_be_bytes([rest[2], rest[3]]))
        };
        frames.push(payload(&rest[..size]));
        rest = &rest[size..];
    }
    frames
}

/// The names of the events in [`received`], with the bindings they came for.
fn names(outbox: &Outbox, kept: &Kept) -> Vec<String> {
    let name = |frame: String| {
        let frame: serde_json::Value = serde_json::from_str(&frame).unwrap();
        format!("{} {}", frame["subscribed_key"].as_str().unwrap(), frame["name"].as_str().unwrap())
    };
    received(outbox, kept).into_iter().map(name).collect()
}

/// Subscribes and confirms everything, as the feed does.
fn settle(fanout: &Fanout) -> HashMap<String, SubjectNumber> {
    let fresh = fanout.take_fresh();
    fanout.confirm(&fresh.iter().map(|(number, _)| *number).collect::<Vec<_>>());
    for session in fanout.take_unconfirmed() {
        let _ = session.send(());
    }
    fresh.into_iter().map(|(number, text)| (text.to_string(), number)).collect()
}

fn join(fanout: &Arc<Fanout>, outbox: &Arc<Outbox>, wishes: Vec<Wish>) -> Vec<Membership> {
    fanout.join(outbox, wishes, vec![]).memberships
}

#[test]
fn a_join_is_confirmed_when_the_server_has_all_its_subjects() {
    let fanout = fanout();
    let first = fanout.join(&outbox(1, ROOM).0, vec![wish("b", &["ev.t.a", "ev.t.b"])], vec![]);
    let mut waiting = first.confirmation.unwrap();
    assert!(waiting.try_recv().is_err());
    assert_eq!(settle(&fanout).len(), 2);
    assert!(waiting.try_recv().is_ok());
    let second = fanout.join(&outbox(2, ROOM).0, vec![wish("b", &["ev.t.a"])], vec![]);
    assert!(second.confirmation.is_none(), "the server has it already");
    assert!(fanout.take_fresh().is_empty(), "one subscription per distinct subject");
}

#[test]
fn no_event_comes_twice_and_a_new_stream_begins_anew() {
    let fanout = fanout();
    let (outbox, kept) = outbox(1, ROOM);
    let _membership = join(&fanout, &outbox, vec![wish("b", &["ev.t.*"])]);
    let number = settle(&fanout)["ev.t.*"];
    for sequence in [1, 2, 2, 1] {
        deliver(&fanout, number, &event("ev.t.a", sequence));
    }
    deliver_missed(&fanout, &event("ev.t.a", 2), false);
    deliver_missed(&fanout, &event("ev.t.a", 3), false);
    deliver_missed(&fanout, &event("ev.u.a", 4), false);
    assert_eq!(names(&outbox, &kept), ["b n1", "b n2", "b n3"]);
    fanout.forget_positions();
    deliver(&fanout, number, &event("ev.t.a", 1));
    assert_eq!(names(&outbox, &kept), ["b n1"]);
}

#[test]
fn what_was_missed_before_a_subscription_is_not_owed_to_it() {
    let fanout = fanout();
    fanout.advance(7);
    let (outbox, kept) = outbox(1, ROOM);
    let _membership = join(&fanout, &outbox, vec![wish("b", &["ev.*.a"])]);
    settle(&fanout);
    for sequence in 5..10 {
        deliver_missed(&fanout, &event("ev.t.a", sequence), false);
    }
    assert_eq!(names(&outbox, &kept), ["b n8", "b n9"]);
}

#[test]
fn what_a_leader_kept_to_itself_comes_late_rather_than_never() {
    let fanout = fanout();
    let (outbox, kept) = outbox(1, ROOM);
    let _membership = join(&fanout, &outbox, vec![wish("b", &["ev.t.a"])]);
    let number = settle(&fanout)["ev.t.a"];
    deliver(&fanout, number, &event("ev.t.a", 2));
    deliver_missed(&fanout, &event("ev.t.a", 1), true);
    assert_eq!(names(&outbox, &kept), ["b n2", "b n1"]);
}

#[test]
fn a_replaced_membership_leaves_no_hole_and_no_double() {
    let fanout = fanout();
    let (outbox, kept) = outbox(1, ROOM);
    let old = join(&fanout, &outbox, vec![wish("b", &["ev.t.a"])]);
    let number = settle(&fanout)["ev.t.a"];
    deliver(&fanout, number, &event("ev.t.a", 1));
    let new = fanout.join(&outbox, vec![wish("c", &["ev.t.a"])], old);
    assert!(new.confirmation.is_none());
    deliver_missed(&fanout, &event("ev.t.a", 1), false);
    deliver(&fanout, number, &event("ev.t.a", 2));
    assert_eq!(names(&outbox, &kept), ["b n1", "c n2"]);
    assert_eq!(fanout.members("ev.t.a"), Some(1));
}

#[test]
fn an_unused_subject_lingers_then_goes() {
    let fanout = fanout();
    let membership = join(&fanout, &outbox(1, ROOM).0, vec![wish("b", &["ev.t.a"])]);
    let number = settle(&fanout)["ev.t.a"];
    assert_eq!(fanout.next_idle(), None);
    drop(membership);
    let now = Instant::now();
    assert!(fanout.take_idle(now).is_empty(), "it lingers");
    let again = fanout.join(&outbox(2, ROOM).0, vec![wish("b", &["ev.t.a"])], vec![]);
    assert!(again.confirmation.is_none(), "it was still there");
    assert!(fanout.take_idle(now + LINGER * 2).is_empty(), "it is in use");
    drop(again);
    assert_eq!(fanout.take_idle(Instant::now() + LINGER * 2), [number]);
    assert_eq!(fanout.members("ev.t.a"), None);
}

/// Brings these sessions up to date from `history`, as a pass of the catch-up does.
fn catch_up(fanout: &Fanout, pass: PassNumber, sessions: &[&Arc<Outbox>], history: &[Event]) {
    let joined = |outbox: &&Arc<Outbox>| Some((Arc::clone(outbox), outbox.join_pass(pass)?));
    let (mut lanes, _) = fanout.lanes(pass, sessions.iter().filter_map(joined).collect(), false);
    let last = history.last().map_or(0, |event| sequence(event).unwrap()).max(fanout.start_tail(&lanes));
    for event in history {
        lanes.deliver(event, &EventFrames::read("ev", event).unwrap());
    }
    lanes.advance(last);
    assert!(fanout.finish(&mut lanes, last));
}

#[test]
fn who_comes_back_gets_the_past_of_its_bindings_then_what_comes() {
    let fanout = fanout();
    let history: Vec<Event> =
        (1..=6).map(|n| event(if n % 2 == 0 { "ev.t.even" } else { "ev.t.odd" }, n)).collect();
    fanout.advance(6);
    let (outbox, kept) = outbox(1, ROOM);
    let (other, others) = crate::outbox::tests::outbox(2, ROOM);
    let _other = join(&fanout, &other, vec![wish("all", &["ev.t.*"])]);
    let _mine = fanout.join(
        &outbox,
        vec![wish("all", &["ev.t.*"]).since(3), wish("e", &["ev.t.even"]).since(3)],
        vec![],
    );
    let numbers = settle(&fanout);
    let live = |sequence| {
        for number in [numbers["ev.t.*"], numbers["ev.t.even"]] {
            deliver(&fanout, number, &event("ev.t.even", sequence));
        }
    };
    live(7);
    assert_eq!(names(&outbox, &kept), [""; 0], "not before the past");
    outbox.release();
    let joined = vec![(Arc::clone(&outbox), outbox.join_pass(1).unwrap())];
    let (mut lanes, _) = fanout.lanes(1, joined, true);
    assert_eq!(fanout.start_tail(&lanes), 7);
    live(8);
    for event in history.iter().chain([&event("ev.t.even", 7)]) {
        lanes.deliver(event, &EventFrames::read("ev", event).unwrap());
    }
    live(9);
    assert!(fanout.finish(&mut lanes, 7));
    live(10);
    let mut got = names(&outbox, &kept);
    // An event's two frames come in the order of their ranks.
    got.sort_by_key(|name| (name.split_once(" n").unwrap().1.parse::<u64>().unwrap(), name.clone()));
    let expected = [
        "all n4", "e n4", "all n5", "all n6", "e n6", "all n7", "e n7", "all n8", "e n8", "all n9", "e n9",
        "all n10", "e n10",
    ];
    assert_eq!(got, expected);
    assert_eq!(
        names(&other, &others),
        ["all n7", "all n8", "all n9", "all n10"],
        "nobody else is delayed or repeated"
    );
}

#[test]
fn a_session_is_told_its_position_only_where_it_has_had_everything_up_to_there_and_nothing_beyond() {
    let fanout = fanout();
    let (outbox, kept) = outbox(1, ROOM);
    let _mine = join(&fanout, &outbox, vec![wish("a", &["ev.t.a"])]);
    let number = settle(&fanout)["ev.t.a"];
    fanout.advance(4);
    assert_eq!(fanout.position_of(&outbox), Some(4));
    let _past = fanout.join(&outbox, vec![wish("all", &["ev.t.*"]).since(4)], vec![]);
    outbox.release();
    deliver(&fanout, number, &event("ev.t.a", 5));
    assert_eq!(fanout.position_of(&outbox), None, "it lags");
    assert_eq!(names(&outbox, &kept), [""; 0]);
    // What is read from the stream may have come to it before it came live.
    let history: Vec<Event> = (5..=12).map(|n| event("ev.t.a", n)).collect();
    catch_up(&fanout, 1, &[&outbox], &history);
    assert_eq!(fanout.position_of(&outbox), None, "it had more than what was live");
    deliver(&fanout, number, &event("ev.t.a", 12));
    assert_eq!(fanout.position_of(&outbox), Some(12));
}

#[test]
fn who_was_cut_off_between_two_frames_of_one_event_gets_the_rest_of_them() {
    let bindings = [("a", "ev.t.a"), ("all", "ev.t.*"), ("rest", "ev.t.>"), ("any", "ev.*.a")];
    let fanout = fanout();
    let wishes = || bindings.iter().map(|(name, subject)| wish(name, &[subject])).collect::<Vec<_>>();
    let (whole, kept) = outbox(1, ROOM);
    let _whole = join(&fanout, &whole, wishes());
    let number = settle(&fanout)["ev.t.*"];
    let events = [event("ev.t.a", 1), event("ev.t.a", 2)];
    events.iter().for_each(|event| deliver(&fanout, number, event));
    let frames: Vec<serde_json::Value> =
        received(&whole, &kept).iter().map(|frame| serde_json::from_str(frame).unwrap()).collect();
    let name = |frame: &serde_json::Value| format!("{} {}", frame["subscribed_key"], frame["name"]);
    assert_eq!(frames.len(), 8, "one subscription's message brings it to all");
    for cut in 0..frames.len() {
        let cursor = crate::cursor::Cursor::parse(frames[cut]["cursor"].as_str().unwrap()).unwrap();
        let (again, kept) = outbox(10 + cut as u64, ROOM);
        let behind = |wish: Wish| {
            let had = wish.shape.rank() <= cursor.rank;
            wish.since(if had { cursor.place.sequence } else { cursor.place.sequence - 1 })
        };
        let _again = fanout.join(&again, wishes().into_iter().map(behind).collect(), vec![]);
        again.release();
        catch_up(&fanout, 100 + cut as u64, &[&again], &events);
        let rest: Vec<String> =
            received(&again, &kept).iter().map(|frame| name(&serde_json::from_str(frame).unwrap())).collect();
        assert_eq!(rest, frames[cut + 1..].iter().map(name).collect::<Vec<_>>(), "cut behind frame {cut}");
    }
}

#[test]
fn a_slow_reader_misses_nothing_and_gets_nothing_twice() {
    let fanout = fanout();
    let (outbox, kept) = outbox(1, 200);
    let _mine = join(&fanout, &outbox, vec![wish("a", &["ev.t.a"]), wish("all", &["ev.t.*"])]);
    let numbers = settle(&fanout);
    kept.allow(0);
    let history: Vec<Event> = (1..=40).map(|n| event("ev.t.a", n)).collect();
    let mut got = Vec::new();
    for (pass, event) in (1..).zip(&history) {
        for number in [numbers["ev.t.a"], numbers["ev.t.*"]] {
            deliver(&fanout, number, event);
        }
        if pass % 7 == 0 {
            // It reads again for a while.
            kept.allow(1000);
            got.extend(names(&outbox, &kept));
            catch_up(&fanout, pass, &[&outbox], &history[..pass as usize]);
            got.extend(names(&outbox, &kept));
            kept.allow(0);
        }
    }
    kept.allow(1 << 20);
    for pass in 100.. {
        got.extend(names(&outbox, &kept));
        if outbox.lagging().is_none() {
            break;
        }
        catch_up(&fanout, pass, &[&outbox], &history);
    }
    for binding in ["a", "all"] {
        let mine: Vec<&String> = got.iter().filter(|name| name.starts_with(&format!("{binding} "))).collect();
        let expected: Vec<String> = (1..=40).map(|n| format!("{binding} n{n}")).collect();
        assert_eq!(mine, expected.iter().collect::<Vec<_>>());
    }
}

#[test]
fn asking_for_the_past_between_the_subjects_of_one_event_loses_nothing() {
    let fanout = fanout();
    let (outbox, kept) = outbox(1, ROOM);
    let (other, _) = crate::outbox::tests::outbox(2, ROOM);
    let _other = join(&fanout, &other, vec![wish("a", &["ev.t.a"])]);
    let _mine = join(&fanout, &outbox, vec![wish("all", &["ev.t.*"])]);
    let numbers = settle(&fanout);
    deliver(&fanout, numbers["ev.t.a"], &event("ev.t.a", 1));
    let _more = fanout.join(&outbox, vec![wish("b", &["ev.t.b"]).since(0)], vec![]);
    deliver(&fanout, numbers["ev.t.*"], &event("ev.t.a", 1));
    outbox.release();
    catch_up(&fanout, 1, &[&outbox], &[event("ev.t.a", 1)]);
    assert_eq!(names(&outbox, &kept), ["all n1"]);
}

#[test]
fn what_comes_late_comes_to_those_who_did_not_read_it_from_the_stream() {
    let fanout = fanout();
    let (outbox, kept) = outbox(1, ROOM);
    let (live, lives) = crate::outbox::tests::outbox(2, ROOM);
    let _live = join(&fanout, &live, vec![wish("a", &["ev.t.a"])]);
    let _mine = fanout.join(&outbox, vec![wish("a", &["ev.t.a"]).since(0)], vec![]);
    let number = settle(&fanout)["ev.t.a"];
    // Another leader never sent the second.
    for sequence in [1, 3] {
        deliver(&fanout, number, &event("ev.t.a", sequence));
    }
    outbox.release();
    catch_up(&fanout, 1, &[&outbox], &[1, 2, 3].map(|sequence| event("ev.t.a", sequence)));
    deliver_missed(&fanout, &event("ev.t.a", 2), true);
    assert_eq!(names(&outbox, &kept), ["a n1", "a n2", "a n3"]);
    assert_eq!(names(&live, &lives), ["a n1", "a n3", "a n2"]);
}

#[test]
fn what_a_pass_has_brought_does_not_come_late_as_well() {
    let fanout = fanout();
    let (outbox, kept) = outbox(1, ROOM);
    let _mine = fanout.join(&outbox, vec![wish("a", &["ev.t.a"]).since(0)], vec![]);
    settle(&fanout);
    outbox.release();
    let events = [1, 2, 3, 4].map(|sequence| event("ev.t.a", sequence));
    let sessions = vec![(Arc::clone(&outbox), outbox.join_pass(1).unwrap())];
    let (mut lanes, unverified) = fanout.lanes(1, sessions, true);
    assert_eq!(unverified.len(), 0, "what comes before a cursor is not owed");
    for event in &events[..2] {
        lanes.deliver(event, &EventFrames::read("ev", event).unwrap());
    }
    // The stream cannot be read on, and the feed finds that it missed all of them.
    lanes.advance(2);
    lanes.give_up();
    events.iter().for_each(|event| deliver_missed(&fanout, event, true));
    assert_eq!(names(&outbox, &kept), ["a n1", "a n2"]);
    catch_up(&fanout, 2, &[&outbox], &events);
    assert_eq!(names(&outbox, &kept), ["a n3", "a n4"]);
}

#[test]
fn what_is_late_comes_before_a_slow_reader_is_brought_up_to_date() {
    let fanout = fanout();
    let (outbox, kept) = outbox(1, 400);
    let _mine = join(&fanout, &outbox, vec![wish("a", &["ev.t.a"])]);
    let number = settle(&fanout)["ev.t.a"];
    kept.allow(0);
    // A leader kept the second to itself, and so many others came that the session lags.
    let mut live = [1].into_iter().chain(3..);
    let after = loop {
        deliver(&fanout, number, &event("ev.t.a", live.next().unwrap()));
        if let Some(lag) = outbox.lagging() {
            break lag.after;
        }
    };
    kept.allow(1 << 20);
    let mut got = names(&outbox, &kept);
    let pass = |pass| {
        let sessions = vec![(Arc::clone(&outbox), outbox.join_pass(pass).unwrap())];
        fanout.lanes(pass, sessions, true)
    };
    let (_, unverified) = pass(1);
    assert_eq!(unverified.len(), 1, "something may still be late");
    deliver_missed(&fanout, &event("ev.t.a", 2), true);
    got.extend(names(&outbox, &kept));
    fanout.verify(after);
    let (mut lanes, unverified) = pass(2);
    assert_eq!(unverified.len(), 0);
    for sequence in 1..=after + 1 {
        let event = event("ev.t.a", sequence);
        lanes.deliver(&event, &EventFrames::read("ev", &event).unwrap());
    }
    got.extend(names(&outbox, &kept));
    let mut expected: Vec<String> = (1..=after + 1).map(|sequence| format!("a n{sequence}")).collect();
    expected.sort();
    got.sort();
    assert_eq!(got, expected);
}

#[test]
fn what_is_bound_while_a_session_lags_begins_where_it_was_bound() {
    let fanout = fanout();
    let (outbox, kept) = outbox(1, ROOM);
    let _first = fanout.join(&outbox, vec![wish("a", &["ev.t.a"]).since(0)], vec![]);
    settle(&fanout);
    outbox.release();
    let history: Vec<Event> =
        (1..=6).map(|n| event(if n % 2 == 0 { "ev.t.a" } else { "ev.t.b" }, n)).collect();
    fanout.advance(4);
    let _second = join(&fanout, &outbox, vec![wish("b", &["ev.t.b"])]);
    settle(&fanout);
    catch_up(&fanout, 1, &[&outbox], &history);
    assert_eq!(names(&outbox, &kept), ["a n2", "a n4", "b n5", "a n6"]);
}

#[test]
fn what_was_unbound_gets_nothing_from_a_pass_that_still_knows_it() {
    let fanout = fanout();
    let (outbox, kept) = outbox(1, ROOM);
    let joined = fanout.join(&outbox, vec![wish("a", &["ev.t.a"]).since(0)], vec![]);
    settle(&fanout);
    outbox.release();
    let (mut lanes, _) = fanout.lanes(1, vec![(Arc::clone(&outbox), outbox.join_pass(1).unwrap())], true);
    drop(joined);
    let event = event("ev.t.a", 1);
    lanes.deliver(&event, &EventFrames::read("ev", &event).unwrap());
    assert_eq!(names(&outbox, &kept), [""; 0]);
}

#[derive(Clone, Debug)]
enum Step {
    Subscribe { session: u64, binding: usize },
    Unsubscribe { session: u64, binding: usize },
    Close { session: u64 },
    Linger,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..4u64, 0..4usize).prop_map(|(session, binding)| Step::Subscribe { session, binding }),
        2 => (0..4u64, 0..4usize).prop_map(|(session, binding)| Step::Unsubscribe { session, binding }),
        1 => (0..4u64).prop_map(|session| Step::Close { session }),
        1 => Just(Step::Linger),
    ]
}

proptest! {
    /// One client's unsubscribe once removed the shared broker binding of all (KAZOO): here each session gets
    /// exactly what it is subscribed to, after any history.
    #[test]
    fn references_are_counted(steps in prop::collection::vec(any_step(), 0..60)) {
        let bindings: [(&str, &[&str]); 4] =
            [("a", &["ev.t.a"]), ("all", &["ev.t.*"]), ("ab", &["ev.t.a", "ev.t.b"]), ("b", &["ev.t.b"])];
        let fanout = fanout();
        let outboxes: Vec<(Arc<Outbox>, Arc<Kept>)> = (0..4).map(|number| outbox(number, ROOM)).collect();
        let mut held: BTreeMap<(u64, usize), Vec<Membership>> = BTreeMap::new();
        // What the NATS server would have.
        let mut subscribed: HashMap<SubjectNumber, String> = HashMap::new();
        for step in steps {
            match step {
                Step::Subscribe { session, binding } => {
                    let old = held.remove(&(session, binding)).unwrap_or_default();
                    let (name, subjects) = bindings[binding];
                    let outbox = &outboxes[session as usize].0;
                    let joined = fanout.join(outbox, vec![wish(name, subjects)], old);
                    held.insert((session, binding), joined.memberships);
                }
                Step::Unsubscribe { session, binding } => drop(held.remove(&(session, binding))),
                Step::Close { session } => held.retain(|(own, _), _| *own != session),
                Step::Linger => {
                    for number in fanout.take_idle(Instant::now() + LINGER * 2) {
                        prop_assert!(subscribed.remove(&number).is_some());
                    }
                }
            }
            for (text, number) in settle(&fanout) {
                prop_assert!(subscribed.values().all(|other| *other != text), "subscribed twice");
                subscribed.insert(number, text);
            }
            for subject in ["ev.t.a", "ev.t.b"] {
                for (number, pattern) in &subscribed {
                    if subject_matches(pattern, subject) {
                        deliver(&fanout, *number, &event(subject, 0));
                    }
                }
                for (session, (outbox, kept)) in outboxes.iter().enumerate() {
                    let mut expected: Vec<String> = held
                        .keys()
                        .filter(|(own, _)| *own == session as u64)
                        .map(|(_, binding)| bindings[*binding])
                        .filter(|(_, subjects)| subjects.iter().any(|pattern| subject_matches(pattern, subject)))
                        .map(|(name, _)| format!("{name} n0"))
                        .collect();
                    let mut got = names(outbox, kept);
                    expected.sort();
                    got.sort();
                    prop_assert_eq!(got, expected);
                }
            }
        }
        held.clear();
        for number in fanout.take_idle(Instant::now() + LINGER * 2) {
            subscribed.remove(&number);
        }
        prop_assert!(subscribed.is_empty(), "unused subjects are given back");
    }
}
