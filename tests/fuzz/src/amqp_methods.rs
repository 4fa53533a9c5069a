//! AMQP methods.

use amq_protocol::frame::{AMQPFrame, WriteContext, gen_frame};
use amqp_ingest::amqp::{
    connection::parse_method,
    frame::{FrameDecoder, Incoming},
};
use bytes::BytesMut;

/// The input is the payload of a method frame. A method that is read, written and read again is the same.
pub(crate) fn run(input: &[u8]) -> bool {
    let size = u32::try_from(input.len()).unwrap().to_be_bytes();
    let frame = [&[1, 0, 1], &size[..], input, &[0xCE]].concat();
    let Ok(Some(Incoming::Method(frame))) = FrameDecoder::default().next(&mut BytesMut::from(&frame[..]))
    else {
        return false;
    };
    let Ok((channel, method)) = parse_method(&frame) else { return false };
    assert_eq!(channel, 1);
    let Some(written) = write(&AMQPFrame::Method(channel, method)) else { return true };
    let (channel, method) = parse_method(&written).unwrap();
    // Not the methods: a number in a table may be none (NaN), which does not equal itself.
    assert_eq!(write(&AMQPFrame::Method(channel, method)).as_ref(), Some(&written));
    true
}

fn write(frame: &AMQPFrame) -> Option<Vec<u8>> {
    gen_frame::<Vec<u8>>(frame)(WriteContext::from(Vec::new())).ok().map(|written| written.into_inner().0)
}
