use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::frame::{ShownKey, View};

const LINGER: Duration = Duration::from_secs(5);

fn fanout() -> Arc<Fanout> {
    Arc::new(Fanout::new("ev", LINGER, Arc::default()))
}

fn shape(binding: &str) -> Arc<Shape> {
    Arc::new(Shape::new(View::Args, None, binding, binding, ShownKey::AsPublished))
}

fn wish(binding: &str, subjects: &[&str]) -> Wish {
    Wish { shape: shape(binding), subjects: subjects.iter().map(|&subject| subject.to_owned()).collect() }
}

fn outbox() -> Arc<Outbox> {
    Arc::new(Outbox::new(1 << 20))
}

fn event(subject: &str) -> EventFrames {
    EventFrames::read("ev", subject, "N", Bytes::from_static(b"{}")).unwrap()
}

fn received(outbox: &Outbox) -> Vec<String> {
    std::iter::from_fn(|| outbox.pop()).map(|frame| frame.to_string()).collect()
}

/// Subscribes and confirms everything, as the feed does.
fn settle(fanout: &Fanout) -> HashMap<String, SubjectNumber> {
    let fresh = fanout.take_fresh();
    fanout.confirm(&fresh.iter().map(|(number, _)| *number).collect::<Vec<_>>(), 0);
    for session in fanout.take_unconfirmed() {
        let _ = session.send(());
    }
    fresh.into_iter().map(|(number, text)| (text.to_string(), number)).collect()
}

#[test]
fn a_join_is_confirmed_when_the_server_has_all_its_subjects() {
    let fanout = fanout();
    let (_first, waiting) = fanout.join(1, &outbox(), vec![wish("b", &["ev.t.a", "ev.t.b"])], vec![]);
    let mut waiting = waiting.unwrap();
    assert!(waiting.try_recv().is_err());
    assert_eq!(settle(&fanout).len(), 2);
    assert!(waiting.try_recv().is_ok());
    let (_second, waiting) = fanout.join(2, &outbox(), vec![wish("b", &["ev.t.a"])], vec![]);
    assert!(waiting.is_none(), "the server has it already");
    assert!(fanout.take_fresh().is_empty(), "one subscription per distinct subject");
}

#[test]
fn equal_shapes_share_one_frame() {
    let fanout = fanout();
    let (one, two) = (outbox(), outbox());
    let _memberships = [
        fanout.join(1, &one, vec![wish("b", &["ev.t.a"])], vec![]),
        fanout.join(2, &two, vec![wish("b", &["ev.t.a"])], vec![]),
    ];
    let number = settle(&fanout)["ev.t.a"];
    fanout.deliver(number, &Arrival { frames: &event("ev.t.a"), sequence: Some(1) });
    let (first, second) = (one.pop().unwrap(), two.pop().unwrap());
    assert_eq!(first.as_ptr(), second.as_ptr());
}

#[test]
fn no_event_comes_twice_and_a_new_stream_begins_anew() {
    let fanout = fanout();
    let outbox = outbox();
    let _membership = fanout.join(1, &outbox, vec![wish("b", &["ev.t.*"])], vec![]);
    let number = settle(&fanout)["ev.t.*"];
    let frames = event("ev.t.a");
    for sequence in [1, 2, 2, 1] {
        fanout.deliver(number, &Arrival { frames: &frames, sequence: Some(sequence) });
    }
    fanout.deliver_missed("ev.t.a", "t", &Arrival { frames: &frames, sequence: Some(2) });
    fanout.deliver_missed("ev.t.a", "t", &Arrival { frames: &frames, sequence: Some(3) });
    fanout.deliver_missed("ev.u.a", "u", &Arrival { frames: &frames, sequence: Some(4) });
    assert_eq!(received(&outbox).len(), 3);
    fanout.forget_positions();
    fanout.deliver(number, &Arrival { frames: &frames, sequence: Some(1) });
    assert_eq!(received(&outbox).len(), 1);
}

#[test]
fn what_was_missed_before_a_subscription_is_not_owed_to_it() {
    let fanout = fanout();
    let outbox = outbox();
    let _membership = fanout.join(1, &outbox, vec![wish("b", &["ev.*.a"])], vec![]);
    let fresh = fanout.take_fresh();
    fanout.confirm(&[fresh[0].0], 7);
    for sequence in 5..10 {
        fanout.deliver_missed("ev.t.a", "t", &Arrival { frames: &event("ev.t.a"), sequence: Some(sequence) });
    }
    assert_eq!(received(&outbox).len(), 2);
}

#[test]
fn a_replaced_membership_leaves_no_hole_and_no_double() {
    let fanout = fanout();
    let outbox = outbox();
    let (old, _) = fanout.join(1, &outbox, vec![wish("b", &["ev.t.a"])], vec![]);
    let number = settle(&fanout)["ev.t.a"];
    let (_new, waiting) = fanout.join(1, &outbox, vec![wish("b", &["ev.t.a"])], old);
    assert!(waiting.is_none());
    fanout.deliver(number, &Arrival { frames: &event("ev.t.a"), sequence: None });
    assert_eq!(received(&outbox).len(), 1);
    assert_eq!(fanout.members("ev.t.a"), Some(1));
}

#[test]
fn an_unused_subject_lingers_then_goes() {
    let fanout = fanout();
    let (membership, _) = fanout.join(1, &outbox(), vec![wish("b", &["ev.t.a"])], vec![]);
    let number = settle(&fanout)["ev.t.a"];
    assert_eq!(fanout.next_idle(), None);
    drop(membership);
    let now = Instant::now();
    assert!(fanout.take_idle(now).is_empty(), "it lingers");
    let (membership, waiting) = fanout.join(2, &outbox(), vec![wish("b", &["ev.t.a"])], vec![]);
    assert!(waiting.is_none(), "it was still there");
    assert!(fanout.take_idle(now + LINGER * 2).is_empty(), "it is in use");
    drop(membership);
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
        let outboxes: Vec<Arc<Outbox>> = (0..4).map(|_| outbox()).collect();
        let mut held: BTreeMap<(u64, usize), Vec<Membership>> = BTreeMap::new();
        // What the NATS server would have.
        let mut subscribed: HashMap<SubjectNumber, String> = HashMap::new();
        for step in steps {
            match step {
                Step::Subscribe { session, binding } => {
                    let old = held.remove(&(session, binding)).unwrap_or_default();
                    let (name, subjects) = bindings[binding];
                    let (memberships, _) = fanout.join(session, &outboxes[session as usize], vec![wish(name, subjects)], old);
                    held.insert((session, binding), memberships);
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
                        fanout.deliver(*number, &Arrival { frames: &event(subject), sequence: None });
                    }
                }
                for (session, outbox) in outboxes.iter().enumerate() {
                    let mut expected: Vec<String> = held
                        .keys()
                        .filter(|(own, _)| *own == session as u64)
                        .map(|(_, binding)| bindings[*binding])
                        .filter(|(_, subjects)| subjects.iter().any(|pattern| subject_matches(pattern, subject)))
                        .map(|(name, _)| event(subject).frame(&shape(name)).unwrap().to_string())
                        .collect();
                    let mut got = received(outbox);
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
