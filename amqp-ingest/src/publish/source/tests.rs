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
    world.source.redeliveries_have_ended();
    assert!(!world.recognises(2));
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
fn without_a_checkpoint_a_copy_that_arrives_late_is_found_by_its_digest() {
    let mut world = World::new();
    world.store(1);
    let under_way = world.source.next_id(2);
    world.source.begin(None);
    world.read(STREAM);
    assert!(world.recognises(1));
    assert!(!world.recognises(2));
    world.source.next_id(2);
    world.stream.push(under_way);
    world.read(STREAM);
    assert!(!world.recognises(1), "it was recognised before");
    assert!(world.recognises(2));
    assert!(!world.recognises(2));
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
}
