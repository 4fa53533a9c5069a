//! What passes between a source and the publisher: the event on the way there, its fate on the way back.

use tokio::sync::mpsc;

use crate::{body::Rejection, message::Message};

/// An event on its way from a source to the stream.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// The event.
    pub(crate) message: Message,
    /// Whom to tell.
    pub(crate) receipt: Receipt,
}

/// Where a source learns what became of a delivery.
#[derive(Clone, Debug)]
pub(crate) struct Receipt {
    /// The delivery.
    pub(crate) tag: u64,
    /// The source's channel; it has room for all deliveries under way. Closed when the source has lost its AMQP
    /// channel: the broker then delivers the event again, and nobody waits for this one.
    pub(crate) settle: mpsc::Sender<Settled>,
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settled {
    /// The delivery.
    pub(crate) tag: u64,
    /// What became of it.
    pub(crate) outcome: Outcome,
}

/// What the stream did with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It has it.
    Stored,
    /// It will never take it.
    Refused(Rejection),
}

impl Receipt {
    /// Nobody waits for this event any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.settle.is_closed()
    }

    /// Tells the source.
    pub(super) fn settle(&self, outcome: Outcome) {
        // Without a receiver the broker delivers again; there is always room.
        let _ = self.settle.try_send(Settled { tag: self.tag, outcome });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_learns_what_became_of_its_deliveries_as_long_as_it_listens() {
        let (settle, mut settled) = mpsc::channel(1);
        let receipt = Receipt { tag: 3, settle };
        receipt.settle(Outcome::Stored);
        assert_eq!(settled.try_recv(), Ok(Settled { tag: 3, outcome: Outcome::Stored }));
        assert!(!receipt.is_abandoned());
        drop(settled);
        assert!(receipt.is_abandoned());
        receipt.settle(Outcome::Stored);
    }
}
