//! A connection to a NATS server that listens: subscriptions out, messages in, in the order in which the server sent
//! them. It ends with its first failure; who uses it opens another.
//!
//! async-nats is right everywhere else; for the events of an edge it has a channel of several KiB for each
//! subscription, drops what does not fit it, and keeps no order across them.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use async_nats::ServerAddr;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use blackhole_common::{config::NatsConfig, nats};
use bytes::{BufMut, BytesMut};
use nkeys::KeyPair;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName},
};

use super::protocol::{self, Op};
use crate::fanout::SubjectNumber;

/// A server that is there has let us in within this.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// What is sent must have been taken by the system within this, or the server is taken for dead.
const SEND_WITHIN: Duration = Duration::from_secs(10);
/// Room for what is read at once.
const READ_BYTES: usize = 64 * 1024;

trait Stream: AsyncRead + AsyncWrite + Send {}
impl<S: AsyncRead + AsyncWrite + Send> Stream for S {}

/// A connection that was let in.
pub(super) struct Link {
    stream: Pin<Box<dyn Stream>>,
    read: BytesMut,
    to_send: BytesMut,
}

/// What a server tells of itself, as far as it matters.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Info {
    tls_required: bool,
    nonce: Option<String>,
    connect_urls: Vec<String>,
    ldm: bool,
}

/// The servers that may be connected to, the next one first.
#[derive(Debug)]
pub(super) struct Servers {
    config: NatsConfig,
    configured: Vec<ServerAddr>,
    next: VecDeque<ServerAddr>,
}

impl Servers {
    /// Those of the configuration.
    pub(super) fn new(config: NatsConfig) -> Servers {
        let configured = nats::servers(&config);
        Servers { config, next: configured.iter().cloned().collect(), configured }
    }

    /// Connects to the next server that lets us in, trying each once.
    ///
    /// # Errors
    /// The last one's reason.
    pub(super) async fn connect(&mut self, name: &str) -> io::Result<Link> {
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
        let tcp = TcpStream::connect((server.host(), server.port())).await?;
        tcp.set_nodelay(true)?;
        let mut link = Link {
            stream: Box::pin(tcp),
            read: BytesMut::with_capacity(READ_BYTES),
            to_send: BytesMut::new(),
        };
        let info = loop {
            match link.op().await? {
                Op::Info(json) => break serde_json::from_slice::<Info>(&json).map_err(invalid)?,
                Op::Error(error) => return Err(refused(error)),
                _ => {}
            }
        };
        if info.tls_required || server.tls_required() {
            let plain = std::mem::replace(&mut link.stream, Box::pin(tokio::io::empty()));
            link.stream = Box::pin(encrypted(plain, server.host()).await?);
        }
        let hello = hello(config, &info, name).await?;
        link.to_send.put_slice(b"CONNECT ");
        link.to_send.put_slice(hello.to_string().as_bytes());
        link.to_send.put_slice(b"\r\nPING\r\n");
        link.flush().await?;
        loop {
            match link.op().await? {
                Op::Pong => return Ok((link, info)),
                Op::Error(error) => return Err(refused(error)),
                _ => {}
            }
        }
    }

    async fn op(&mut self) -> io::Result<Op> {
        loop {
            if let Some(op) = self.next()? {
                return Ok(op);
            }
            self.fill().await?;
        }
    }

    /// The next operation of what was read, if it is all there. Pings are answered with the next flush.
    ///
    /// # Errors
    /// When the server does not speak NATS, refuses us, or is about to stop.
    pub(super) fn next(&mut self) -> io::Result<Option<Op>> {
        let op = protocol::next(&mut self.read).map_err(invalid)?;
        if op == Some(Op::Ping) {
            self.to_send.put_slice(b"PONG\r\n");
        }
        Ok(op)
    }

    /// Whether a server's word about itself means that it is stopping in order.
    pub(super) fn is_farewell(info: &[u8]) -> bool {
        serde_json::from_slice::<Info>(info).is_ok_and(|info| info.ldm)
    }

    /// Reads more. Nothing is lost when the wait for it is broken off.
    ///
    /// # Errors
    /// When the connection has ended.
    pub(super) async fn fill(&mut self) -> io::Result<()> {
        self.read.reserve(READ_BYTES / 4);
        match self.stream.read_buf(&mut self.read).await? {
            0 => Err(io::Error::new(ErrorKind::UnexpectedEof, "the server closed the connection")),
            _ => Ok(()),
        }
    }

    /// Notes a subscription for the next flush.
    pub(super) fn subscribe(&mut self, number: SubjectNumber, subject: &str) {
        self.put(format_args!("SUB {subject} {number}\r\n"));
    }

    /// Notes the end of a subscription.
    pub(super) fn unsubscribe(&mut self, number: SubjectNumber) {
        self.put(format_args!("UNSUB {number}\r\n"));
    }

    /// Notes a question without a payload; the answer comes for the subject `reply`.
    pub(super) fn ask(&mut self, subject: &str, reply: &str) {
        self.put(format_args!("PUB {subject} {reply} 0\r\n\r\n"));
    }

    /// Notes a ping.
    pub(super) fn ping(&mut self) {
        self.to_send.put_slice(b"PING\r\n");
    }

    fn put(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to memory cannot fail.
        let _ = std::fmt::Write::write_fmt(&mut self.to_send, line);
    }

    /// Sends what was noted.
    ///
    /// # Errors
    /// When the connection has ended, or takes nothing.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        if self.to_send.is_empty() {
            return Ok(());
        }
        let send = async {
            self.stream.write_all(&self.to_send).await?;
            self.stream.flush().await
        };
        let result = timeout(SEND_WITHIN, send).await;
        // Thousands of subscriptions may have gone at once; that much is not needed again soon.
        self.to_send = BytesMut::new();
        result.map_err(|_| io::Error::new(ErrorKind::TimedOut, "the server takes nothing"))?
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
        "echo": false,
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

async fn encrypted(
    plain: Pin<Box<dyn Stream>>,
    host: &str,
) -> io::Result<tokio_rustls::client::TlsStream<Pin<Box<dyn Stream>>>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(invalid)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(invalid)?;
    TlsConnector::from(Arc::new(config)).connect(name, plain).await
}

fn invalid(error: impl ToString) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error.to_string())
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
