use proptest::prelude::*;

use super::*;

const STREAM: u64 = 5;

/// What an ingest and the stream know after a number of events.
struct World {
    source: Source,
    /// The stream: ids from position 1 on.
    stream: Vec<EventId>,
}

impl World {
    fn new() -> World {
        let mut source = Source::new("");
        source.begin(None);
        source.finish_reading();
        World { source, stream: Vec::new() }
    }

    /// The stream stores an event.
    fn store(&mut self, digest: Digest) -> Checkpoint {
        let id = self.source.next_id(digest);
        self.stream.push(id);
        let sequence = self.stream.len() as u64;
        Checkpoint { epoch: id.epoch, number: id.number, sequence, stream: STREAM }
    }

    /// Another ingest takes over.
    fn take_over(&mut self, checkpoint: Option<Checkpoint>) {
        self.source = Source::new("");
        self.source.begin(checkpoint);
        self.read(STREAM);
    }

    fn read(&mut self, stream: u64) {
        let last = self.stream.len() as u64;
        let from = self.source.read_from(stream, last);
        self.source.start_reading(last);
        for (sequence, id) in (1..).zip(&self.stream).filter(|(sequence, _)| *sequence >= from) {
            self.source.observe(sequence, Ok(*id), "");
        }
        self.source.finish_reading();
    }

    fn recognises(&mut self, digest: Digest) -> bool {
        self.source.recognise(digest).is_some()
    }
}

#[test]
fn numbers_continue_where_the_previous_ingest_stopped() {
    let mut world = World::new();
    let acknowledged = world.store(1);
    world.store(2);
    world.take_over(Some(acknowledged));
    assert_eq!(world.source.recognise(2), Some(Some((world.stream[1], 2))));
    let id = world.source.next_id(3);
    assert_eq!((id.epoch, id.number), (acknowledged.epoch, 3));
}

#[test]
fn nothing_is_recognised_after_the_first_new_event() {
    let mut world = World::new();
    let acknowledged = world.store(1);
    world.store(2);
    world.take_over(Some(acknowledged));
    assert_eq!(world.source.recognise_new(3), None);
    assert!(!world.recognises(2));
}

#[test]
fn a_session_that_the_broker_has_given_up_recognises_what_another_ingest_has_published_since() {
    let mut world = World::new();
    let acknowledged = world.store(1);
    for digest in [2, 2, 3] {
        world.store(digest);
    }
    // It was delivered these too, before the broker gave it up.
    world.take_over(Some(acknowledged));
    for position in 2..=4 {
        let stored = world.stream[position - 1];
        assert_eq!(world.source.recognise_new(stored.digest), Some(Some((stored, position as u64))));
    }
    assert_eq!(world.source.recognise_new(3), None, "an equal event");
    assert_eq!(world.source.next_id(3).number, 5, "as the other one numbers it");
}

#[test]
fn events_in_flight_are_found_by_their_ids() {
    let mut world = World::new();
    for digest in [7, 7] {
        let checkpoint = world.store(digest);
        world.source.settle(checkpoint);
    }
    let (stored, lost) = (world.source.next_id(7), world.source.next_id(7));
    world.stream.push(stored);
    world.read(STREAM);
    assert_eq!(world.source.take(stored), Some(3));
    assert_eq!(world.source.take(stored), None);
    assert_eq!(world.source.take(lost), None);
}

#[test]
fn an_event_that_is_delivered_again_while_its_former_copy_is_under_way_has_the_same_id() {
    let mut world = World::new();
    let acknowledged = world.store(1);
    let under_way = world.source.next_id(2);
    // The same ingest has a new session with the broker.
    world.source.begin(Some(acknowledged));
    world.read(STREAM);
    assert!(!world.recognises(2));
    assert_eq!(world.source.next_id(2), under_way);
}

#[test]
fn without_a_checkpoint_a_copy_that_arrives_late_is_found_by_its_id() {
    let mut world = World::new();
    world.store(1);
    let under_way = world.source.next_id(2);
    world.source.begin(None);
    world.read(STREAM);
    assert!(world.recognises(1));
    assert!(!world.recognises(2));
    let id = world.source.next_id(2);
    world.stream.push(under_way);
    world.read(STREAM);
    assert!(!world.recognises(1), "it was recognised before");
    assert_eq!(world.source.take(id), Some(2));
    assert!(!world.recognises(2));
}

#[test]
fn an_event_that_may_be_under_way_keeps_its_id_if_those_before_it_are_gone() {
    let mut world = World::new();
    let acknowledged = world.store(1);
    let under_way = [2, 3].map(|digest| world.source.next_id(digest));
    under_way.into_iter().for_each(|id| world.source.remember(id));
    world.source.begin(Some(acknowledged));
    world.read(STREAM);
    // The queue had no room for 2.
    assert!(!world.recognises(3));
    assert_eq!(world.source.next_id(3), under_way[1]);
    assert_eq!(world.source.next_id(4).number, 4);
}

#[test]
fn an_event_that_the_stream_has_lost_is_not_taken_for_an_equal_one_after_it() {
    let mut world = World::new();
    let acknowledged = world.store(1);
    let lost = world.source.next_id(2);
    let later = [3, 2].map(|digest| world.store(digest));
    for id in [lost, world.stream[1], world.stream[2]] {
        world.source.remember(id);
    }
    world.source.begin(Some(acknowledged));
    world.read(STREAM);
    assert!(!world.recognises(2));
    assert_eq!(world.source.next_id(2), lost);
    for (digest, checkpoint) in [3, 2].into_iter().zip(later) {
        let (id, _) = world.source.recognise(digest).unwrap().unwrap();
        assert_eq!(id.number, checkpoint.number);
    }
}

#[test]
fn a_restarted_broker_changes_no_id() {
    let mut world = World::new();
    let acknowledged = world.store(1);
    world.source.settle(acknowledged);
    world.store(2);
    let under_way = world.source.next_id(3);
    for another in [false, true] {
        if another {
            world.source = Source::new("");
        }
        world.source.begin(Some(Checkpoint::first()));
        world.read(STREAM);
        assert!(world.recognises(2), "it was not acknowledged");
        assert!(!world.recognises(3));
        assert_eq!(world.source.next_id(3), under_way);
    }
}

#[test]
fn the_first_checkpoint_tells_the_epoch_once_the_stream_has_an_event_of_it() {
    let mut world = World::new();
    let first = Checkpoint::first();
    world.store(1);
    for (number, digest) in [(1, 2), (2, 3)] {
        world.stream.push(EventId { epoch: first.epoch, number, digest });
    }
    world.take_over(Some(first));
    assert!(matches!(world.source.recognise(2), Some(Some((EventId { number: 1, .. }, _)))));
    assert!(matches!(world.source.recognise(3), Some(Some((EventId { number: 2, .. }, _)))));
    let id = world.source.next_id(4);
    assert_eq!((id.epoch, id.number), (first.epoch, 3));
}

#[test]
fn a_new_stream_is_read_from_its_beginning() {
    let mut world = World::new();
    let acknowledged = world.store(1);
    world.stream.clear();
    let id = world.source.next_id(2);
    world.stream.push(id);
    world.source = Source::new("");
    world.source.begin(Some(acknowledged));
    world.read(STREAM + 1);
    assert!(world.recognises(2));
}

#[test]
fn without_a_checkpoint_redelivered_events_are_found_by_their_digests() {
    let mut world = World::new();
    for digest in 1..=3 {
        world.store(digest);
    }
    world.take_over(None);
    // The broker has forgotten some acknowledgements.
    assert!(world.recognises(1));
    assert!(!world.recognises(1), "it was stored once");
    assert!(world.recognises(3));
    assert!(!world.recognises(4));
}

#[test]
fn events_of_an_earlier_release_and_of_the_same_zone_are_found_by_their_digests() {
    let mut source = Source::new("east");
    source.begin(None);
    source.start_reading(3);
    source.observe(1, Err(1), "east");
    source.observe(2, Err(2), "west");
    source.finish_reading();
    assert_eq!((source.recognise(1), source.recognise(2)), (Some(None), None));
}

#[test]
fn an_event_that_later_ones_have_overtaken_gets_a_number_before_theirs() {
    let mut world = World::new();
    let acknowledged = world.store(1);
    // 2 and 4 wait; 3 and 5 are stored.
    let waits = world.source.next_id(2);
    world.store(3);
    world.source.next_id(4);
    world.store(5);
    world.take_over(Some(acknowledged));
    assert!(!world.recognises(2));
    assert_eq!(world.source.overtaken_since(), Some(1), "3 is at position 2");
    assert_eq!(world.source.next_id(2), waits);
    assert_eq!(world.source.recognise(3), Some(Some((world.stream[1], 2))));
    assert!(!world.recognises(4));
    assert_eq!(world.source.next_id(4).number, 4);
    assert!(world.recognises(5));
    assert_eq!(world.source.overtaken_since(), None);
    assert_eq!(world.source.next_id(6).number, 6);
}

#[test]
fn the_position_of_a_recognised_event_is_before_those_of_all_later_ones() {
    let mut world = World::new();
    let acknowledged = world.store(1);
    let waits = world.source.next_id(2);
    world.store(3);
    world.stream.push(waits);
    world.take_over(Some(acknowledged));
    assert_eq!(
        world.source.recognise(2),
        Some(Some((waits, 2))),
        "it is at position 3, but 3 is at position 2"
    );
}

#[test]
fn what_is_settled_does_not_pass_an_event_that_was_overtaken() {
    let mut world = World::new();
    let waits = world.source.next_id(2);
    world.source.overtake(waits.number);
    let later = world.store(3);
    world.source.settle(later);
    // The connection to NATS is lost after it was stored, too.
    world.stream.push(waits);
    world.read(STREAM);
    assert_eq!(world.source.take(waits), Some(2));
    world.source.end(waits);
    world.read(STREAM);
    assert_eq!(world.source.take(waits), None, "all is settled");
}

proptest! {
    /// An ingest dies at any moment, with a few kinds of events, so that many are equal.
    #[test]
    fn every_stored_event_is_recognised_once_and_no_other(
        digests in prop::collection::vec(0..3u128, 1..60),
        (acknowledged, stored) in (0..60usize, 0..60usize),
        again in prop::collection::vec(any::<bool>(), 60),
    ) {
        let stored = stored.min(digests.len());
        let acknowledged = acknowledged.min(stored);
        let mut world = World::new();
        let mut checkpoints: Vec<Checkpoint> =
            digests.iter().take(stored).map(|digest| world.store(*digest)).collect();
        // Without a checkpoint equal events cannot be told apart.
        prop_assume!(acknowledged > 0);
        let mut checkpoint = checkpoints[acknowledged - 1];
        world.take_over(Some(checkpoint));
        for (index, digest) in digests.iter().enumerate().skip(acknowledged) {
            if again[index] {
                // The next ingest dies too. What it has recognised or stored may be acknowledged or not.
                let settled = world.stream.len();
                if index > acknowledged && index % 2 == 0 && index <= settled {
                    checkpoint = checkpoints[index - 1];
                    world.take_over(Some(checkpoint));
                } else {
                    world.take_over(Some(checkpoint));
                    let from = usize::try_from(checkpoint.number).unwrap();
                    for digest in &digests[from..index] {
                        prop_assert!(world.recognises(*digest));
                    }
                }
            }
            let is_stored = world.stream.len() > index;
            prop_assert_eq!(world.recognises(*digest), is_stored, "event {}", index);
            if !is_stored {
                checkpoints.push(world.store(*digest));
            }
        }
        let stored: Vec<Digest> = world.stream.iter().map(|id| id.digest).collect();
        prop_assert_eq!(stored, digests);
    }

    /// Events of one kind wait while others overtake them; ingests die at any moment, and lose their connections.
    #[test]
    fn events_that_wait_are_stored_once_too(
        kinds in prop::collection::vec(0..4u128, 1..30),
        actions in prop::collection::vec(0..8u8, 0..120),
    ) {
        let mut queue = Queue::new(kinds);
        for action in actions {
            match action {
                0..=2 => queue.deliver(true),
                3 => queue.deliver(false),
                4 => queue.release(),
                5 => queue.acknowledge(),
                6 => queue.reconnect(),
                _ => queue.die(),
            }
        }
        queue.reconnect();
        while queue.next < queue.kinds.len() {
            queue.deliver(true);
        }
        while !queue.waiting.is_empty() {
            queue.release();
        }
        let stored = |is_meant: fn(&u128) -> bool| {
            let digests = queue.world.stream.iter().map(|id| id.digest);
            digests.filter(is_meant).collect::<Vec<_>>()
        };
        let expected = |is_meant: fn(&u128) -> bool| queue.kinds.iter().copied().filter(is_meant).collect::<Vec<_>>();
        prop_assert_eq!(stored(|kind| *kind < WAITS), expected(|kind| *kind < WAITS));
        prop_assert_eq!(stored(|kind| *kind >= WAITS).len(), expected(|kind| *kind >= WAITS).len());
        for kind in [|kind: &u128| *kind == 2, |kind: &u128| *kind == 3] {
            prop_assert_eq!(stored(kind).len(), expected(kind).len());
        }
    }
}

/// Kinds of events from this one on wait, each kind in order.
const WAITS: u128 = 2;

/// A queue whose events are stored and acknowledged, and the ingest that does it.
struct Queue {
    world: World,
    kinds: Vec<u128>,
    /// Which event is delivered next, and how many were delivered before at all.
    next: usize,
    delivered: usize,
    /// Of the events that are not acknowledged: what is known of them here.
    events: Vec<Delivered>,
    acknowledged: Option<Checkpoint>,
    waiting: Vec<usize>,
    /// An event is stored, but this is not known yet.
    unconfirmed: Option<usize>,
}

#[derive(Clone, Debug, Default)]
struct Delivered {
    id: Option<EventId>,
    since: Option<u64>,
    checkpoint: Option<Checkpoint>,
}

impl Queue {
    fn new(kinds: Vec<u128>) -> Queue {
        let mut world = World::new();
        // There is a checkpoint.
        let first = world.store(0);
        world.source.settle(first);
        let mut all = vec![0];
        all.extend(kinds);
        let mut events = vec![Delivered::default(); all.len()];
        events[0].checkpoint = Some(first);
        let acknowledged = Some(first);
        Queue {
            world,
            kinds: all,
            next: 1,
            delivered: 1,
            events,
            acknowledged,
            waiting: Vec::new(),
            unconfirmed: None,
        }
    }

    /// The next event is delivered. Its storage `is_confirmed`, or the connection is lost before that.
    fn deliver(&mut self, is_confirmed: bool) {
        if self.unconfirmed.is_some() || self.next >= self.kinds.len() {
            return;
        }
        let (index, kind) = (self.next, self.kinds[self.next]);
        let is_redelivered = index < self.delivered;
        self.next += 1;
        self.delivered = self.delivered.max(self.next);
        let source = &mut self.world.source;
        let mut event = Delivered::default();
        let stored = if is_redelivered { source.recognise(kind) } else { source.recognise_new(kind) };
        if let Some(stored) = stored {
            let (id, sequence) = stored.unwrap();
            let checkpoint = Checkpoint { epoch: id.epoch, number: id.number, sequence, stream: STREAM };
            event.checkpoint = Some(checkpoint);
            source.settle(checkpoint);
            self.events[index] = event;
            return;
        }
        event.since = source.overtaken_since();
        let id = source.next_id(kind);
        if event.since.is_some() {
            source.overtake(id.number);
        }
        event.id = Some(id);
        self.events[index] = event;
        if kind >= WAITS {
            let now = self.world.stream.len() as u64;
            let since = self.events[index].since.map_or(now, |since| since.min(now));
            self.events[index].since = Some(since);
            self.world.source.overtake(id.number);
            self.waiting.push(index);
        } else {
            self.publish(index, is_confirmed);
        }
    }

    fn publish(&mut self, index: usize, is_confirmed: bool) {
        self.world.stream.push(self.events[index].id.unwrap());
        if is_confirmed {
            self.settle(index, self.world.stream.len() as u64);
        } else {
            self.unconfirmed = Some(index);
        }
    }

    fn settle(&mut self, index: usize, sequence: u64) {
        let event = &mut self.events[index];
        let id = event.id.unwrap();
        let sequence = event.since.map_or(sequence, |since| since.min(sequence));
        let checkpoint = Checkpoint { epoch: id.epoch, number: id.number, sequence, stream: STREAM };
        event.checkpoint = Some(checkpoint);
        self.world.source.settle(checkpoint);
        self.world.source.end(id);
    }

    fn release(&mut self) {
        if self.unconfirmed.is_none() && !self.waiting.is_empty() {
            let index = self.waiting.remove(0);
            self.publish(index, true);
        }
    }

    /// Everything that is stored without a gap is acknowledged.
    fn acknowledge(&mut self) {
        let settled = self.events[..self.next].iter().take_while(|event| event.checkpoint.is_some());
        let checkpoint = settled.last().and_then(|event| event.checkpoint).unwrap();
        for (sequence, id) in (1..).zip(&self.world.stream) {
            assert!(
                id.number <= checkpoint.number || sequence >= checkpoint.sequence,
                "{id} at {sequence}: {checkpoint:?}"
            );
        }
        self.acknowledged = Some(checkpoint);
    }

    /// The connection to NATS is another.
    fn reconnect(&mut self) {
        self.world.read(STREAM);
        if let Some(index) = self.unconfirmed.take() {
            let sequence = self.world.source.take(self.events[index].id.unwrap()).unwrap();
            self.settle(index, sequence);
        }
        for index in &self.waiting {
            assert_eq!(self.world.source.take(self.events[*index].id.unwrap()), None);
        }
    }

    /// Another ingest takes over.
    fn die(&mut self) {
        let acknowledged = self.acknowledged.unwrap();
        self.next = 1 + self.events.iter().rposition(|event| event.checkpoint == Some(acknowledged)).unwrap();
        self.events[self.next..].fill(Delivered::default());
        self.waiting.clear();
        self.unconfirmed = None;
        self.world.take_over(self.acknowledged);
    }
}
