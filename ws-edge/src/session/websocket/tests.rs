mod autobahn;

use std::future::poll_fn;

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
}

fn sent() -> impl Strategy<Value = Sent> {
    let text = || prop_oneof!["[a-zé]{0,30}", "[a-z]{120,130}", "[a-z]{600,1200}", "[x]{65530,65540}"];
    prop_oneof![
        3 => text().prop_map(Sent::Text),
        1 => text().prop_map(Sent::Fragmented),
        1 => proptest::collection::vec(any::<u8>(), 0..=125).prop_map(Sent::Ping),
        1 => text().prop_map(Sent::Overlong),
    ]
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
        }
    }

    fn messages(&self) -> Vec<Message> {
        match self {
            Sent::Text(text) | Sent::Overlong(text) => vec![Message::text(text.clone())],
            Sent::Ping(payload) => vec![Message::Ping(payload.clone().into())],
            Sent::Fragmented(text) => vec![Message::Ping(Bytes::new()), Message::text(text.clone())],
        }
    }
}

/// A socket that starts with the bytes `early`, and the client's end of the connection.
async fn pair(early: &[u8]) -> (Socket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    client.set_nodelay(true).unwrap();
    let (tcp, _) = listener.accept().await.unwrap();
    let (outbox, _) = outbox::tests::outbox(1, 1 << 20);
    (Socket::new(Arc::new(tcp), outbox, Bytes::copy_from_slice(early), 1 << 20), client)
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
