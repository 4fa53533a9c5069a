//! An event as it came from NATS.

use bytes::Bytes;

use crate::protocol::cursor::EventPosition;

/// An event: slices of the buffer that it was read into.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its subject, which begins with the event root.
    pub subject: Bytes,
    /// Its name, as header text.
    pub name: Bytes,
    /// The AMQP body.
    pub body: Bytes,
    /// Its owner within the account, as in the header; empty if it has none.
    pub owner: Bytes,
    /// Its position in the stream; `None` without a history.
    pub position: Option<EventPosition>,
}

impl Event {
    /// Its position's number.
    pub(crate) fn sequence(&self) -> Option<u64> {
        self.position.map(|position| position.sequence)
    }

    /// A copy that does not keep the buffer that it was read into.
    pub(crate) fn detached(&self) -> Event {
        Event {
            subject: Bytes::copy_from_slice(&self.subject),
            name: Bytes::copy_from_slice(&self.name),
            body: Bytes::copy_from_slice(&self.body),
            owner: Bytes::copy_from_slice(&self.owner),
            position: self.position,
        }
    }

    /// About how many bytes of memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Event>() + self.subject.len() + self.name.len() + self.body.len() + self.owner.len()
    }
}
