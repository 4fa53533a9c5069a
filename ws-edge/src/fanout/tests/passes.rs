//! Bringing sessions up to date, as passes of the catch-up do.

use super::*;

/// Takes these sessions into a pass, as far as they can be; returns with its lanes how many were left out.
fn begin(fanout: &Fanout, pass: PassNumber, sessions: &[&Arc<Outbox>], is_led: bool) -> (Lanes, usize) {
    let joined = |outbox: &&Arc<Outbox>| Some((Arc::clone(outbox), outbox.join_pass(pass)?));
    let (lanes, unverified) = fanout.lanes(pass, sessions.iter().filter_map(joined).collect(), is_led);
    (lanes, unverified.len())
}

fn bring<'e>(lanes: &mut Lanes, events: impl IntoIterator<Item = &'e Event>) {
    for event in events {
        lanes.deliver(event, &EventFrames::read("ev", event).unwrap());
    }
}

/// Brings these sessions up to date from `history`.
fn catch_up(fanout: &Fanout, pass: PassNumber, sessions: &[&Arc<Outbox>], history: &[Event]) {
    let (mut lanes, _) = begin(fanout, pass, sessions, false);
    let last = history.last().map_or(0, |event| sequence(event).unwrap()).max(fanout.start_tail(&lanes));
    bring(&mut lanes, history);
    lanes.advance(last);
    assert!(fanout.finish(&mut lanes, last));
}

#[test]
fn who_comes_back_gets_the_past_of_its_bindings_then_what_comes() {
    let fanout = fanout();
    let history: Vec<Event> =
        (1..=6).map(|n| event(if n % 2 == 0 { "ev.t.even" } else { "ev.t.odd" }, n)).collect();
    fanout.verify(6);
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
    let (mut lanes, _) = begin(&fanout, 1, &[&outbox], true);
    assert_eq!(fanout.start_tail(&lanes), 7);
    live(8);
    bring(&mut lanes, history.iter().chain([&event("ev.t.even", 7)]));
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
    fanout.verify(4);
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
    let (mut lanes, unverified) = begin(&fanout, 1, &[&outbox], true);
    assert_eq!(unverified, 0, "what comes before a cursor is not owed");
    bring(&mut lanes, &events[..2]);
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
    let (_, unverified) = begin(&fanout, 1, &[&outbox], true);
    assert_eq!(unverified, 1, "something may still be late");
    deliver_missed(&fanout, &event("ev.t.a", 2), true);
    got.extend(names(&outbox, &kept));
    fanout.verify(after);
    let (mut lanes, unverified) = begin(&fanout, 2, &[&outbox], true);
    assert_eq!(unverified, 0);
    let history: Vec<Event> = (1..=after + 1).map(|sequence| event("ev.t.a", sequence)).collect();
    bring(&mut lanes, &history);
    got.extend(names(&outbox, &kept));
    let mut expected: Vec<String> = (1..=after + 1).map(|sequence| format!("a n{sequence}")).collect();
    expected.sort();
    got.sort();
    assert_eq!(got, expected);
}

#[test]
fn what_is_late_for_one_binding_does_not_wait_for_the_past_of_another() {
    let fanout = fanout();
    let (outbox, kept) = outbox(1, ROOM);
    let _mine = join(&fanout, &outbox, vec![wish("a", &["ev.t.a"])]);
    let number = settle(&fanout)["ev.t.a"];
    // A leader kept the second to itself.
    for sequence in [1, 3] {
        deliver(&fanout, number, &event("ev.t.a", sequence));
    }
    let _past = fanout.join(&outbox, vec![wish("b", &["ev.t.b"]).since(0)], vec![]);
    outbox.release();
    deliver_missed(&fanout, &event("ev.t.a", 2), true);
    fanout.verify(3);
    catch_up(&fanout, 1, &[&outbox], &[1, 2, 3].map(|sequence| event("ev.t.a", sequence)));
    assert_eq!(names(&outbox, &kept), ["a n1", "a n3", "a n2"]);
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
    fanout.verify(4);
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
    let (mut lanes, _) = begin(&fanout, 1, &[&outbox], true);
    drop(joined);
    bring(&mut lanes, &[event("ev.t.a", 1)]);
    assert_eq!(names(&outbox, &kept), [""; 0]);
}
