use blackhole_common::tenant::Tenant;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::*;
use crate::{
    message::{EventMetadata, Message},
    publish::{SettleHandle, Settlement},
};

/// A publisher, and what it tells its consumer.
struct World {
    publisher: Publisher,
    sender: mpsc::Sender<Settlement>,
    settlements: mpsc::Receiver<Settlement>,
}

impl World {
    fn new() -> World {
        let (publisher, _) = Publisher::for_tests(&[""]);
        let (sender, settlements) = mpsc::channel(16);
        World { publisher, sender, settlements }
    }

    /// Events are published with these wishes for an acknowledgement.
    fn published(&mut self, asking: &[bool]) {
        self.publish_deliveries(asking, false);
    }

    fn publish_deliveries(&mut self, asking: &[bool], redelivered: bool) {
        for (index, asks_for_ack) in asking.iter().enumerate() {
            let event = EventMetadata {
                exchange: "callevt",
                routing_key: "call.X.1",
                message_id: None,
                timestamp: None,
                zone: "",
            };
            let message =
                Message::new("t", &Tenant::Nobody, None, "X", &event, Bytes::from(index.to_string()));
            let settle_handle = SettleHandle { tag: index as u64, bytes: 1, sender: self.sender.clone() };
            let event = OutgoingEvent { source: 0, redelivered, message, settle_handle };
            self.publisher.enqueue(FromConsumer::Event(event));
            assert!(self.publisher.identify(index));
            self.publisher.published += 1;
            let pending = &mut self.publisher.pending[index];
            pending.published_at = Some(Instant::now());
            pending.asks_for_ack = *asks_for_ack;
        }
    }

    /// The tags that are settled as stored, with their positions.
    fn stored(&mut self) -> Vec<(u64, u64)> {
        let mut stored = Vec::new();
        while let Ok(Settlement { tag, outcome: Outcome::Stored(Some(checkpoint)), .. }) =
            self.settlements.try_recv()
        {
            stored.push((tag, checkpoint.sequence));
        }
        stored.sort_unstable();
        stored
    }
}

fn stored(sequence: u64) -> PubAck {
    PubAck::Stored { duplicate: false, sequence }
}

#[test]
fn the_acknowledgement_of_the_last_event_of_a_burst_settles_all_of_it() {
    let mut world = World::new();
    world.published(&[true, false, false, true, false, true]);
    assert!(world.publisher.handle_puback(Some(0), stored(11)).unwrap());
    assert_eq!(world.stored(), [(0, 11)]);
    assert!(world.publisher.handle_puback(Some(3), stored(14)).unwrap());
    assert_eq!(world.stored(), [(1, 12), (2, 13), (3, 14)]);
    assert_eq!((world.publisher.pending.len(), world.publisher.published), (2, 2), "the next burst waits");
    assert!(world.publisher.handle_puback(Some(5), stored(16)).unwrap());
    assert_eq!(world.stored(), [(4, 15), (5, 16)]);
}

#[test]
fn an_event_that_was_not_published_has_no_position_in_the_burst() {
    let mut world = World::new();
    world.published(&[false, false, true]);
    world.publisher.reject(1, Rejection::TooLarge, "too large");
    assert!(world.publisher.handle_puback(Some(2), stored(12)).unwrap());
    assert_eq!(world.settlements.try_recv().unwrap().outcome, Outcome::Rejected(Rejection::TooLarge));
    assert_eq!(world.stored(), [(0, 11), (2, 12)]);
}

#[test]
fn nothing_of_a_burst_is_settled_if_its_last_event_was_not_stored_now() {
    for puback in [
        PubAck::Stored { duplicate: true, sequence: 9 },
        PubAck::Changed("wrong last msg ID".into()),
        PubAck::Rejected(Rejection::Refused, "too large".into()),
        PubAck::RetryLater("no space".into()),
    ] {
        let mut world = World::new();
        world.published(&[false, false, true]);
        // This one was not published, and hides nothing before it.
        world.publisher.reject(1, Rejection::TooLarge, "too large");
        assert!(matches!(world.settlements.try_recv().unwrap().outcome, Outcome::Rejected(_)));
        let text = format!("{puback:?}");
        let is_duplicate = matches!(puback, PubAck::Stored { .. });
        assert!(world.publisher.handle_puback(Some(2), puback).is_err(), "{text}");
        assert_eq!(world.stored(), [], "{text}");
        // One at a time, each refusal tells its reason.
        assert_eq!(world.publisher.cautious > 0, !is_duplicate, "{text}");
    }
}

#[test]
fn what_the_broker_delivers_again_is_not_published_again_with_its_former_id() {
    let mut world = World::new();
    world.published(&[true, true]);
    // The connection to NATS is lost, and so is that to the broker.
    world.publisher.reset_connection_state();
    assert!(world.publisher.identify(0), "its session waits for it");
    let (_, settlements) = mpsc::channel(1);
    world.settlements = settlements;
    assert!(!world.publisher.identify(1));
    assert!(!world.publisher.identify(0));
}

#[test]
fn the_copy_of_an_earlier_delivery_that_arrives_late_stands_for_the_delivery() {
    let mut world = World::new();
    world.published(&[true]);
    let late = world.publisher.pending[0].id.unwrap();
    // The connection to NATS is lost, and so is that to the broker, which has no checkpoint.
    let (sender, settlements) = mpsc::channel(16);
    (world.sender, world.settlements) = (sender, settlements);
    world.publisher.reset_connection_state();
    world.publisher.sources[0].begin(None);
    world.publisher.sources[0].finish_reading();
    world.publish_deliveries(&[true], true);
    assert_ne!(world.publisher.pending[0].id, Some(late));
    // The stream has refused it, because of the late copy at position 11.
    world.publisher.reset_connection_state();
    world.publisher.sources[0].start_reading(11);
    world.publisher.sources[0].observe(11, Ok(late), "");
    world.publisher.settle_found();
    assert_eq!(world.publisher.pending.len(), 0);
    assert_eq!(world.settlements.try_recv().unwrap().outcome, Outcome::Stored(None));
}
