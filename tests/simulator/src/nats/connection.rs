//! A client's connection to a simulated server: real bytes of the NATS protocol.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use blackhole_common::net::{Dial, Socket};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use rand::RngExt;

use super::{Channel, Cluster, Command, Connection, Message, Nats, Travelling};
use crate::pipe::{Accepts, ConnectionId, Pipe, Stream};

/// Dials the simulated servers for one process.
#[derive(Debug)]
pub(crate) struct Dialer {
    pub(crate) nats: Arc<Nats>,
    pub(crate) owner: usize,
    /// How many bytes the servers keep for it.
    pub(crate) max_pending: usize,
}

impl Dial for Dialer {
    fn dial<'d>(&'d self, host: &'d str, _port: u16) -> BoxFuture<'d, io::Result<Socket>> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_micros(500)).await;
            let server = host.strip_prefix('n').and_then(|number| number.parse().ok()).unwrap_or_default();
            let id = self.nats.change(|cluster| cluster.accept(server, self));
            let id = id.ok_or(io::ErrorKind::ConnectionRefused)?;
            let stream = Stream { servers: Arc::clone(&self.nats), id };
            Ok(Socket::over(Box::pin(stream), SocketAddr::from((Ipv4Addr::LOCALHOST, 4222))))
        })
    }
}

impl Accepts for Cluster {
    fn pipe(&mut self, id: ConnectionId) -> Option<&mut Pipe> {
        self.connections.get_mut(&id).map(|connection| &mut connection.pipe)
    }

    fn received(&mut self, id: ConnectionId) {
        self.parse(id);
    }

    fn forget(&mut self, id: ConnectionId) {
        self.connections.remove(&id);
    }
}

impl Cluster {
    fn accept(&mut self, server: usize, dialer: &Dialer) -> Option<ConnectionId> {
        if !self.servers.get(server)?.is_up {
            return None;
        }
        let mut pipe = Pipe::new();
        pipe.stall(self.servers.get(server)?.is_frozen);
        self.last_connection += 1;
        let id = self.last_connection;
        let connection = Connection {
            server,
            owner: dialer.owner,
            max_pending: dialer.max_pending,
            latency: Duration::from_micros(self.rng.random_range(50..3_000)),
            pipe,
            subscriptions: Default::default(),
        };
        self.connections.insert(id, connection);
        let cluster = if self.is_cluster() { ",\"cluster\":\"blackhole\"" } else { "" };
        let info = format!("INFO {{\"server_name\":\"n{server}\",\"max_payload\":1048576{cluster}}}\r\n");
        self.answer(id, info.as_bytes());
        Some(id)
    }

    /// Takes the commands out of what has come.
    pub(super) fn parse(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let latency = connection.latency;
        let mut commands = Vec::new();
        while let Some(command) = next(&mut connection.pipe.incoming) {
            commands.extend(command);
        }
        // What was sent before the end still arrives.
        let is_gone = connection.pipe.is_gone;
        for command in commands.into_iter().chain(is_gone.then_some(Command::End)) {
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
