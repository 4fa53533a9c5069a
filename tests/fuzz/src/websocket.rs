//! WebSocket frames.

use std::{
    future::poll_fn,
    io::{Cursor, Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::Arc,
};

use bytes::Bytes;
use tokio::{net::TcpStream, runtime::Runtime};
use tungstenite::{
    Message, WebSocket,
    protocol::{Role, WebSocketConfig},
};
use ws_edge::{outbox::Outbox, session::websocket::Socket};

use crate::pieces::pieces;

const MAX_MESSAGE_BYTES: usize = 4096;

thread_local! {
    static RUNTIME: Runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
}

/// The first byte chooses the pieces that the rest arrives in, the second how much has come with the upgrade request. The
/// session's socket, which drops tungstenite between messages, reads what tungstenite alone reads.
pub(crate) fn run(input: &[u8]) -> bool {
    let [seed, early, input @ ..] = input else { return false };
    let expected = alone(input);
    let (early, late) = input.split_at(usize::from(*early).min(input.len()));
    let got = RUNTIME.with(|runtime| runtime.block_on(in_pieces(*seed, early, late, false)));
    assert_eq!(got, expected);
    expected.iter().any(|message| message.is_text() || message.is_binary())
}

/// The same for a client that may compress: the socket reads the same however the bytes come, what tungstenite alone reads
/// until there is a compressed message, and never more than the limit.
pub(crate) fn run_compressed(input: &[u8]) -> bool {
    let [seed, early, input @ ..] = input else { return false };
    let (early, late) = input.split_at(usize::from(*early).min(input.len()));
    let [got, at_once] = [(*seed, early, late), (0, input, &[])].map(|(seed, early, late)| {
        RUNTIME.with(|runtime| runtime.block_on(in_pieces(seed, early, late, true)))
    });
    assert_eq!(got, at_once);
    assert!(got.iter().all(|message| message.len() <= MAX_MESSAGE_BYTES));
    let plain = alone(input);
    assert!(got.starts_with(&plain));
    got.len() > plain.len()
}

/// The messages up to the end, or to the first mistake.
fn alone(input: &[u8]) -> Vec<Message> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES));
    let mut socket = WebSocket::from_raw_socket(Input(Cursor::new(input)), Role::Server, Some(config));
    std::iter::from_fn(|| socket.read().ok()).collect()
}

/// A Unix socket pair stands for the connection: that many TCP connections would use up the ports.
async fn in_pieces(seed: u8, early: &[u8], late: &[u8], is_compressed: bool) -> Vec<Message> {
    let (edge, mut client) = UnixStream::pair().unwrap();
    edge.set_nonblocking(true).unwrap();
    let tcp = Arc::new(TcpStream::from_std(OwnedFd::from(edge).into()).unwrap());
    let outbox = Outbox::new(1, 1 << 20, Arc::clone(&tcp) as _, Default::default()).compressed(is_compressed);
    let early = Bytes::copy_from_slice(early);
    let mut socket = Socket::new(tcp, Arc::new(outbox), early, MAX_MESSAGE_BYTES);
    let mut late = pieces(seed, late);
    let mut client = Some(&mut client);
    let mut messages = Vec::new();
    loop {
        let next = poll_fn(|context| {
            socket.begin_poll();
            let next = socket.poll_next(context);
            if next.is_pending() {
                // All that was sent is read.
                match (late.next(), &mut client) {
                    (Some(piece), Some(client)) => client.write_all(piece).unwrap(),
                    (_, client) => {
                        if let Some(client) = client.take() {
                            client.shutdown(std::net::Shutdown::Write).unwrap();
                        }
                    }
                }
            }
            next
        });
        match next.await {
            Ok(message) => messages.push(message),
            Err(_) => return messages,
        }
    }
}

/// Bytes to read; what is written is lost.
struct Input<'i>(Cursor<&'i [u8]>);

impl Read for Input<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Input<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
