mod autobahn;

use std::future::poll_fn;

use flate2::{Compress, Compression, FlushCompress};

use proptest::prelude::*;
use tokio::{io::AsyncWriteExt, net::TcpListener};

use super::*;
use crate::outbox;

/// What a client sends.
#[derive(Clone, Debug)]
enum Sent {
    Text(String),
    /// A text in two frames, with a ping between them.
    Fragmented(String),
    Ping(Vec<u8>),
    /// A text with an overlong length field.
    Overlong(String),
    /// A compressed text.
    Compressed(String),
    /// A compressed text in two frames, with a ping between them.
    CompressedFragments(String),
}

fn sent() -> impl Strategy<Value = Sent> {
    let text = || prop_oneof!["[a-zé]{0,30}", "[a-z]{120,130}", "[a-z]{600,1200}", "[x]{65530,65540}"];
    prop_oneof![
        3 => text().prop_map(Sent::Text),
        1 => text().prop_map(Sent::Fragmented),
        1 => proptest::collection::vec(any::<u8>(), 0..=125).prop_map(Sent::Ping),
        1 => text().prop_map(Sent::Overlong),
        2 => text().prop_map(Sent::Compressed),
        1 => text().prop_map(Sent::CompressedFragments),
    ]
}

/// A message's payload as RFC 7692 says.
fn compressed(content: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(content.len() + 100);
    Compress::new(Compression::best(), false)
        .compress_vec(content, &mut payload, FlushCompress::Sync)
        .unwrap();
    payload.strip_suffix(&[0, 0, 0xff, 0xff]).unwrap().to_vec()
}

/// A client's frame, masked.
fn frame(first: u8, payload: &[u8], overlong: bool) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..=125 if !overlong => frame.push(0x80 | length as u8),
        length @ 0..=0xffff if !overlong => {
            frame.push(0x80 | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    let mask = [7, 1, 200, 3];
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

impl Sent {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Sent::Text(text) => frame(0x81, text.as_bytes(), false),
            Sent::Overlong(text) => frame(0x81, text.as_bytes(), true),
            Sent::Ping(payload) => frame(0x89, payload, false),
            Sent::Fragmented(text) => {
                let (one, other) = text.as_bytes().split_at(text.len() / 2);
                [frame(0x01, one, false), frame(0x89, b"", false), frame(0x80, other, false)].concat()
            }
            Sent::Compressed(text) => frame(0xc1, &compressed(text.as_bytes()), false),
            Sent::CompressedFragments(text) => {
                let payload = compressed(text.as_bytes());
                let (one, other) = payload.split_at(payload.len() / 2);
                [frame(0x41, one, false), frame(0x89, b"", false), frame(0x80, other, false)].concat()
            }
        }
    }

    fn messages(&self) -> Vec<Message> {
        match self {
            Sent::Text(text) | Sent::Overlong(text) | Sent::Compressed(text) => {
                vec![Message::text(text.clone())]
            }
            Sent::Ping(payload) => vec![Message::Ping(payload.clone().into())],
            Sent::Fragmented(text) | Sent::CompressedFragments(text) => {
                vec![Message::Ping(Bytes::new()), Message::text(text.clone())]
            }
        }
    }
}

/// A socket that starts with the bytes `early`, and the client's end of the connection.
async fn pair(early: &[u8]) -> (Socket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    client.set_nodelay(true).unwrap();
    let (tcp, _) = listener.accept().await.unwrap();
    let kept: Arc<outbox::tests::Kept> = Arc::default();
    let outbox = Outbox::new(1, 1 << 20, kept, Arc::default()).compressed(true);
    (Socket::new(Arc::new(tcp), Arc::new(outbox), Bytes::copy_from_slice(early), 1 << 20), client)
}

/// What the session gets of these bytes.
fn result_of(bytes: &[u8], is_compressed: bool, max: usize) -> Result<Message, Error> {
    runtime().block_on(async {
        let (mut socket, mut client) = pair(b"").await;
        if !is_compressed {
            let kept: Arc<outbox::tests::Kept> = Arc::default();
            socket.outbox = Arc::new(Outbox::new(1, 1 << 20, kept, Arc::default()));
        }
        socket.max_message_bytes = max;
        client.write_all(bytes).await.unwrap();
        poll(&mut socket).await
    })
}

#[test]
fn a_compressed_message_is_limited_by_what_it_becomes() {
    let bomb = frame(0xc1, &compressed(&vec![b'x'; 4 << 20]), false);
    assert!(bomb.len() < 8192);
    assert!(matches!(result_of(&bomb, true, 64 << 10), Err(Error::Capacity(_))));
    let text = "x".repeat(64 << 10);
    let message = frame(0xc1, &compressed(text.as_bytes()), false);
    assert_eq!(result_of(&message, true, 64 << 10).unwrap(), Message::text(text));
    assert!(matches!(result_of(&message, true, (64 << 10) - 1), Err(Error::Capacity(_))));
}

#[test]
fn a_binary_message_stays_one() {
    let message = frame(0xc2, &compressed(b"\xff\xfe"), false);
    assert_eq!(result_of(&message, true, 4096).unwrap(), Message::binary(&b"\xff\xfe"[..]));
}

#[test]
fn a_compressed_text_has_to_be_utf_8() {
    let message = frame(0xc1, &compressed(b"\xff\xfe"), false);
    assert!(matches!(result_of(&message, true, 4096), Err(Error::Utf8(_))));
}

#[test]
fn what_may_not_be_compressed_violates_the_protocol() {
    let message = frame(0xc1, &compressed(b"text"), false);
    let fragment = [frame(0x41, &compressed(b"text"), false), frame(0xc0, b"", false)].concat();
    let ping = frame(0xc9, b"", false);
    let other_bit = frame(0xe1, &compressed(b"text"), false);
    let malformed = frame(0xc1, b"\xff\xff\xff", false);
    let cases = [(&message, false), (&fragment, true), (&ping, true), (&other_bit, true), (&malformed, true)];
    for (bytes, is_compressed) in cases {
        let result = result_of(bytes, is_compressed, 4096);
        assert!(matches!(result, Err(Error::Protocol(_))), "{bytes:x?}: {result:?}");
    }
}

#[test]
fn what_a_message_becomes_counts_for_one_poll() {
    runtime().block_on(async {
        let (mut socket, mut client) = pair(b"").await;
        let message = frame(0xc1, &compressed(&[b'x'; MAX_POLL_BYTES]), false);
        client.write_all(&message.repeat(60)).await.unwrap();
        poll_fn(|context| socket.tcp.poll_read_ready(context)).await.unwrap();
        socket.begin_poll();
        let mut messages = 0;
        while poll_fn(|context| Poll::Ready(socket.poll_next(context).is_ready())).await {
            messages += 1;
        }
        // Those that one read brought.
        assert!((1..20).contains(&messages), "{messages}");
        for _ in messages..60 {
            assert!(next(&mut socket).await.is_text());
        }
    });
}

async fn next(socket: &mut Socket) -> Message {
    poll(socket).await.unwrap()
}

/// Polls as a session does.
async fn poll(socket: &mut Socket) -> Result<Message, Error> {
    poll_fn(|context| {
        socket.begin_poll();
        socket.poll_next(context)
    })
    .await
}

/// Whether no complete message has arrived.
async fn is_pending(socket: &mut Socket) -> bool {
    poll_fn(|context| Poll::Ready(socket.poll_next(context).is_pending())).await
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

proptest! {
    /// Every message arrives as it was sent, however TCP splits the bytes.
    #[test]
    fn no_message_is_lost_when_tungstenite_is_dropped(
        all in proptest::collection::vec(sent(), 1..12),
        cuts in proptest::collection::vec(1usize..3000, 1..20),
        early in 0usize..800,
    ) {
        let bytes: Vec<u8> = all.iter().flat_map(Sent::bytes).collect();
        let (early, mut rest) = bytes.split_at(early.min(bytes.len()));
        let expected: Vec<Message> = all.iter().flat_map(Sent::messages).collect();
        let got = runtime().block_on(async {
            let (mut socket, mut client) = pair(early).await;
            let write = async {
                for cut in cuts.iter().cycle() {
                    let (now, later) = rest.split_at((*cut).min(rest.len()));
                    client.write_all(now).await.unwrap();
                    rest = later;
                    if rest.is_empty() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            };
            let read = async {
                let mut got = Vec::new();
                while got.len() < expected.len() {
                    got.push(next(&mut socket).await);
                    socket.send(None).unwrap();
                }
                got
            };
            tokio::join!(write, read).1
        });
        prop_assert_eq!(got, expected);
    }
}

#[test]
fn tungstenite_exists_only_while_a_message_is_incomplete() {
    runtime().block_on(async {
        let (mut socket, mut client) = pair(b"").await;
        assert!(socket.tungstenite.is_none());
        assert!(is_pending(&mut socket).await);
        assert!(socket.tungstenite.is_none());

        let request = Sent::Text("x".repeat(700)).bytes();
        let (one, other) = request.split_at(300);
        client.write_all(one).await.unwrap();
        while socket.tungstenite.is_none() {
            assert!(is_pending(&mut socket).await);
            tokio::task::yield_now().await;
        }
        client.write_all(other).await.unwrap();
        assert_eq!(next(&mut socket).await, Message::text("x".repeat(700)));
        assert!(is_pending(&mut socket).await);
        assert!(socket.tungstenite.is_none());

        socket.send(Some(Message::text("reply"))).unwrap();
        assert!(is_pending(&mut socket).await);
        assert!(socket.tungstenite.is_none());
    });
}

/// A text message that begins and goes on with empty fragments only.
fn empty_fragments(count: usize) -> Vec<u8> {
    let mut bytes = frame(0x01, b"", false);
    bytes.extend(frame(0x00, b"", false).repeat(count));
    bytes
}

#[test]
fn one_poll_reads_a_bounded_number_of_bytes() {
    runtime().block_on(async {
        let (mut socket, mut client) = pair(b"").await;
        let bytes = empty_fragments(10_000);
        client.write_all(&bytes).await.unwrap();
        poll_fn(|context| socket.tcp.poll_read_ready(context)).await.unwrap();
        assert!(is_pending(&mut socket).await);
        let read = |socket: &Socket| socket.tungstenite.as_ref().unwrap().get_ref().bytes_read;
        assert_eq!(read(&socket), MAX_POLL_BYTES as u64);
        // The task woke itself: the rest is read without anything new from the client.
        client.write_all(&frame(0x80, b"end", false)).await.unwrap();
        assert_eq!(next(&mut socket).await, Message::text("end"));
    });
}

#[test]
fn a_message_in_too_many_fragments_ends_the_session() {
    runtime().block_on(async {
        let (mut socket, mut client) = pair(b"").await;
        socket.max_message_bytes = 4096;
        let bytes = empty_fragments(20_000);
        let flood = async move {
            // The edge stops reading before the end.
            let _ = client.write_all(&bytes).await;
            client
        };
        let (_client, error) = tokio::join!(flood, poll(&mut socket));
        assert!(matches!(error, Err(Error::AttackAttempt)), "{error:?}");
    });
}
