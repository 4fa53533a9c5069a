//! What passes between a consumer and the publisher: events one way, their settlement the other.

use tokio::sync::mpsc;

use crate::{body::Rejection, checkpoint::Checkpoint, message::Message};

/// What a consumer sends to the publisher.
#[derive(Debug)]
pub(crate) enum FromConsumer {
    /// A session with the broker has received its first delivery: what the previous one left unpublished is delivered
    /// again.
    Began {
        /// The index of the broker in the configuration.
        source: usize,
        /// What the broker knows of the acknowledgements before.
        checkpoint: Option<Checkpoint>,
    },
    /// An event.
    Event(OutgoingEvent),
}

/// An event on its way from a consumer to the stream.
#[derive(Debug)]
pub(crate) struct OutgoingEvent {
    /// The index of its broker in the configuration.
    pub(crate) source: usize,
    /// Whether it may have been delivered before.
    pub(crate) redelivered: bool,
    /// The event.
    pub(crate) message: Message,
    /// Reports the outcome to the consumer.
    pub(crate) settle_handle: SettleHandle,
}

/// Reports the outcome of a delivery to its consumer.
#[derive(Clone, Debug)]
pub(crate) struct SettleHandle {
    /// The delivery tag.
    pub(crate) tag: u64,
    /// The size of the body.
    pub(crate) bytes: u64,
    /// The consumer's channel, with room for all its deliveries. It is closed when the consumer has lost its AMQP
    /// channel. The broker then redelivers the event, and this copy is abandoned.
    pub(crate) sender: mpsc::Sender<Settlement>,
}

/// The outcome of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settlement {
    /// The delivery tag.
    pub(crate) tag: u64,
    /// The size of the body.
    pub(crate) bytes: u64,
    /// The outcome.
    pub(crate) outcome: Outcome,
}

/// What the stream did with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Stored it. Without history there is no checkpoint.
    Stored(Option<Checkpoint>),
    /// Will never store it.
    Rejected(Rejection),
}

impl SettleHandle {
    /// Whether the consumer no longer waits for this event.
    pub(super) fn is_abandoned(&self) -> bool {
        self.sender.is_closed()
    }

    /// Reports the outcome.
    pub(super) fn settle(&self, outcome: Outcome) {
        // It fails only if the event is abandoned: the channel is never full.
        let _ = self.sender.try_send(Settlement { tag: self.tag, bytes: self.bytes, outcome });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_receives_settlements_until_it_abandons_them() {
        let (sender, mut settlements) = mpsc::channel(2);
        let handle = SettleHandle { tag: 3, bytes: 5, sender };
        handle.settle(Outcome::Stored(None));
        handle.settle(Outcome::Rejected(Rejection::TooLarge));
        assert_eq!(
            settlements.try_recv(),
            Ok(Settlement { tag: 3, bytes: 5, outcome: Outcome::Stored(None) })
        );
        let rejected = Outcome::Rejected(Rejection::TooLarge);
        assert_eq!(settlements.try_recv(), Ok(Settlement { tag: 3, bytes: 5, outcome: rejected }));
        assert!(!handle.is_abandoned());
        drop(settlements);
        assert!(handle.is_abandoned());
        handle.settle(Outcome::Stored(None));
    }
}
