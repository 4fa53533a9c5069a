use std::collections::BTreeMap;

use blackhole_common::subject::subject_matches;
use proptest::prelude::*;

use super::*;
use crate::{
    delivery::{frame::shown_key::ShownKey, testing::*},
    outbox::tests::{Kept, outbox},
    protocol::{
        cursor::{Cursor, Rank},
        view::View,
    },
};

/// How many members a subject has; `None` if it is not in the index.
fn members(dispatcher: &Dispatcher, subject: &str) -> Option<usize> {
    let table = dispatcher.table.lock();
    let subject = table.index.subject(table.index.number(subject)?)?;
    Some(subject.groups.iter().map(|group| group.members.len()).sum())
}

#[test]
fn a_join_is_confirmed_when_the_server_has_all_its_subjects() {
    let dispatcher = dispatcher();
    let first = dispatcher.join(&outbox(1, ROOM).0, vec![request("b", &["ev.t.a", "ev.t.b"])], vec![]);
    let mut waiting = first.confirmation.unwrap();
    assert!(waiting.try_recv().is_err());
    assert_eq!(settle(&dispatcher).len(), 2);
    assert!(waiting.try_recv().is_ok());
    let second = dispatcher.join(&outbox(2, ROOM).0, vec![request("b", &["ev.t.a"])], vec![]);
    assert!(second.confirmation.is_none(), "the server has it already");
    assert!(dispatcher.take_new().is_empty(), "one subscription per distinct subject");
}

#[test]
fn no_event_comes_twice_and_a_new_stream_begins_anew() {
    let dispatcher = dispatcher();
    let (outbox, kept) = outbox(1, ROOM);
    let _membership = join(&dispatcher, &outbox, vec![request("b", &["ev.t.*"])]);
    let number = settle(&dispatcher)["ev.t.*"];
    for sequence in [1, 2, 2, 1] {
        deliver(&dispatcher, number, &event("ev.t.a", sequence));
    }
    deliver_missed(&dispatcher, &event("ev.t.a", 2), false);
    deliver_missed(&dispatcher, &event("ev.t.a", 3), false);
    deliver_missed(&dispatcher, &event("ev.u.a", 4), false);
    assert_eq!(names(&outbox, &kept), ["b n1", "b n2", "b n3"]);
    dispatcher.reset_positions();
    deliver(&dispatcher, number, &event("ev.t.a", 1));
    assert_eq!(names(&outbox, &kept), ["b n1"]);
}

#[test]
fn a_subscription_does_not_get_events_from_before_it() {
    let dispatcher = dispatcher();
    dispatcher.verify(7);
    let (outbox, kept) = outbox(1, ROOM);
    let _membership = join(&dispatcher, &outbox, vec![request("b", &["ev.*.a"])]);
    settle(&dispatcher);
    for sequence in 5..10 {
        deliver_missed(&dispatcher, &event("ev.t.a", sequence), false);
    }
    assert_eq!(names(&outbox, &kept), ["b n8", "b n9"]);
}

#[test]
fn an_event_that_a_leader_did_not_send_comes_late() {
    let dispatcher = dispatcher();
    let (outbox, kept) = outbox(1, ROOM);
    let _membership = join(&dispatcher, &outbox, vec![request("b", &["ev.t.a"])]);
    let number = settle(&dispatcher)["ev.t.a"];
    deliver(&dispatcher, number, &event("ev.t.a", 2));
    deliver_missed(&dispatcher, &event("ev.t.a", 1), true);
    assert_eq!(names(&outbox, &kept), ["b n2", "b n1"]);
}

#[test]
fn who_joins_a_subject_is_not_owed_what_came_before_the_server_had_it() {
    let dispatcher = dispatcher();
    let [(first, _), (second, kept)] = [1, 2].map(|number| outbox(number, ROOM));
    let _first = join(&dispatcher, &first, vec![request("a", &["ev.t.>"])]);
    let subjects: Vec<SubjectNumber> = dispatcher.take_new().into_iter().map(|(number, _)| number).collect();
    // The event 1 was stored, and nobody had subscribed to it.
    dispatcher.confirm(&subjects, &[], 1);
    let _second = join(&dispatcher, &second, vec![request("a", &["ev.t.>"])]);
    deliver(&dispatcher, subjects[0], &event("ev.t.x", 2));
    deliver_missed(&dispatcher, &event("ev.t.x", 1), true);
    assert_eq!(names(&second, &kept), ["a n2"]);
    // The stream comes back without them; what it stores then is owed.
    dispatcher.truncate_positions(0);
    deliver(&dispatcher, subjects[0], &event("ev.t.x", 1));
    assert_eq!(names(&second, &kept), ["a n1"]);
}

#[test]
fn a_replaced_membership_loses_and_doubles_nothing() {
    let dispatcher = dispatcher();
    let (outbox, kept) = outbox(1, ROOM);
    let old = join(&dispatcher, &outbox, vec![request("b", &["ev.t.a"])]);
    let number = settle(&dispatcher)["ev.t.a"];
    deliver(&dispatcher, number, &event("ev.t.a", 1));
    let new = dispatcher.join(&outbox, vec![request("c", &["ev.t.a"])], old);
    assert!(new.confirmation.is_none());
    deliver_missed(&dispatcher, &event("ev.t.a", 1), false);
    deliver(&dispatcher, number, &event("ev.t.a", 2));
    assert_eq!(names(&outbox, &kept), ["b n1", "c n2"]);
    assert_eq!(members(&dispatcher, "ev.t.a"), Some(1));
}

#[test]
fn a_late_event_also_comes_to_a_replaced_membership() {
    let dispatcher = dispatcher();
    let (outbox, kept) = outbox(1, ROOM);
    let old = join(&dispatcher, &outbox, vec![request("b", &["ev.t.a"])]);
    let number = settle(&dispatcher)["ev.t.a"];
    deliver(&dispatcher, number, &event("ev.t.a", 2));
    let _new = dispatcher.join(&outbox, vec![request("c", &["ev.t.a"])], old);
    deliver_missed(&dispatcher, &event("ev.t.a", 1), true);
    assert_eq!(names(&outbox, &kept), ["b n2", "c n1"]);
}

#[test]
fn an_unused_subject_lingers_then_is_forgotten() {
    let dispatcher = dispatcher();
    let membership = join(&dispatcher, &outbox(1, ROOM).0, vec![request("b", &["ev.t.a"])]);
    let number = settle(&dispatcher)["ev.t.a"];
    assert_eq!(dispatcher.next_unused(), None);
    drop(membership);
    let now = Instant::now();
    assert!(dispatcher.take_unused(now).is_empty(), "it lingers");
    let again = dispatcher.join(&outbox(2, ROOM).0, vec![request("b", &["ev.t.a"])], vec![]);
    assert!(again.confirmation.is_none(), "it was still there");
    assert!(dispatcher.take_unused(now + LINGER * 2).is_empty(), "it is in use");
    drop(again);
    assert!(dispatcher.take_unused(now).is_empty(), "it lingers again");
    assert_eq!(dispatcher.next_unused(), Some(now + LINGER));
    assert_eq!(dispatcher.take_unused(now + LINGER), [number]);
    assert_eq!(members(&dispatcher, "ev.t.a"), None);
}

#[test]
fn of_very_many_unused_subjects_the_oldest_do_not_linger() {
    let dispatcher = dispatcher();
    let requests = |from: u32, to: u32| {
        (from..to).map(|number| request("b", &[&format!("ev.t.{number}")])).collect::<Vec<_>>()
    };
    let now = Instant::now();
    drop(join(&dispatcher, &outbox(1, ROOM).0, requests(0, 1)));
    assert!(dispatcher.take_unused(now).is_empty(), "it lingers");
    drop(join(&dispatcher, &outbox(1, ROOM).0, requests(1, 10_001)));
    assert_eq!(dispatcher.take_unused(now).len(), 1);
    assert_eq!(members(&dispatcher, "ev.t.0"), None);
    assert_eq!(members(&dispatcher, "ev.t.1"), Some(0));
}

#[test]
fn only_an_events_last_frame_has_a_cursor_after_the_whole_event() {
    let dispatcher = dispatcher();
    let (outbox, kept) = outbox(1, ROOM);
    let bindings = [("a", "ev.t.a"), ("all", "ev.t.*")];
    let _membership =
        join(&dispatcher, &outbox, bindings.map(|(name, subject)| request(name, &[subject])).into());
    let number = settle(&dispatcher)["ev.t.a"];
    deliver(&dispatcher, number, &event("ev.t.a", 1));
    let rank = |frame: &String| {
        let frame: serde_json::Value = serde_json::from_str(frame).unwrap();
        Cursor::parse(frame["cursor"].as_str().unwrap()).unwrap().rank
    };
    let first = bindings.map(|(name, _)| template(name).rank()).into_iter().min().unwrap();
    let ranks: Vec<Rank> = received(&outbox, &kept).iter().map(rank).collect();
    assert_eq!(ranks, [first, Rank::LAST]);
}

#[test]
fn an_event_that_cannot_be_shown_is_counted_once() {
    let metrics = Arc::new(Metrics::default());
    let flusher = Arc::new(Flusher::new(Arc::default()));
    let dispatcher = Arc::new(Dispatcher::new("ev", LINGER, flusher, Arc::clone(&metrics)));
    let (outbox, kept) = outbox(1, ROOM);
    let template = FrameTemplate::new(View::Data, None, "acc", "b", "b", ShownKey::AsPublished);
    let request = SubscribeRequest { template: Arc::new(template), ..request("a", &["ev.t.a"]) };
    let _membership = join(&dispatcher, &outbox, vec![request]);
    let number = settle(&dispatcher)["ev.t.a"];
    deliver(&dispatcher, number, &event("ev.t.a", 1));
    assert_eq!((metrics.events_unreadable.get(), received(&outbox, &kept).len()), (0, 1));
    let broken = Event { body: bytes::Bytes::from_static(b"{"), ..event("ev.t.a", 2) };
    deliver(&dispatcher, number, &broken);
    assert_eq!((metrics.events_unreadable.get(), received(&outbox, &kept).len()), (1, 0));
}

#[test]
fn a_new_connection_gets_all_subjects_once() {
    let dispatcher = dispatcher();
    let _membership = join(&dispatcher, &outbox(1, ROOM).0, vec![request("b", &["ev.t.a", "ev.t.b"])]);
    let mut all: Vec<String> = dispatcher.take_all().into_iter().map(|(_, text)| text.to_string()).collect();
    all.sort();
    assert_eq!(all, ["ev.t.a", "ev.t.b"]);
    assert!(dispatcher.take_new().is_empty(), "they are subscribed already");
    assert_eq!(dispatcher.take_all().len(), 2, "the next connection needs them again");
}

#[test]
fn events_of_a_stream_that_came_back_shorter_are_delivered() {
    let dispatcher = dispatcher();
    let (outbox, kept) = outbox(1, ROOM);
    let _membership = join(&dispatcher, &outbox, vec![request("a", &["ev.t.a"])]);
    let number = settle(&dispatcher)["ev.t.a"];
    for sequence in 1..=5 {
        deliver(&dispatcher, number, &event("ev.t.a", sequence));
    }
    received(&outbox, &kept);
    dispatcher.truncate_positions(3);
    assert_eq!(dispatcher.position_of(&outbox), Some(3));
    for sequence in 3..=5 {
        deliver(&dispatcher, number, &event("ev.t.a", sequence));
    }
    assert_eq!(names(&outbox, &kept), ["a n4", "a n5"], "the third is still the one that it had");
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

/// What is forgotten once everything unused has lingered.
fn take_unused(dispatcher: &Dispatcher) -> Vec<SubjectNumber> {
    let now = Instant::now();
    let mut unused = dispatcher.take_unused(now);
    unused.extend(dispatcher.take_unused(now + LINGER));
    unused
}

proptest! {
    /// One client's unsubscribe once removed the shared broker binding of all (KAZOO): here each session gets
    /// exactly what it is subscribed to, after any history.
    #[test]
    fn references_are_counted(steps in prop::collection::vec(any_step(), 0..60)) {
        let bindings: [(&str, &[&str]); 4] =
            [("a", &["ev.t.a"]), ("all", &["ev.t.*"]), ("ab", &["ev.t.a", "ev.t.b"]), ("b", &["ev.t.b"])];
        let dispatcher = dispatcher();
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
                    let joined = dispatcher.join(outbox, vec![request(name, subjects)], old);
                    held.insert((session, binding), joined.memberships);
                }
                Step::Unsubscribe { session, binding } => drop(held.remove(&(session, binding))),
                Step::Close { session } => held.retain(|(own, _), _| *own != session),
                Step::Linger => {
                    for number in take_unused(&dispatcher) {
                        prop_assert!(subscribed.remove(&number).is_some());
                    }
                }
            }
            for (text, number) in settle(&dispatcher) {
                prop_assert!(subscribed.values().all(|other| *other != text), "subscribed twice");
                subscribed.insert(number, text);
            }
            for subject in ["ev.t.a", "ev.t.b"] {
                for (number, pattern) in &subscribed {
                    if subject_matches(pattern, subject) {
                        deliver(&dispatcher, *number, &event(subject, 0));
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
        for number in take_unused(&dispatcher) {
            prop_assert!(subscribed.remove(&number).is_some());
        }
        prop_assert!(subscribed.is_empty(), "unused subjects are given back");
    }
}
