use lapin::{
    BasicProperties,
    protocol::{
        AMQPClass,
        basic::{AMQPMethod, Deliver},
        constants::FRAME_HEARTBEAT,
    },
    types::{AMQPValue, FieldTable},
};
use proptest::prelude::*;

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, WriteContext, gen_frame};

use super::*;

/// Frames as the library writes them.
fn written(frames: &[AMQPFrame]) -> Vec<u8> {
    let write = |frame| gen_frame::<Vec<u8>>(frame)(WriteContext::from(Vec::new())).unwrap().into_inner().0;
    frames.iter().flat_map(write).collect()
}

/// A delivery whose body comes in pieces of `piece` bytes.
fn delivered(tag: u64, key: &str, properties: BasicProperties, body: &[u8], piece: usize) -> Vec<u8> {
    let deliver = Deliver {
        consumer_tag: "amqp-ingest".into(),
        delivery_tag: tag,
        redelivered: tag.is_multiple_of(2),
        exchange: "callevt".into(),
        routing_key: key.into(),
    };
    let header = AMQPContentHeader { class_id: 60, body_size: body.len() as u64, properties };
    let mut frames = vec![
        AMQPFrame::Method(1, AMQPClass::Basic(AMQPMethod::Deliver(deliver))),
        AMQPFrame::Header(1, header),
    ];
    frames.extend(body.chunks(piece).map(|piece| AMQPFrame::Body(1, piece.to_vec())));
    written(&frames)
}

fn all(bytes: &[u8]) -> Vec<Op> {
    let (mut reader, mut read) = (Reader::default(), BytesMut::from(bytes));
    let ops = std::iter::from_fn(|| reader.next(&mut read).unwrap()).collect();
    assert!(read.is_empty(), "{read:?} is left");
    ops
}

#[test]
fn a_delivery_is_read_with_whatever_properties_it_has() {
    let mut headers = FieldTable::default();
    headers.insert("x-death".into(), AMQPValue::LongString("once".into()));
    let many = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_content_encoding("utf-8".into())
        .with_headers(headers)
        .with_delivery_mode(1)
        .with_priority(3)
        .with_correlation_id("c".into())
        .with_reply_to("r".into())
        .with_expiration("1000".into())
        .with_message_id("m-1".into())
        .with_timestamp(1_700_000_000)
        .with_type("t".into())
        .with_app_id("ecallmgr".into());
    let expected = Delivery {
        tag: 7,
        redelivered: false,
        exchange: Bytes::from_static(b"callevt"),
        key: Bytes::from_static(b"call.X.1"),
        message_id: Some(Bytes::from_static(b"m-1")),
        timestamp: Some(1_700_000_000),
        body: Some(Bytes::from_static(b"{}")),
    };
    assert_eq!(all(&delivered(7, "call.X.1", many, b"{}", 100)), [Op::Delivery(expected.clone())]);
    let few = delivered(8, "call.X.1", BasicProperties::default(), b"", 100);
    let expected = Delivery {
        tag: 8,
        redelivered: true,
        message_id: None,
        timestamp: None,
        body: Some(Bytes::new()),
        ..expected
    };
    assert_eq!(all(&few), [Op::Delivery(expected)]);
}

#[test]
fn other_frames_are_told_apart() {
    let ops = all(&written(&[
        AMQPFrame::Heartbeat,
        AMQPFrame::Method(1, AMQPClass::Basic(AMQPMethod::QosOk(Default::default()))),
    ]));
    assert!(matches!(ops.as_slice(), [Op::Heartbeat, Op::Method(_)]), "{ops:?}");
}

#[test]
fn a_body_larger_than_nats_takes_is_not_kept() {
    let mut frames = delivered(1, "k", BasicProperties::default(), b"", 1);
    // The size of the body stands 12 bytes before the end: behind it the flags and the end mark.
    let at = frames.len() - 11;
    frames[at..at + 8].copy_from_slice(&(MOST_BODY_BYTES + 1).to_be_bytes());
    let piece = vec![b'x'; 64 << 10];
    let mut read = BytesMut::from(frames.as_slice());
    let mut reader = Reader::default();
    assert_eq!(reader.next(&mut read), Ok(None));
    let mut left = MOST_BODY_BYTES as usize + 1;
    let op = loop {
        let size = piece.len().min(left);
        left -= size;
        read.extend_from_slice(&written(&[AMQPFrame::Body(1, piece[..size].to_vec())]));
        if let Some(op) = reader.next(&mut read).unwrap() {
            break op;
        }
        assert!(reader.parts.is_empty());
    };
    assert!(matches!(op, Op::Delivery(Delivery { body: None, .. })), "{op:?}");
}

#[test]
fn what_is_no_amqp_is_an_error_and_never_waits_for_ever() {
    let body = |bytes: &[u8]| written(&[AMQPFrame::Body(1, bytes.to_vec())]);
    let cut = |mut frame: Vec<u8>| {
        // The payload loses its last byte, and says so.
        frame.remove(frame.len() - 2);
        frame[6] -= 1;
        frame
    };
    let deliver = delivered(1, "k", BasicProperties::default(), b"", 1);
    let first_end = deliver.iter().position(|byte| *byte == FRAME_END).unwrap() + 1;
    for bytes in [
        b"HTTP/1.1 400 Bad Request".to_vec(),
        body(b"x"),
        [deliver.clone(), body(b"x")].concat(),
        cut(deliver[..first_end].to_vec()),
        [&deliver[..first_end], &cut(deliver[first_end..].to_vec())].concat(),
        vec![FRAME_HEARTBEAT, 0, 0, 0, 0, 0, 0, 0],
    ] {
        let (mut reader, mut read) = (Reader::default(), BytesMut::from(bytes.as_slice()));
        let result = std::iter::repeat_with(|| reader.next(&mut read))
            .find(|result| !matches!(result, Ok(Some(_))))
            .unwrap();
        assert!(result.is_err(), "{bytes:?}");
    }
}

proptest! {
    #[test]
    fn pieces_give_what_the_whole_gives(
        bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6),
        piece in 1..30usize,
        cuts in prop::collection::vec(1..50usize, 1..20),
    ) {
        let bytes: Vec<u8> = bodies
            .iter()
            .enumerate()
            .flat_map(|(tag, body)| delivered(tag as u64, "k", BasicProperties::default(), body, piece))
            .collect();
        let (mut reader, mut read, mut got) = (Reader::default(), BytesMut::new(), Vec::new());
        let (mut rest, mut cuts) = (bytes.as_slice(), cuts.into_iter().cycle());
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(cuts.next().unwrap().min(rest.len()));
            read.extend_from_slice(piece);
            rest = later;
            while let Some(op) = reader.next(&mut read).unwrap() {
                let Op::Delivery(delivery) = op else { panic!("{op:?}") };
                prop_assert_eq!(delivery.tag, got.len() as u64);
                got.push(delivery.body.unwrap().to_vec());
            }
        }
        prop_assert_eq!(got, bodies);
    }

    #[test]
    fn nothing_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let (mut reader, mut read) = (Reader::default(), BytesMut::from(bytes.as_slice()));
        while let Ok(Some(_)) = reader.next(&mut read) {}
    }
}
