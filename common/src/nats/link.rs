//! A connection to a NATS server that keeps the order: messages come in the order in which the server sent them, and go
//! in the order in which they were noted. It ends with its first failure; who uses it opens another.
//!
//! async-nats is right everywhere else. For an edge it has a channel of several KiB for each subscription, drops what
//! does not fit it, and keeps no order across them. For the ingest it reconnects by itself and then sends what still lay
//! in its buffers ahead of what was lost; and an event goes through a map of its headers, a channel and a task before it
//! is bytes.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind},
    time::Duration,
};

use async_nats::ServerAddr;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::BufMut;
use nkeys::KeyPair;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use super::protocol::{self, Op, SubscriptionId};
use crate::{
    config::NatsConfig,
    nats,
    net::{Socket, invalid},
};

/// A server that is there has let us in within this.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// More than the verb, the sizes, spaces and line ends of a message have.
const MOST_LINE_REST_BYTES: usize = 40;

/// A connection that was let in.
pub struct Link {
    socket: Socket,
    max_payload_bytes: usize,
    is_clustered: bool,
}

/// What a server tells of itself, as far as it matters.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Info {
    tls_required: bool,
    nonce: Option<String>,
    connect_urls: Vec<String>,
    max_payload: usize,
    cluster: Option<String>,
    ldm: bool,
}

/// The servers that may be connected to, the next one first.
#[derive(Debug)]
pub struct Servers {
    config: NatsConfig,
    configured: Vec<ServerAddr>,
    next: VecDeque<ServerAddr>,
}

impl Servers {
    /// Those of the configuration.
    pub fn new(config: NatsConfig) -> Servers {
        let configured = nats::servers(&config);
        Servers { config, next: configured.iter().cloned().collect(), configured }
    }

    /// Connects to the next server that lets us in, trying each once.
    ///
    /// # Errors
    /// The last one's reason.
    pub async fn connect(&mut self, name: &str) -> io::Result<Link> {
        let mut result = Err(io::Error::new(ErrorKind::NotConnected, "nats.url names no server"));
        for _ in 0..self.next.len() {
            let Some(server) = self.next.pop_front() else { break };
            result = match timeout(CONNECT_WITHIN, Link::open(&self.config, &server, name)).await {
                Ok(Ok((link, info))) => {
                    self.next.push_back(server);
                    self.learn(&info);
                    return Ok(link);
                }
                Ok(Err(error)) => Err(error),
                Err(_) => Err(io::Error::new(ErrorKind::TimedOut, "the server does not answer")),
            };
            self.next.push_back(server);
        }
        result
    }

    /// Servers of a cluster tell of each other; they are tried beside those of the configuration.
    fn learn(&mut self, info: &Info) {
        let scheme = if self.configured.iter().any(ServerAddr::tls_required) { "tls" } else { "nats" };
        for address in &info.connect_urls {
            let Ok(server) = format!("{scheme}://{address}").parse::<ServerAddr>() else { continue };
            let known = |other: &ServerAddr| other.host() == server.host() && other.port() == server.port();
            if !self.next.iter().any(known) {
                self.next.push_back(server);
            }
        }
    }
}

impl Link {
    async fn open(config: &NatsConfig, server: &ServerAddr, name: &str) -> io::Result<(Link, Info)> {
        let socket = Socket::connect(server.host(), server.port()).await?;
        let mut link = Link { socket, max_payload_bytes: 0, is_clustered: false };
        let info = loop {
            match link.wait_for_op().await? {
                Op::Info(json) => break serde_json::from_slice::<Info>(&json).map_err(invalid)?,
                Op::Error(error) => return Err(refused(error)),
                _ => {}
            }
        };
        if info.tls_required || server.tls_required() {
            link.socket.encrypt(server.host()).await?;
        }
        link.max_payload_bytes = info.max_payload;
        link.is_clustered = info.cluster.is_some();
        let hello = hello(config, &info, name).await?;
        link.socket.to_send.put_slice(b"CONNECT ");
        link.socket.to_send.put_slice(hello.to_string().as_bytes());
        link.socket.to_send.put_slice(b"\r\nPING\r\n");
        link.flush().await?;
        loop {
            match link.wait_for_op().await? {
                Op::Pong => return Ok((link, info)),
                Op::Error(error) => return Err(refused(error)),
                _ => {}
            }
        }
    }

    async fn wait_for_op(&mut self) -> io::Result<Op> {
        loop {
            if let Some(op) = self.next_op()? {
                return Ok(op);
            }
            self.fill().await?;
        }
    }

    /// The next operation of what was read, if it is all there. Pings are answered with the next flush.
    ///
    /// # Errors
    /// When the server does not speak NATS, refuses us, or is about to stop.
    pub fn next_op(&mut self) -> io::Result<Option<Op>> {
        let op = protocol::next(&mut self.socket.read).map_err(invalid)?;
        if op == Some(Op::Ping) {
            self.socket.to_send.put_slice(b"PONG\r\n");
        }
        Ok(op)
    }

    /// Whether a server's word about itself means that it is stopping in order.
    pub fn is_lame_duck(info: &[u8]) -> bool {
        serde_json::from_slice::<Info>(info).is_ok_and(|info| info.ldm)
    }

    /// [`Socket::fill`].
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn fill(&mut self) -> io::Result<()> {
        self.socket.fill().await
    }

    /// Notes a subscription for the next flush.
    pub fn subscribe(&mut self, number: SubscriptionId, subject: &str) {
        self.put(format_args!("SUB {subject} {number}\r\n"));
    }

    /// Notes the end of a subscription.
    pub fn unsubscribe(&mut self, number: SubscriptionId) {
        self.put(format_args!("UNSUB {number}\r\n"));
    }

    /// Notes a message; an answer, if there is one, comes for the subject `reply`. `headers` is a [`HeaderBlock`], or
    /// empty.
    ///
    /// [`HeaderBlock`]: super::protocol::HeaderBlock
    pub fn publish(&mut self, subject: &str, reply: &str, headers: &[u8], payload: &[u8]) {
        let (verb, all) = (if headers.is_empty() { "PUB" } else { "HPUB" }, headers.len() + payload.len());
        self.socket.to_send.reserve(subject.len() + reply.len() + all + MOST_LINE_REST_BYTES);
        self.put(format_args!("{verb} {subject} {reply} "));
        if !headers.is_empty() {
            self.put(format_args!("{} ", headers.len()));
        }
        self.put(format_args!("{all}\r\n"));
        self.socket.to_send.put_slice(headers);
        self.socket.to_send.put_slice(payload);
        self.socket.to_send.put_slice(b"\r\n");
    }

    /// What headers and payload of a message may have together: the server's `max_payload`.
    pub fn max_payload_bytes(&self) -> usize {
        self.max_payload_bytes
    }

    /// Whether the server is one of a cluster.
    pub fn is_clustered(&self) -> bool {
        self.is_clustered
    }

    /// [`Socket::is_full`].
    pub fn is_full(&self) -> bool {
        self.socket.is_full()
    }

    /// Notes a ping.
    pub fn ping(&mut self) {
        self.socket.to_send.put_slice(b"PING\r\n");
    }

    fn put(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to memory cannot fail.
        let _ = std::fmt::Write::write_fmt(&mut self.socket.to_send, line);
    }

    /// [`Socket::flush`].
    ///
    /// # Errors
    /// When the connection has ended, or takes nothing.
    pub async fn flush(&mut self) -> io::Result<()> {
        self.socket.flush().await
    }
}

/// What we tell of ourselves, with what the server wants to let us in.
async fn hello(config: &NatsConfig, info: &Info, name: &str) -> io::Result<Value> {
    let hello = json!({
        "name": name,
        "lang": "rust",
        "version": env!("CARGO_PKG_VERSION"),
        "protocol": 1,
        "verbose": false,
        "pedantic": false,
        "headers": true,
        "no_responders": true,
    });
    let mut hello = match hello {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    // One pair for all servers, as everywhere in the services.
    if let Some(server) = nats::servers(config).into_iter().find(ServerAddr::has_user_pass) {
        hello.insert("user".into(), server.username().unwrap_or_default().into());
        hello.insert("pass".into(), server.password().unwrap_or_default().into());
    }
    if let Some(file) = &config.credentials {
        let text = tokio::fs::read_to_string(file).await?;
        let bad = || invalid(format!("nats.credentials = {}: not a credentials file", file.display()));
        let (jwt, seed) = (section(&text, "USER JWT"), section(&text, "USER NKEY SEED"));
        let (jwt, seed) = (jwt.ok_or_else(bad)?, seed.ok_or_else(bad)?);
        let key = KeyPair::from_seed(seed).map_err(|_| bad())?;
        let nonce = info.nonce.as_deref().unwrap_or_default();
        let signature = key.sign(nonce.as_bytes()).map_err(|_| bad())?;
        hello.insert("jwt".into(), jwt.into());
        hello.insert("sig".into(), URL_SAFE_NO_PAD.encode(signature).into());
    }
    Ok(Value::Object(hello))
}

/// What stands between the lines `-----BEGIN NATS <title>-----` and `------END …` (the first has no `NATS` for the
/// seed).
fn section<'t>(text: &'t str, title: &str) -> Option<&'t str> {
    let mut lines = text.lines().skip_while(|line| !(line.contains("BEGIN") && line.contains(title)));
    lines.nth(1).map(str::trim).filter(|line| !line.is_empty())
}

fn refused(error: String) -> io::Error {
    io::Error::new(ErrorKind::PermissionDenied, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_have_two_sections() {
        let text = "-----BEGIN NATS USER JWT-----\neyJ0\n------END NATS USER JWT------\n\nSecret!\n\
                    -----BEGIN USER NKEY SEED-----\nSUAB\n------END USER NKEY SEED------\n";
        assert_eq!(section(text, "USER JWT"), Some("eyJ0"));
        assert_eq!(section(text, "USER NKEY SEED"), Some("SUAB"));
        assert_eq!(section("nothing", "USER JWT"), None);
    }

    #[test]
    fn servers_of_a_cluster_are_learned_once() {
        let mut servers = Servers::new(NatsConfig::default());
        let info =
            Info { connect_urls: vec!["127.0.0.1:4222".into(), "10.0.0.2:4222".into()], ..Info::default() };
        servers.learn(&info);
        servers.learn(&info);
        assert_eq!(servers.next.iter().map(ServerAddr::host).collect::<Vec<_>>(), ["127.0.0.1", "10.0.0.2"]);
    }
}
