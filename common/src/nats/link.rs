//! A connection to a NATS server that preserves order: it delivers messages in the order in which the server
//! sent them, and sends them in the order in which they were queued. It ends with its first error; the caller
//! then opens another.
//!
//! Use async-nats everywhere else. It does not fit events: for an edge it allocates several KiB of channel
//! per subscription, drops messages if the channel is full, and does not preserve order across subscriptions.
//! For the ingest it reconnects by itself and then sends what is left in its buffers before the messages that
//! were lost; and each event passes through a header map, a channel and a task before it is serialized.

use std::{
    io::{self, ErrorKind},
    sync::Arc,
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
    net::{Dial, Identity, Socket, Tcp, invalid},
};

/// Limit for authenticating to one server. Connecting has its own limits ([`Socket::connect`]).
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a preferred server is looked for while another one has accepted.
const PREFERENCE_TIMEOUT: Duration = Duration::from_secs(1);
/// Upper bound for the verb, sizes, spaces and line ends of a message.
const MAX_LINE_OVERHEAD_BYTES: usize = 40;

/// An authenticated connection.
pub struct Link {
    socket: Socket,
    max_payload_bytes: usize,
    is_clustered: bool,
    server_name: String,
}

/// The members of a server's `INFO` that matter here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Info {
    tls_required: bool,
    server_name: String,
    nonce: Option<String>,
    connect_urls: Vec<String>,
    max_payload: usize,
    cluster: Option<String>,
    ldm: bool,
}

/// The known servers: the configured ones, and those that the last one announced.
#[derive(Debug)]
pub struct Servers {
    config: NatsConfig,
    dialer: Arc<dyn Dial>,
    /// In the order in which they are tried. The one that was tried last is at the end.
    configured: Vec<ServerAddr>,
    /// The other servers of the cluster, tried after the configured ones.
    announced: Vec<ServerAddr>,
}

impl Servers {
    /// The configured servers, over TCP.
    pub fn new(config: NatsConfig) -> Servers {
        Servers::over(config, Arc::new(Tcp))
    }

    /// The configured servers, over connections of `dialer`.
    pub fn over(config: NatsConfig, dialer: Arc<dyn Dial>) -> Servers {
        let configured = nats::servers(&config);
        Servers { config, dialer, configured, announced: Vec::new() }
    }

    /// Tries each server once and returns the first connection that is accepted.
    ///
    /// # Errors
    /// The error of the last server.
    pub async fn connect(&mut self, name: &str) -> io::Result<Link> {
        let mut result = Err(io::Error::new(ErrorKind::NotConnected, "nats.url names no server"));
        let configured = self.configured.len();
        for (index, server) in self.in_order().into_iter().enumerate() {
            if index < configured {
                self.configured.rotate_left(1);
            }
            match Link::open(&*self.dialer, &self.config, &server, name).await {
                Ok((link, info)) => {
                    self.learn(&info);
                    return Ok(link);
                }
                Err(error) => result = Err(error),
            }
        }
        result
    }

    /// As [`Servers::connect`], but to the server called `preferred`, if there is one and it is reached within a second.
    ///
    /// # Errors
    /// The error of the last server.
    pub async fn connect_to(&mut self, preferred: Option<&str>, name: &str) -> io::Result<Link> {
        let link = self.connect(name).await?;
        let Some(preferred) = preferred.filter(|preferred| *preferred != link.server_name) else {
            return Ok(link);
        };
        let look = async {
            for server in self.in_order() {
                match Link::open(&*self.dialer, &self.config, &server, name).await {
                    Ok((other, _)) if other.server_name == preferred => return Some(other),
                    _ => {}
                }
            }
            None
        };
        Ok(timeout(PREFERENCE_TIMEOUT, look).await.ok().flatten().unwrap_or(link))
    }

    fn in_order(&self) -> Vec<ServerAddr> {
        self.configured.iter().chain(&self.announced).cloned().collect()
    }

    /// Replaces the announced servers, so that those that have left the cluster are forgotten.
    fn learn(&mut self, info: &Info) {
        let scheme = if self.configured.iter().any(ServerAddr::tls_required) { "tls" } else { "nats" };
        let is_same =
            |one: &ServerAddr, other: &ServerAddr| one.host() == other.host() && one.port() == other.port();
        self.announced.clear();
        for address in &info.connect_urls {
            let Ok(server) = format!("{scheme}://{address}").parse::<ServerAddr>() else { continue };
            if !self.in_order().iter().any(|known| is_same(known, &server)) {
                self.announced.push(server);
            }
        }
    }
}

impl Link {
    async fn open(
        dialer: &dyn Dial,
        config: &NatsConfig,
        server: &ServerAddr,
        name: &str,
    ) -> io::Result<(Link, Info)> {
        let socket = dialer.dial(server.host(), server.port()).await?;
        let timed_out = |_| io::Error::new(ErrorKind::TimedOut, "the server does not answer");
        let handshake = Link::handshake(socket, config, server, name);
        timeout(HANDSHAKE_TIMEOUT, handshake).await.map_err(timed_out)?
    }

    async fn handshake(
        socket: Socket,
        config: &NatsConfig,
        server: &ServerAddr,
        name: &str,
    ) -> io::Result<(Link, Info)> {
        let mut link = Link { socket, max_payload_bytes: 0, is_clustered: false, server_name: String::new() };
        let info = loop {
            match link.wait_for_op().await? {
                Op::Info(json) => break serde_json::from_slice::<Info>(&json).map_err(invalid)?,
                Op::Error(error) => return Err(rejected(error)),
                _ => {}
            }
        };
        if info.tls_required || server.tls_required() {
            let identity = match config.client_certificate() {
                Ok(Some((cert, key))) => Some(Identity::read(cert, key)?),
                _ => None,
            };
            link.socket.encrypt(server.host(), identity).await?;
        }
        link.max_payload_bytes = info.max_payload;
        link.is_clustered = info.cluster.is_some();
        link.server_name.clone_from(&info.server_name);
        let options = connect_options(config, &info, name).await?;
        link.socket.to_send.put_slice(b"CONNECT ");
        link.socket.to_send.put_slice(options.to_string().as_bytes());
        link.socket.to_send.put_slice(b"\r\nPING\r\n");
        link.flush().await?;
        loop {
            match link.wait_for_op().await? {
                Op::Pong => return Ok((link, info)),
                Op::Error(error) => return Err(rejected(error)),
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

    /// Parses the next operation from the read buffer; `None` if it is not complete. Queues a `PONG` for each ping.
    ///
    /// # Errors
    /// If the server violates the protocol.
    pub fn next_op(&mut self) -> io::Result<Option<Op>> {
        let op = protocol::next(&mut self.socket.read).map_err(invalid)?;
        if op == Some(Op::Ping) {
            self.socket.to_send.put_slice(b"PONG\r\n");
        }
        Ok(op)
    }

    /// Whether this `INFO` announces lame duck mode: the server is shutting down gracefully.
    pub fn is_lame_duck(info: &[u8]) -> bool {
        serde_json::from_slice::<Info>(info).is_ok_and(|info| info.ldm)
    }

    /// [`Socket::fill`].
    ///
    /// # Errors
    /// If the connection has ended.
    pub async fn fill(&mut self) -> io::Result<()> {
        self.socket.fill().await
    }

    /// Queues a subscription for the next flush.
    pub fn subscribe(&mut self, id: SubscriptionId, subject: &str) {
        self.put(format_args!("SUB {subject} {id}\r\n"));
    }

    /// Queues the end of a subscription.
    pub fn unsubscribe(&mut self, id: SubscriptionId) {
        self.put(format_args!("UNSUB {id}\r\n"));
    }

    /// Queues a message. Replies go to the subject `reply`. `headers` is a [`HeaderBlock`] or empty.
    ///
    /// [`HeaderBlock`]: super::protocol::HeaderBlock
    pub fn publish(&mut self, subject: &str, reply: &str, headers: &[u8], payload: &[u8]) {
        let (verb, all) = (if headers.is_empty() { "PUB" } else { "HPUB" }, headers.len() + payload.len());
        self.socket.to_send.reserve(subject.len() + reply.len() + all + MAX_LINE_OVERHEAD_BYTES);
        self.put(format_args!("{verb} {subject} {reply} "));
        if !headers.is_empty() {
            self.put(format_args!("{} ", headers.len()));
        }
        self.put(format_args!("{all}\r\n"));
        self.socket.to_send.put_slice(headers);
        self.socket.to_send.put_slice(payload);
        self.socket.to_send.put_slice(b"\r\n");
    }

    /// The server's `max_payload`: the limit for a message's headers and payload together.
    pub fn max_payload_bytes(&self) -> usize {
        self.max_payload_bytes
    }

    /// Whether the server is part of a cluster.
    pub fn is_clustered(&self) -> bool {
        self.is_clustered
    }

    /// The server's name, which is also in its answers about a stream that it leads.
    pub fn server_name(&self) -> &str {
        &self.server_name
    }

    /// [`Socket::is_full`].
    pub fn is_full(&self) -> bool {
        self.socket.is_full()
    }

    /// Queues a ping.
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
    /// If the connection has ended, or the server stops reading.
    pub async fn flush(&mut self) -> io::Result<()> {
        self.socket.flush().await
    }
}

/// The argument of `CONNECT`: client information and credentials.
async fn connect_options(config: &NatsConfig, info: &Info, name: &str) -> io::Result<Value> {
    let options = json!({
        "name": name,
        "lang": "rust",
        "version": env!("CARGO_PKG_VERSION"),
        "protocol": 1,
        "verbose": false,
        "pedantic": false,
        "headers": true,
        "no_responders": true,
    });
    let mut options = match options {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    if let Some((user, password)) = nats::user_and_password(config) {
        options.insert("user".into(), user.into());
        options.insert("pass".into(), password.into());
    }
    let nonce = info.nonce.as_deref().unwrap_or_default();
    if let Some(file) = &config.nkey {
        let key = KeyPair::from_seed(&nats::seed(file).await?).map_err(invalid)?;
        let signature = key.sign(nonce.as_bytes()).map_err(invalid)?;
        options.insert("nkey".into(), key.public_key().into());
        options.insert("sig".into(), URL_SAFE_NO_PAD.encode(signature).into());
    }
    if let Some(file) = &config.credentials {
        let text = tokio::fs::read_to_string(file).await?;
        let bad = || invalid(format!("nats.credentials = {}: not a credentials file", file.display()));
        let (jwt, seed) = (section(&text, "USER JWT"), section(&text, "USER NKEY SEED"));
        let (jwt, seed) = (jwt.ok_or_else(bad)?, seed.ok_or_else(bad)?);
        let key = KeyPair::from_seed(seed).map_err(|_| bad())?;
        let signature = key.sign(nonce.as_bytes()).map_err(|_| bad())?;
        options.insert("jwt".into(), jwt.into());
        options.insert("sig".into(), URL_SAFE_NO_PAD.encode(signature).into());
    }
    Ok(Value::Object(options))
}

/// The line after `-----BEGIN NATS <title>-----` (`-----BEGIN <title>-----` for the seed).
fn section<'t>(text: &'t str, title: &str) -> Option<&'t str> {
    let mut lines = text.lines().skip_while(|line| !(line.contains("BEGIN") && line.contains(title)));
    lines.nth(1).map(str::trim).filter(|line| !line.is_empty())
}

fn rejected(error: String) -> io::Error {
    io::Error::new(ErrorKind::PermissionDenied, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_files_have_two_sections() {
        let text = "-----BEGIN NATS USER JWT-----\neyJ0\n------END NATS USER JWT------\n\nSecret!\n\
                    -----BEGIN USER NKEY SEED-----\nSUAB\n------END USER NKEY SEED------\n";
        assert_eq!(section(text, "USER JWT"), Some("eyJ0"));
        assert_eq!(section(text, "USER NKEY SEED"), Some("SUAB"));
        assert_eq!(section("nothing", "USER JWT"), None);
    }

    fn announcing(addresses: &[&str]) -> Info {
        Info { connect_urls: addresses.iter().map(ToString::to_string).collect(), ..Info::default() }
    }

    fn hosts(servers: &Servers) -> Vec<String> {
        servers.in_order().iter().map(|server| format!("{}:{}", server.host(), server.port())).collect()
    }

    #[test]
    fn configured_servers_are_tried_before_announced_ones() {
        let mut servers = Servers::new(NatsConfig::default());
        servers.learn(&announcing(&["10.0.0.2:4222", "127.0.0.1:4222", "10.0.0.2:4222", "10.0.0.3:4222"]));
        assert_eq!(hosts(&servers), ["127.0.0.1:4222", "10.0.0.2:4222", "10.0.0.3:4222"]);
    }

    #[test]
    fn servers_that_have_left_are_forgotten() {
        let mut servers = Servers::new(NatsConfig::default());
        servers.learn(&announcing(&["10.0.0.2:4222"]));
        servers.learn(&announcing(&["10.0.0.3:4222"]));
        assert_eq!(hosts(&servers), ["127.0.0.1:4222", "10.0.0.3:4222"]);
        servers.learn(&announcing(&[]));
        assert_eq!(hosts(&servers), ["127.0.0.1:4222"]);
    }
}
