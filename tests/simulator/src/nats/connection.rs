//! A client's connection to a simulated server: real bytes of the NATS protocol.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use blackhole_common::net::{Dial, Socket};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use rand::RngExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Channel, Cluster, Command, Connection, ConnectionId, Message, Nats, Travelling};

/// Dials the simulated servers for one process.
#[derive(Debug)]
pub(crate) struct Dialer {
    pub(crate) nats: Arc<Nats>,
    pub(crate) owner: usize,
}

impl Dial for Dialer {
    fn dial<'d>(&'d self, host: &'d str, _port: u16) -> BoxFuture<'d, io::Result<Socket>> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_micros(500)).await;
            let server = host.strip_prefix('n').and_then(|number| number.parse().ok()).unwrap_or_default();
            let id = self.nats.change(|cluster| cluster.accept(server, self.owner));
            let id = id.ok_or(io::ErrorKind::ConnectionRefused)?;
            let stream = SimulatedStream { nats: Arc::clone(&self.nats), id };
            Ok(Socket::over(Box::pin(stream), SocketAddr::from((Ipv4Addr::LOCALHOST, 4222))))
        })
    }
}

impl Cluster {
    fn accept(&mut self, server: usize, owner: usize) -> Option<ConnectionId> {
        if !self.servers.get(server)?.is_up {
            return None;
        }
        self.last_connection += 1;
        let id = self.last_connection;
        let connection = Connection {
            server,
            owner,
            latency: Duration::from_micros(self.rng.random_range(50..3_000)),
            incoming: BytesMut::new(),
            outgoing: BytesMut::new(),
            is_open: true,
            is_stalled: false,
            reader: None,
            subscriptions: Default::default(),
        };
        self.connections.insert(id, connection);
        let cluster = if self.is_cluster() { ",\"cluster\":\"blackhole\"" } else { "" };
        let info = format!("INFO {{\"server_name\":\"n{server}\",\"max_payload\":1048576{cluster}}}\r\n");
        self.answer(id, info.as_bytes());
        Some(id)
    }

    /// Takes bytes of a client.
    fn incoming(&mut self, id: ConnectionId, bytes: &[u8]) -> io::Result<()> {
        let connection = self.connections.get_mut(&id).filter(|connection| connection.is_open);
        let connection = connection.ok_or(io::ErrorKind::BrokenPipe)?;
        connection.incoming.extend_from_slice(bytes);
        if !connection.is_stalled {
            self.parse(id);
        }
        Ok(())
    }

    /// Takes the commands out of what has come.
    pub(super) fn parse(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let latency = connection.latency;
        let mut commands = Vec::new();
        while let Some(command) = next(&mut connection.incoming) {
            commands.extend(command);
        }
        for command in commands {
            self.send(Channel::FromClient(id), latency, Travelling::Command(id, command));
        }
    }
}

/// The next command; the inner `None` is one that needs no answer.
fn next(bytes: &mut BytesMut) -> Option<Option<Command>> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let line = String::from_utf8_lossy(&bytes[..end]).trim_end().to_owned();
    let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
    let number =
        |index: usize| words.get(index).and_then(|word| word.parse::<u64>().ok()).unwrap_or_default();
    let command = match words.as_slice() {
        ["PING"] => Some(Command::Ping),
        ["SUB", subject, _] => Some(Command::Subscribe(number(2), (*subject).to_owned())),
        ["UNSUB", _] => Some(Command::Unsubscribe(number(1))),
        ["PUB" | "HPUB", subject, rest @ ..] => {
            let has_headers = words[0] == "HPUB";
            let sizes = if has_headers { 2 } else { 1 };
            let reply = if rest.len() > sizes { rest[0] } else { "" };
            let all = usize::try_from(number(words.len() - 1)).unwrap_or_default();
            let headers =
                if has_headers { usize::try_from(number(words.len() - 2)).unwrap_or_default() } else { 0 };
            if bytes.len() < end + 1 + all + 2 {
                return None;
            }
            let body = bytes.split_to(end + 1 + all + 2).freeze();
            return Some(Some(Command::Publish(Message {
                subject: (*subject).to_owned(),
                reply: reply.to_owned(),
                headers: body.slice(end + 1..end + 1 + headers),
                payload: body.slice(end + 1 + headers..end + 1 + all),
            })));
        }
        _ => None,
    };
    bytes.advance(end + 1);
    Some(command)
}

impl Default for Message {
    fn default() -> Self {
        Message { subject: String::new(), reply: String::new(), headers: Bytes::new(), payload: Bytes::new() }
    }
}

impl Message {
    /// As the server sends it for a subscription.
    pub(super) fn to_bytes(&self, subscription: u64) -> Vec<u8> {
        let Message { subject, reply, headers, payload } = self;
        let space = if reply.is_empty() { "" } else { " " };
        let all = headers.len() + payload.len();
        let mut bytes = if headers.is_empty() {
            format!("MSG {subject} {subscription}{space}{reply} {all}\r\n").into_bytes()
        } else {
            format!("HMSG {subject} {subscription}{space}{reply} {} {all}\r\n", headers.len()).into_bytes()
        };
        bytes.extend_from_slice(headers);
        bytes.extend_from_slice(payload);
        bytes.extend_from_slice(b"\r\n");
        bytes
    }
}

/// The client's end.
struct SimulatedStream {
    nats: Arc<Nats>,
    id: ConnectionId,
}

impl AsyncRead for SimulatedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut cluster = self.nats.cluster.lock();
        let Some(connection) = cluster.connections.get_mut(&self.id) else { return Poll::Ready(Ok(())) };
        if connection.is_stalled || (connection.outgoing.is_empty() && connection.is_open) {
            connection.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        // What was under way when the connection ended is lost.
        if !connection.is_open {
            return Poll::Ready(Ok(()));
        }
        let size = connection.outgoing.len().min(buffer.remaining());
        buffer.put_slice(&connection.outgoing.split_to(size));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for SimulatedStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(self.nats.change(|cluster| cluster.incoming(self.id, bytes)).map(|()| bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimulatedStream {
    fn drop(&mut self) {
        self.nats.cluster.lock().connections.remove(&self.id);
    }
}
