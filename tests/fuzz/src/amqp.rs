//! AMQP frames.

use std::iter::once;

use amqp_ingest::amqp::frame::{FrameDecoder, Incoming};

use crate::pieces::{pieces, read_all};

/// The first byte chooses the pieces that the rest arrives in. They make no difference.
pub(crate) fn run(input: &[u8]) -> bool {
    let Some((seed, input)) = input.split_first() else { return false };
    let (mut whole, mut split) = (FrameDecoder::default(), FrameDecoder::default());
    let items = read_all(once(input), |read| whole.next(read));
    assert_eq!(read_all(pieces(*seed, input), |read| split.next(read)), items);
    items.iter().any(|item| matches!(item, Ok(Incoming::Delivery(_))))
}
