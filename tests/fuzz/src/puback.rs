//! What nats-server says about published events.

use amqp_ingest::{checkpoint::EventId, publish::puback};
use blackhole_common::nats::protocol::Message;
use bytes::Bytes;

/// Lines: the subject of a reply, which is also tried as an event's id; the payload.
pub(crate) fn run(input: &[u8]) -> bool {
    let mut lines = input.splitn(2, |byte| *byte == b'\n');
    let Ok(subject) = std::str::from_utf8(lines.next().unwrap_or_default()) else { return false };
    if let Some(Ok(id)) = EventId::parse(subject) {
        assert_eq!(EventId::parse(&id.to_string()), Some(Ok(id)));
    }
    let message = Message {
        subscription: 1,
        subject: Bytes::copy_from_slice(subject.as_bytes()),
        reply: Bytes::new(),
        headers: Bytes::new(),
        payload: Bytes::copy_from_slice(lines.next().unwrap_or_default()),
    };
    match puback::parse(&message) {
        (number, puback::PubAck::Stored { sequence, .. }) => {
            assert!(sequence > 0);
            number.is_some()
        }
        (_, puback::PubAck::RetryLater(reason) | puback::PubAck::Changed(reason)) => {
            assert!(!reason.is_empty());
            false
        }
        (_, puback::PubAck::Rejected(..)) => false,
    }
}
