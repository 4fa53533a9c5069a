use std::sync::Arc;

use super::ReplayBatch;
use crate::{
    delivery::{
        dispatcher::{Dispatcher, SubscribeRequest},
        frame::{builder::EventFrames, event::Event},
        testing::*,
    },
    ids::ReplayId,
    metrics::Metrics,
    outbox::{Lag, Outbox, Stage, tests::outbox},
    protocol::cursor::Cursor,
};

/// Starts a replay for these sessions. Returns with the batch how many were left out.
fn begin(
    dispatcher: &Dispatcher,
    replay: ReplayId,
    sessions: &[&Arc<Outbox>],
    is_replicated: bool,
) -> (ReplayBatch, usize) {
    let sessions = sessions.iter().map(|outbox| Arc::clone(outbox)).collect();
    let (batch, unverified) = ReplayBatch::new(replay, sessions, dispatcher, is_replicated);
    (batch, unverified.len())
}

fn replay<'e>(batch: &mut ReplayBatch, events: impl IntoIterator<Item = &'e Event>) {
    for event in events {
        batch.deliver("ev", event, &EventFrames::read("ev", event).unwrap(), &Metrics::default());
    }
}

/// Ends a replay that has everything up to `position`. Returns whether its sessions are live.
fn finish(dispatcher: &Dispatcher, batch: &mut ReplayBatch, position: u64) -> bool {
    dispatcher.end_buffer(batch.id(), |events| batch.finish("ev", position, events, &Metrics::default()))
}

/// Brings these sessions up to date from `history`.
fn catch_up(dispatcher: &Dispatcher, id: ReplayId, sessions: &[&Arc<Outbox>], history: &[Event]) {
    let (mut batch, _) = begin(dispatcher, id, sessions, false);
    let live = dispatcher.start_buffer(id, batch.subject_numbers());
    let last = history.last().and_then(Event::sequence).unwrap_or_default().max(live);
    replay(&mut batch, history);
    batch.advance(last);
    assert!(finish(dispatcher, &mut batch, last));
}

#[test]
fn a_resuming_session_gets_past_events_then_live_ones() {
    let dispatcher = dispatcher();
    let history: Vec<Event> =
        (1..=6).map(|n| event(if n % 2 == 0 { "ev.t.even" } else { "ev.t.odd" }, n)).collect();
    dispatcher.verify(6);
    let (outbox, kept) = outbox(1, ROOM);
    let (other, others) = crate::outbox::tests::outbox(2, ROOM);
    let _other = join(&dispatcher, &other, vec![request("all", &["ev.t.*"])]);
    let _mine = dispatcher.join(
        &outbox,
        vec![since(3, request("all", &["ev.t.*"])), since(3, request("e", &["ev.t.even"]))],
        vec![],
    );
    let numbers = settle(&dispatcher);
    let live = |sequence| {
        for number in [numbers["ev.t.*"], numbers["ev.t.even"]] {
            deliver(&dispatcher, number, &event("ev.t.even", sequence));
        }
    };
    live(7);
    assert_eq!(names(&outbox, &kept), [""; 0], "not before the past");
    outbox.release();
    let (mut batch, _) = begin(&dispatcher, 1, &[&outbox], true);
    assert_eq!(dispatcher.start_buffer(1, batch.subject_numbers()), 7);
    live(8);
    replay(&mut batch, history.iter().chain([&event("ev.t.even", 7)]));
    live(9);
    assert!(finish(&dispatcher, &mut batch, 7));
    live(10);
    // An event's two frames come in the order of their ranks.
    let even = if template("all").rank() < template("e").rank() { ["all", "e"] } else { ["e", "all"] };
    let expected: Vec<String> = (4..=10)
        .flat_map(|n| {
            if n == 5 { vec!["all n5".to_owned()] } else { even.map(|name| format!("{name} n{n}")).into() }
        })
        .collect();
    assert_eq!(names(&outbox, &kept), expected);
    assert_eq!(
        names(&other, &others),
        ["all n7", "all n8", "all n9", "all n10"],
        "nobody else is delayed or repeated"
    );
}

#[test]
fn a_position_is_known_only_if_the_session_had_everything_up_to_it_and_nothing_after() {
    let dispatcher = dispatcher();
    let (outbox, kept) = outbox(1, ROOM);
    let _mine = join(&dispatcher, &outbox, vec![request("a", &["ev.t.a"])]);
    let number = settle(&dispatcher)["ev.t.a"];
    dispatcher.verify(4);
    assert_eq!(dispatcher.position_of(&outbox), Some(4));
    let _past = dispatcher.join(&outbox, vec![since(4, request("all", &["ev.t.*"]))], vec![]);
    outbox.release();
    deliver(&dispatcher, number, &event("ev.t.a", 5));
    assert_eq!(dispatcher.position_of(&outbox), None, "it lags");
    assert_eq!(names(&outbox, &kept), [""; 0]);
    // What is read from the stream may have come to it before it came live.
    let history: Vec<Event> = (5..=12).map(|n| event("ev.t.a", n)).collect();
    catch_up(&dispatcher, 1, &[&outbox], &history);
    assert_eq!(dispatcher.position_of(&outbox), None, "it had more than what was live");
    deliver(&dispatcher, number, &event("ev.t.a", 12));
    assert_eq!(dispatcher.position_of(&outbox), Some(12));
}

#[test]
fn a_session_cut_off_between_two_frames_of_an_event_gets_the_rest() {
    let bindings = [("a", "ev.t.a"), ("all", "ev.t.*"), ("rest", "ev.t.>"), ("any", "ev.*.a")];
    let dispatcher = dispatcher();
    let requests = || bindings.iter().map(|(name, subject)| request(name, &[subject])).collect::<Vec<_>>();
    let (whole, kept) = outbox(1, ROOM);
    let _whole = join(&dispatcher, &whole, requests());
    let number = settle(&dispatcher)["ev.t.*"];
    let events = [event("ev.t.a", 1), event("ev.t.a", 2)];
    events.iter().for_each(|event| deliver(&dispatcher, number, event));
    let frames: Vec<serde_json::Value> =
        received(&whole, &kept).iter().map(|frame| serde_json::from_str(frame).unwrap()).collect();
    let name = |frame: &serde_json::Value| format!("{} {}", frame["subscribed_key"], frame["name"]);
    assert_eq!(frames.len(), 8, "one subscription's message brings it to all");
    for cut in 0..frames.len() {
        let cursor = Cursor::parse(frames[cut]["cursor"].as_str().unwrap()).unwrap();
        let (again, kept) = outbox(10 + cut as u64, ROOM);
        let behind = |request: SubscribeRequest| {
            let had = request.template.rank() <= cursor.rank;
            since(cursor.position.sequence - u64::from(!had), request)
        };
        let _again = dispatcher.join(&again, requests().into_iter().map(behind).collect(), vec![]);
        again.release();
        catch_up(&dispatcher, 100 + cut as u64, &[&again], &events);
        let rest: Vec<String> =
            received(&again, &kept).iter().map(|frame| name(&serde_json::from_str(frame).unwrap())).collect();
        assert_eq!(rest, frames[cut + 1..].iter().map(name).collect::<Vec<_>>(), "cut behind frame {cut}");
    }
}

#[test]
fn a_slow_reader_misses_nothing_and_gets_nothing_twice() {
    let dispatcher = dispatcher();
    let (outbox, kept) = outbox(1, 200);
    let _mine = join(&dispatcher, &outbox, vec![request("a", &["ev.t.a"]), request("all", &["ev.t.*"])]);
    let numbers = settle(&dispatcher);
    kept.allow(0);
    let history: Vec<Event> = (1..=40).map(|n| event("ev.t.a", n)).collect();
    let mut got = Vec::new();
    for (id, event) in (1..).zip(&history) {
        for number in [numbers["ev.t.a"], numbers["ev.t.*"]] {
            deliver(&dispatcher, number, event);
        }
        if id % 7 == 0 {
            // It reads again for a while.
            kept.allow(1000);
            got.extend(names(&outbox, &kept));
            catch_up(&dispatcher, id, &[&outbox], &history[..id as usize]);
            got.extend(names(&outbox, &kept));
            kept.allow(0);
        }
    }
    kept.allow(1 << 20);
    for id in 100.. {
        got.extend(names(&outbox, &kept));
        if outbox.lagging().is_none() {
            break;
        }
        catch_up(&dispatcher, id, &[&outbox], &history);
    }
    for binding in ["a", "all"] {
        let mine: Vec<&String> = got.iter().filter(|name| name.starts_with(&format!("{binding} "))).collect();
        let expected: Vec<String> = (1..=40).map(|n| format!("{binding} n{n}")).collect();
        assert_eq!(mine, expected.iter().collect::<Vec<_>>());
    }
}

#[test]
fn resuming_between_the_subjects_of_one_event_loses_nothing() {
    let dispatcher = dispatcher();
    let (outbox, kept) = outbox(1, ROOM);
    let (other, _) = crate::outbox::tests::outbox(2, ROOM);
    let _other = join(&dispatcher, &other, vec![request("a", &["ev.t.a"])]);
    let _mine = join(&dispatcher, &outbox, vec![request("all", &["ev.t.*"])]);
    let numbers = settle(&dispatcher);
    deliver(&dispatcher, numbers["ev.t.a"], &event("ev.t.a", 1));
    let _more = dispatcher.join(&outbox, vec![since(0, request("b", &["ev.t.b"]))], vec![]);
    deliver(&dispatcher, numbers["ev.t.*"], &event("ev.t.a", 1));
    outbox.release();
    catch_up(&dispatcher, 1, &[&outbox], &[event("ev.t.a", 1)]);
    assert_eq!(names(&outbox, &kept), ["all n1"]);
}

#[test]
fn a_late_event_goes_to_sessions_that_did_not_replay_it() {
    let dispatcher = dispatcher();
    let (outbox, kept) = outbox(1, ROOM);
    let (live, lives) = crate::outbox::tests::outbox(2, ROOM);
    let _live = join(&dispatcher, &live, vec![request("a", &["ev.t.a"])]);
    let _mine = dispatcher.join(&outbox, vec![since(0, request("a", &["ev.t.a"]))], vec![]);
    let number = settle(&dispatcher)["ev.t.a"];
    // Another leader never sent the second.
    for sequence in [1, 3] {
        deliver(&dispatcher, number, &event("ev.t.a", sequence));
    }
    outbox.release();
    catch_up(&dispatcher, 1, &[&outbox], &[1, 2, 3].map(|sequence| event("ev.t.a", sequence)));
    deliver_missed(&dispatcher, &event("ev.t.a", 2), true);
    assert_eq!(names(&outbox, &kept), ["a n1", "a n2", "a n3"]);
    assert_eq!(names(&live, &lives), ["a n1", "a n3", "a n2"]);
}

#[test]
fn a_replayed_event_does_not_come_again_as_late() {
    let dispatcher = dispatcher();
    let (outbox, kept) = outbox(1, ROOM);
    let _mine = dispatcher.join(&outbox, vec![since(0, request("a", &["ev.t.a"]))], vec![]);
    settle(&dispatcher);
    outbox.release();
    let events = [1, 2, 3, 4].map(|sequence| event("ev.t.a", sequence));
    let (mut batch, unverified) = begin(&dispatcher, 1, &[&outbox], true);
    assert_eq!(unverified, 0, "what comes before a cursor is not owed");
    replay(&mut batch, &events[..2]);
    // The stream cannot be read on, and the event reader finds that it missed all of them.
    batch.advance(2);
    batch.abort();
    events.iter().for_each(|event| deliver_missed(&dispatcher, event, true));
    assert_eq!(names(&outbox, &kept), ["a n1", "a n2"]);
    catch_up(&dispatcher, 2, &[&outbox], &events);
    assert_eq!(names(&outbox, &kept), ["a n3", "a n4"]);
}

#[test]
fn a_late_event_comes_before_a_slow_session_is_replayed_to() {
    let dispatcher = dispatcher();
    let (outbox, kept) = outbox(1, 400);
    let _mine = join(&dispatcher, &outbox, vec![request("a", &["ev.t.a"])]);
    let number = settle(&dispatcher)["ev.t.a"];
    kept.allow(0);
    // A leader did not send the second event. The others fill the queue, so the session lags.
    let mut live = [1].into_iter().chain(3..);
    let after = loop {
        deliver(&dispatcher, number, &event("ev.t.a", live.next().unwrap()));
        if let Some(lag) = outbox.lagging() {
            break lag.after;
        }
    };
    kept.allow(1 << 20);
    let mut got = names(&outbox, &kept);
    let (_, unverified) = begin(&dispatcher, 1, &[&outbox], true);
    assert_eq!(unverified, 1, "something may still be late");
    deliver_missed(&dispatcher, &event("ev.t.a", 2), true);
    got.extend(names(&outbox, &kept));
    dispatcher.verify(after);
    let (mut batch, unverified) = begin(&dispatcher, 2, &[&outbox], true);
    assert_eq!(unverified, 0);
    let history: Vec<Event> = (1..=after + 1).map(|sequence| event("ev.t.a", sequence)).collect();
    replay(&mut batch, &history);
    got.extend(names(&outbox, &kept));
    // What fitted into the queue, then the late event, then the first that did not fit.
    let expected: Vec<String> =
        [1].into_iter().chain(3..=after).chain([2, after + 1]).map(|n| format!("a n{n}")).collect();
    assert_eq!(got, expected);
}

#[test]
fn a_late_event_that_comes_during_a_replay_is_put_in_its_order() {
    let dispatcher = dispatcher();
    let (outbox, kept) = outbox(1, ROOM);
    let _mine = dispatcher.join(&outbox, vec![since(0, request("a", &["ev.t.a"]))], vec![]);
    let number = settle(&dispatcher)["ev.t.a"];
    dispatcher.verify(2);
    outbox.release();
    let (mut batch, _) = begin(&dispatcher, 1, &[&outbox], true);
    assert_eq!(dispatcher.start_buffer(1, batch.subject_numbers()), 2);
    replay(&mut batch, &[1, 2].map(|sequence| event("ev.t.a", sequence)));
    // A leader kept the fourth to itself, and its successor has it.
    for sequence in [3, 5] {
        deliver(&dispatcher, number, &event("ev.t.a", sequence));
    }
    deliver_missed(&dispatcher, &event("ev.t.a", 4), true);
    assert!(finish(&dispatcher, &mut batch, 2));
    assert_eq!(names(&outbox, &kept), ["a n1", "a n2", "a n3", "a n4", "a n5"]);
}

#[test]
fn a_new_session_resumes_at_its_cursor_wherever_the_edge_is() {
    let dispatcher = dispatcher();
    let resumed = |number, before: Vec<SubscribeRequest>| {
        let (outbox, _) = crate::outbox::tests::outbox(number, ROOM);
        let before = join(&dispatcher, &outbox, before);
        let joined = dispatcher.join(&outbox, vec![since(700, request("b", &["ev.t.b"]))], vec![]);
        (outbox.lagging().unwrap(), (before, joined.memberships))
    };
    let held = |after, had| Lag { after, stage: Stage::Held { had } };
    let (lag, _kept) = resumed(1, vec![]);
    assert_eq!(lag, held(700, None), "the edge does not know yet where the stream is");
    dispatcher.verify(3);
    let (lag, _kept) = resumed(2, vec![]);
    assert_eq!(lag, held(700, None), "the edge was away");
    let (lag, _kept) = resumed(3, vec![request("a", &["ev.t.a"])]);
    assert_eq!(lag, held(3, Some(3)), "another binding is owed what the edge has missed");
}

#[test]
fn a_late_event_of_one_binding_does_not_wait_for_the_past_of_another() {
    let dispatcher = dispatcher();
    let (outbox, kept) = outbox(1, ROOM);
    let _mine = join(&dispatcher, &outbox, vec![request("a", &["ev.t.a"])]);
    let number = settle(&dispatcher)["ev.t.a"];
    // A leader kept the second to itself.
    for sequence in [1, 3] {
        deliver(&dispatcher, number, &event("ev.t.a", sequence));
    }
    let _past = dispatcher.join(&outbox, vec![since(0, request("b", &["ev.t.b"]))], vec![]);
    outbox.release();
    deliver_missed(&dispatcher, &event("ev.t.a", 2), true);
    dispatcher.verify(3);
    catch_up(&dispatcher, 1, &[&outbox], &[1, 2, 3].map(|sequence| event("ev.t.a", sequence)));
    assert_eq!(names(&outbox, &kept), ["a n1", "a n3", "a n2"]);
}

#[test]
fn a_binding_added_while_the_session_lags_begins_where_it_was_added() {
    let dispatcher = dispatcher();
    let (outbox, kept) = outbox(1, ROOM);
    let _first = dispatcher.join(&outbox, vec![since(0, request("a", &["ev.t.a"]))], vec![]);
    settle(&dispatcher);
    outbox.release();
    let history: Vec<Event> =
        (1..=6).map(|n| event(if n % 2 == 0 { "ev.t.a" } else { "ev.t.b" }, n)).collect();
    dispatcher.verify(4);
    let _second = join(&dispatcher, &outbox, vec![request("b", &["ev.t.b"])]);
    settle(&dispatcher);
    catch_up(&dispatcher, 1, &[&outbox], &history);
    assert_eq!(names(&outbox, &kept), ["a n2", "a n4", "b n5", "a n6"]);
}

#[test]
fn a_dropped_binding_gets_nothing_from_a_running_replay() {
    let dispatcher = dispatcher();
    let (outbox, kept) = outbox(1, ROOM);
    let joined = dispatcher.join(&outbox, vec![since(0, request("a", &["ev.t.a"]))], vec![]);
    settle(&dispatcher);
    outbox.release();
    let (mut batch, _) = begin(&dispatcher, 1, &[&outbox], true);
    drop(joined);
    replay(&mut batch, &[event("ev.t.a", 1)]);
    assert_eq!(names(&outbox, &kept), [""; 0]);
}
