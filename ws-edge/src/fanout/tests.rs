mod passes;

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
    fanout.verify(7);
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
