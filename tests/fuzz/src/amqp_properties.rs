//! AMQP content headers.

use amq_protocol::frame::{AMQPFrame, parse_frame};
use amqp_ingest::amqp::frame::{Delivery, FrameDecoder, Incoming};
use bytes::BytesMut;

/// `basic.deliver` of tag 1 with an empty consumer tag, exchange and routing key.
const DELIVER: &[u8] = b"\x01\0\x01\0\0\0\x10\0\x3c\0\x3c\0\0\0\0\0\0\0\0\x01\0\0\0\xce";
/// amq-protocol recurses into tables.
const MAX_BYTES: usize = 2048;

/// The input is the properties of an empty message. What amq-protocol reads is read here too, and alike.
pub(crate) fn run(input: &[u8]) -> bool {
    if input.len() > MAX_BYTES {
        return false;
    }
    let size = u32::try_from(input.len() + 12).unwrap().to_be_bytes();
    let header = [&[2, 0, 1], &size[..], &[0, 60, 0, 0], &[0; 8], input, &[0xCE]].concat();
    let mut read = BytesMut::from(DELIVER);
    read.extend_from_slice(&header);
    let delivery = match FrameDecoder::default().next(&mut read) {
        Ok(Some(Incoming::Delivery(delivery))) => Some(delivery),
        Ok(other) => panic!("{other:?}"),
        Err(_) => None,
    };
    if let Ok((_, AMQPFrame::Header(_, header))) = parse_frame(&header[..]) {
        let Some(Delivery { message_id, timestamp, .. }) = &delivery else { panic!("{header:?}") };
        let expected = header.properties.message_id().as_ref().map(|id| id.as_str().as_bytes());
        assert_eq!((message_id.as_deref(), timestamp), (expected, header.properties.timestamp()));
    }
    delivery.is_some_and(|delivery| delivery.body.is_some())
}
