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
use crate::amqp::connection::parse_method;

/// Encodes frames with amq-protocol.
fn encode(frames: &[AMQPFrame]) -> Vec<u8> {
    let write = |frame| gen_frame::<Vec<u8>>(frame)(WriteContext::from(Vec::new())).unwrap().into_inner().0;
    frames.iter().flat_map(write).collect()
}

/// Encodes a delivery with body frames of `frame_bytes`.
fn encode_delivery(
    tag: u64,
    key: &str,
    properties: BasicProperties,
    body: &[u8],
    frame_bytes: usize,
) -> Vec<u8> {
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
    frames.extend(body.chunks(frame_bytes).map(|part| AMQPFrame::Body(1, part.to_vec())));
    encode(&frames)
}

/// Decodes up to the first error or incomplete item.
fn decode(bytes: &[u8]) -> (Vec<Incoming>, Result<(), ProtocolError>) {
    let (mut decoder, mut read) = (FrameDecoder::default(), BytesMut::from(bytes));
    let mut items = Vec::new();
    loop {
        match decoder.next(&mut read) {
            Ok(Some(item)) => items.push(item),
            Ok(None) => return (items, Ok(())),
            Err(error) => return (items, Err(error)),
        }
    }
}

#[test]
fn a_delivery_is_decoded_with_any_properties() {
    let mut headers = FieldTable::default();
    headers.insert("x-death".into(), AMQPValue::LongString("once".into()));
    let all = BasicProperties::default()
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
        routing_key: Bytes::from_static(b"call.X.1"),
        message_id: Some(Bytes::from_static(b"m-1")),
        timestamp: Some(1_700_000_000),
        body: Some(Bytes::from_static(b"{}")),
    };
    let bytes = encode_delivery(7, "call.X.1", all, b"{}", 100);
    assert_eq!(decode(&bytes), (vec![Incoming::Delivery(expected.clone())], Ok(())));
    let bytes = encode_delivery(8, "call.X.1", BasicProperties::default(), b"", 100);
    let expected = Delivery {
        tag: 8,
        redelivered: true,
        message_id: None,
        timestamp: None,
        body: Some(Bytes::new()),
        ..expected
    };
    assert_eq!(decode(&bytes), (vec![Incoming::Delivery(expected)], Ok(())));
}

#[test]
fn heartbeats_and_other_methods_are_recognized() {
    let method = encode(&[AMQPFrame::Method(1, AMQPClass::Basic(AMQPMethod::QosOk(Default::default())))]);
    let bytes = [encode(&[AMQPFrame::Heartbeat]), method.clone()].concat();
    assert_eq!(decode(&bytes), (vec![Incoming::Heartbeat, Incoming::Method(method.into())], Ok(())));
}

#[test]
fn an_oversized_body_is_skipped() {
    let mut header = encode_delivery(1, "k", BasicProperties::default(), b"", 1);
    // The frame ends with the body size (8 bytes), the property flags (2) and the end octet (1).
    let size_at = header.len() - 11;
    header[size_at..size_at + 8].copy_from_slice(&(MAX_BODY_BYTES + 1).to_be_bytes());
    let mut read = BytesMut::from(header.as_slice());
    let mut decoder = FrameDecoder::default();
    assert_eq!(decoder.next(&mut read), Ok(None));
    let part_bytes = 64 << 10;
    let part = encode(&[AMQPFrame::Body(1, vec![b'x'; part_bytes])]);
    for _ in 0..MAX_BODY_BYTES as usize / part_bytes {
        read.extend_from_slice(&part);
        assert_eq!(decoder.next(&mut read), Ok(None));
        assert!(decoder.partial_body.is_empty());
    }
    read.extend_from_slice(&encode(&[AMQPFrame::Body(1, vec![b'x'])]));
    let item = decoder.next(&mut read).unwrap();
    assert!(matches!(item, Some(Incoming::Delivery(Delivery { tag: 1, body: None, .. }))), "{item:?}");
}

#[test]
fn a_delivery_whose_properties_exceed_a_frame_has_no_body_and_does_not_affect_the_next() {
    let mut headers = FieldTable::default();
    headers.insert("x".into(), AMQPValue::LongString("h".repeat(200_000).into()));
    let large = |tag, body: &[u8]| {
        let properties = BasicProperties::default().with_headers(headers.clone());
        encode_delivery(tag, "k", properties, body, 3)
    };
    let next = encode_delivery(4, "k", BasicProperties::default(), b"next", 4);
    let bytes = [large(2, b"lost body"), large(3, b""), next].concat();
    for cut in [7, 15, 19, 1000, bytes.len()] {
        let (mut decoder, mut read, mut got) = (FrameDecoder::default(), BytesMut::new(), Vec::new());
        for part in bytes.chunks(cut) {
            read.extend_from_slice(part);
            while let Some(item) = decoder.next(&mut read).unwrap() {
                let Incoming::Delivery(delivery) = item else { panic!("{item:?}") };
                got.push((delivery.tag, delivery.body));
            }
            assert!(read.len() < 200_000, "the properties are not kept");
        }
        assert_eq!(got, [(2, None), (3, None), (4, Some(Bytes::from_static(b"next")))], "{cut}");
    }
}

#[test]
fn invalid_input_is_an_error() {
    let body = |bytes: &[u8]| encode(&[AMQPFrame::Body(1, bytes.to_vec())]);
    let cut = |mut frame: Vec<u8>| {
        // Drops the last byte of the payload and adjusts the size.
        frame.remove(frame.len() - 2);
        frame[6] -= 1;
        frame
    };
    let empty = encode_delivery(1, "k", BasicProperties::default(), b"", 1);
    let (method, header) = empty.split_at(empty.iter().position(|byte| *byte == FRAME_END).unwrap() + 1);
    for (bytes, decoded, expected) in [
        (b"HTTP/1.1 400 Bad Request".to_vec(), 0, "frame too large"),
        (body(b"x"), 0, "unexpected body frame"),
        ([empty.clone(), body(b"x")].concat(), 1, "unexpected body frame"),
        (cut(method.to_vec()), 0, "malformed basic.deliver"),
        ([method, &cut(header.to_vec())].concat(), 0, "malformed content header"),
        (vec![FRAME_HEARTBEAT, 0, 0, 0, 0, 0, 0, 0], 0, "missing frame end"),
        (vec![9, 0, 0, 0, 0, 0, 0, FRAME_END], 0, "unknown frame type"),
    ] {
        let (items, result) = decode(&bytes);
        assert_eq!((items.len(), result), (decoded, Err(ProtocolError(expected))), "{bytes:?}");
    }
}

/// Deliveries with these bodies, and the expected result.
fn deliveries(bodies: &[Vec<u8>], frame_bytes: usize) -> (Vec<u8>, Vec<Incoming>) {
    let encode = |(tag, body): (usize, &Vec<u8>)| {
        encode_delivery(tag as u64, "k", BasicProperties::default(), body, frame_bytes)
    };
    let expected = |(tag, body): (usize, &Vec<u8>)| {
        Incoming::Delivery(Delivery {
            tag: tag as u64,
            redelivered: tag.is_multiple_of(2),
            exchange: Bytes::from_static(b"callevt"),
            routing_key: Bytes::from_static(b"k"),
            message_id: None,
            timestamp: None,
            body: Some(Bytes::copy_from_slice(body)),
        })
    };
    (bodies.iter().enumerate().flat_map(encode).collect(), bodies.iter().enumerate().map(expected).collect())
}

fn bodies() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6)
}

proptest! {
    #[test]
    fn deliveries_are_decoded_however_the_input_is_split(
        bodies in bodies(),
        frame_bytes in 1..30usize,
        cuts in prop::collection::vec(1..50usize, 1..20),
    ) {
        let (bytes, expected) = deliveries(&bodies, frame_bytes);
        let (mut decoder, mut read, mut decoded) = (FrameDecoder::default(), BytesMut::new(), Vec::new());
        let (mut rest, mut cuts) = (bytes.as_slice(), cuts.into_iter().cycle());
        while !rest.is_empty() {
            let (part, later) = rest.split_at(cuts.next().unwrap().min(rest.len()));
            read.extend_from_slice(part);
            rest = later;
            while let Some(item) = decoder.next(&mut read).unwrap() {
                decoded.push(item);
            }
        }
        prop_assert_eq!(decoded, expected);
        prop_assert!(read.is_empty(), "{read:?} is left");
    }

    #[test]
    fn truncated_input_yields_a_prefix_and_no_error(
        bodies in bodies(), frame_bytes in 1..30usize, end in any::<prop::sample::Index>()
    ) {
        let (bytes, expected) = deliveries(&bodies, frame_bytes);
        let (items, result) = decode(&bytes[..end.index(bytes.len())]);
        prop_assert_eq!(result, Ok(()));
        prop_assert!(items.len() < expected.len());
        prop_assert_eq!(&items, &expected[..items.len()]);
    }

    #[test]
    fn a_corrupted_byte_neither_panics_nor_affects_earlier_deliveries(
        bodies in bodies(), frame_bytes in 1..30usize, at in any::<prop::sample::Index>(), flip in 1..=255u8
    ) {
        let (mut bytes, expected) = deliveries(&bodies, frame_bytes);
        let at = at.index(bytes.len());
        let (before, _) = decode(&bytes[..at]);
        bytes[at] ^= flip;
        let (items, _) = decode(&bytes);
        prop_assert!(expected.starts_with(&before));
        prop_assert!(items.starts_with(&before));
    }
}

/// Parsing more of them would take the whole stack.
#[test]
fn a_method_with_thousands_of_nested_tables_is_refused() {
    let nested = |levels: usize| {
        // A list in a list, each with its length.
        let mut list = Vec::new();
        for _ in 0..levels {
            let bytes = u32::try_from(list.len()).unwrap().to_be_bytes();
            list = [&b"A"[..], &bytes, &list].concat();
        }
        let table = [&b"\x01a"[..], &list].concat();
        let bytes = u32::try_from(table.len()).unwrap().to_be_bytes();
        let start = [&b"\0\x0a\0\x0a\0\x09"[..], &bytes, &table, &[0; 8]].concat();
        let size = u32::try_from(start.len()).unwrap().to_be_bytes();
        [&b"\x01\0\0"[..], &size, &start, &b"\xce"[..]].concat()
    };
    let (items, result) = decode(&nested(20_000));
    assert_eq!((items.len(), result), (0, Err(ProtocolError("method too large"))));
    let (items, result) = decode(&nested(100));
    let [Incoming::Method(frame)] = items.as_slice() else { panic!("{items:?} {result:?}") };
    assert!(parse_method(frame).is_ok());
}
