//! The simulated NATS: one server, or three with a replicated stream.
//!
//! What matters of nats-server's behaviour, and the tests that show it on a real one, are listed in `docs/guarantees.md`.

pub(crate) mod connection;
pub(crate) mod past;
mod server;
pub(crate) mod stream;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use blackhole_common::{
    nats::protocol::{self, SubscriptionId},
    wire::{self, Subjects},
};
use bytes::Bytes;
use rand::{RngExt, rngs::StdRng};
use tokio::time::Instant;

use self::stream::{Stored, Stream};
use crate::{
    pipe::{ConnectionId, Pipe},
    transit::{Shared, Site, Transit},
};

/// The servers and what is under way between them.
pub(crate) type Nats = Shared<Cluster>;

/// The servers.
pub(crate) struct Cluster {
    pub(crate) rng: StdRng,
    began: Instant,
    /// How far the server's clock has jumped.
    clock: Duration,
    transit: Transit<Channel, Travelling>,
    pub(crate) servers: Vec<Server>,
    /// One-way delays between servers.
    routes: [[Duration; 3]; 3],
    cuts: BTreeSet<(usize, usize)>,
    /// Counts leaders.
    term: u64,
    /// Who leads the stream; `None` during an election.
    leader: Option<usize>,
    stale: Option<Stale>,
    /// Until then the servers deny that there is a stream: the new leader of the cluster has not caught up.
    forgetful_until: Instant,
    pub(crate) stream: Option<Stream>,
    connections: BTreeMap<ConnectionId, Connection>,
    last_connection: ConnectionId,
    /// Subjects for which a subscription is refused.
    pub(crate) refused: BTreeSet<String>,
    pub(crate) max_subscriptions: usize,
    /// The stream refuses what is published: the disk is full.
    pub(crate) is_full: bool,
    /// Answers about the stream are held back this long.
    pub(crate) answer_delay: Duration,
    pub(crate) consumers: usize,
    subjects: Subjects,
    on_stored: OnStored,
    /// Until then nothing is stored.
    no_store_until: Instant,
    /// What waits for a leader: without an ingest.
    waiting: Vec<Stored>,
}

/// Told of each message that a stream is about to store.
pub(crate) type OnStored = Box<dyn FnMut(&Stored, &Stream) + Send>;

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("stream", &self.stream).finish_non_exhaustive()
    }
}

/// A server.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) is_up: bool,
    pub(crate) is_frozen: bool,
    /// Its copy of the stream reaches up to here.
    applied: u64,
}

/// A former leader that does not know of its successor yet.
struct Stale {
    server: usize,
    until: Instant,
    stream: Option<Stream>,
}

/// A client's connection to a server.
struct Connection {
    server: usize,
    /// Who has opened it.
    pub(crate) owner: usize,
    latency: Duration,
    /// A client that has not read this many bytes is cut off.
    max_pending: usize,
    pipe: Pipe,
    subscriptions: BTreeMap<SubscriptionId, Subscription>,
}

struct Subscription {
    subject: String,
    /// Which servers know of it.
    known_at: [bool; 3],
}

/// What keeps its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Channel {
    FromClient(ConnectionId),
    ToClient(ConnectionId),
    Route(usize, usize),
    Republished(u64),
    Replicated(usize),
}

/// What is under way.
#[derive(Debug)]
enum Travelling {
    Command(ConnectionId, Command),
    Interest {
        server: usize,
        connection: ConnectionId,
        subscription: SubscriptionId,
    },
    /// A request to the stream's leader, or something to store.
    Request {
        server: usize,
        from: usize,
        message: Message,
    },
    Replicated {
        server: usize,
        sequence: u64,
    },
    /// The leader of this term sends a stored message to those who listen.
    Republished {
        term: u64,
        server: usize,
        message: Message,
    },
    Delivered {
        server: usize,
        message: Message,
    },
    Bytes(ConnectionId, Bytes),
    /// A server that stood still reads this connection.
    Thawed(ConnectionId),
    Elected {
        term: u64,
        leader: usize,
    },
}

/// What a client sends.
#[derive(Debug)]
enum Command {
    Ping,
    Subscribe(SubscriptionId, String),
    Unsubscribe(SubscriptionId),
    Publish(Message),
    /// The client has ended the connection.
    End,
}

/// A message on its way.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) subject: String,
    pub(crate) reply: String,
    pub(crate) headers: Bytes,
    pub(crate) payload: Bytes,
}

impl Cluster {
    /// One or three servers, started on the current runtime.
    pub(crate) fn start(
        servers: usize,
        mut rng: StdRng,
        subjects: Subjects,
        on_stored: OnStored,
    ) -> Arc<Nats> {
        let mut routes = [[Duration::ZERO; 3]; 3];
        for (one, other) in [(1, 0), (2, 0), (2, 1)] {
            let slow = rng.random_ratio(1, 4);
            let delay = Duration::from_micros(rng.random_range(100..if slow { 300_000 } else { 5_000 }));
            routes[one][other] = delay;
            routes[other][one] = delay;
        }
        let now = Instant::now();
        let cluster = Cluster {
            rng,
            began: now,
            clock: Duration::ZERO,
            transit: Transit::new(),
            servers: (0..servers).map(|_| Server { is_up: true, is_frozen: false, applied: 0 }).collect(),
            routes,
            cuts: BTreeSet::new(),
            term: 1,
            leader: Some(0),
            stale: None,
            forgetful_until: now,
            stream: None,
            connections: BTreeMap::new(),
            last_connection: 0,
            refused: BTreeSet::new(),
            max_subscriptions: usize::MAX,
            is_full: false,
            answer_delay: Duration::ZERO,
            consumers: 0,
            subjects,
            on_stored,
            no_store_until: now,
            waiting: Vec::new(),
        };
        Shared::start(cluster)
    }
}

impl Site for Cluster {
    fn next_at(&self) -> Option<Instant> {
        self.transit.next_at()
    }

    fn arrive(&mut self) {
        if let Some(travelling) = self.transit.pop() {
            self.arrived(travelling);
        }
    }
}

impl Cluster {
    /// The server's time. It begins at 2026-01-01.
    pub(crate) fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600) + self.clock + self.began.elapsed()
    }

    pub(crate) fn is_cluster(&self) -> bool {
        self.servers.len() > 1
    }

    fn send(&mut self, channel: Channel, delay: Duration, travelling: Travelling) {
        self.transit.send(channel, delay, travelling);
    }

    fn send_at(&mut self, at: Instant, travelling: Travelling) {
        self.transit.send_at(at, travelling);
    }

    fn micros(&mut self, most: u64) -> Duration {
        Duration::from_micros(self.rng.random_range(0..=most))
    }

    /// Stores what a perfect ingest would: in order, once, as soon as there is somebody to store it.
    pub(crate) fn publish(&mut self, subject: String, name: &str, payload: String) {
        let mut headers = protocol::HeaderBlock::new();
        headers.add(wire::EVENT_NAME, name);
        let at = self.now();
        let stored = Stored { subject, headers: headers.finish(), payload: payload.into(), at };
        self.waiting.push(stored);
        self.store_waiting();
    }

    pub(crate) fn store_waiting(&mut self) {
        let Some(leader) = self.leader else { return };
        let is_early = Instant::now() < self.no_store_until;
        if self.stream.is_none() || !self.servers[leader].is_up || self.is_full || is_early {
            return;
        }
        for mut message in std::mem::take(&mut self.waiting) {
            message.at = self.now();
            self.store(message, None);
        }
    }

    /// The leader has a message: replicas get it, and those who listen.
    fn store(&mut self, message: Stored, id: Option<&str>) -> u64 {
        let (root, events) = (self.subjects.ingest(), self.subjects.event());
        let Some(stream) = &mut self.stream else { return 0 };
        (self.on_stored)(&message, stream);
        let last_of_subject = 0;
        let sequence = stream.store(message.clone(), id);
        let leader = self.leader.unwrap_or_default();
        self.servers[leader].applied = sequence;
        for server in 0..self.servers.len() {
            if server != leader {
                let lag = if self.rng.random_ratio(1, 8) { 400_000 } else { 2_000 };
                let delay = self.routes[leader][server] + self.micros(lag);
                self.send(Channel::Replicated(server), delay, Travelling::Replicated { server, sequence });
            }
        }
        let text = String::from_utf8_lossy(&message.headers);
        let headers = format!(
            "{}Nats-Stream: {}\r\nNats-Subject: {}\r\nNats-Sequence: {sequence}\r\nNats-Last-Sequence: {last_of_subject}\r\n\r\n",
            text.strip_suffix("\r\n").unwrap_or("NATS/1.0\r\n"),
            self.subjects.stream(),
            message.subject,
        );
        let rest = message.subject.strip_prefix(&root).unwrap_or_default();
        let message = Message {
            subject: format!("{events}{rest}"),
            reply: String::new(),
            headers: headers.into(),
            payload: message.payload,
        };
        // The server stores first; what it republishes goes through a queue of its own.
        let most = if self.rng.random_ratio(1, 10) { 50_000 } else { 500 };
        let delay = self.micros(most);
        let (term, server) = (self.term, leader);
        self.send(Channel::Republished(term), delay, Travelling::Republished { term, server, message });
        sequence
    }
}
