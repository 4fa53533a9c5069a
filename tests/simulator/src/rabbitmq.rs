//! The simulated RabbitMQ: the ingest's queue with a single active consumer, and the queue for checkpoints.
//!
//! What matters of RabbitMQ's behaviour, and the tests that show it on a real one, are listed in `docs/guarantees.md`.

mod connection;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use amq_protocol::frame::AMQPFrame;
use bytes::Bytes;
use rand::{RngExt, rngs::StdRng};
use tokio::time::Instant;

pub(crate) use self::connection::{Checkpoints, Dialer};
use crate::{
    pipe::{ConnectionId, Pipe},
    transit::{Shared, Site, Transit},
};

/// The broker with everything that is on its way to it and from it.
pub(crate) type RabbitMq = Shared<Broker>;

/// The heartbeat interval that is negotiated.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// The broker.
pub(crate) struct Broker {
    rng: StdRng,
    transit: Transit<Way, Travelling>,
    is_up: bool,
    /// Messages that are not delivered, oldest first.
    ready: VecDeque<Queued>,
    last_number: u64,
    /// The most bytes of `ready`; beyond it the oldest are dropped.
    max_bytes: usize,
    /// The latest message in the queue for checkpoints.
    checkpoint: Option<Vec<u8>>,
    /// It is short of space, and reads nothing from those who publish.
    is_alarmed: bool,
    connections: BTreeMap<ConnectionId, Connection>,
    last_connection: ConnectionId,
    /// The oldest one gets the messages.
    consumers: VecDeque<ConnectionId>,
    on_left: OnLeft,
}

/// How a message has left the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    Acknowledged,
    Rejected,
    /// There was no room for it.
    Dropped,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").field("ready", &self.ready).finish_non_exhaustive()
    }
}

/// Told of the numbers of messages that have left the queue.
pub(crate) type OnLeft = Box<dyn FnMut(u64, Left) + Send>;

/// A message in the queue.
#[derive(Debug)]
struct Queued {
    /// Its place among all that were ever published.
    number: u64,
    key: String,
    body: Bytes,
    is_redelivered: bool,
}

/// A client's connection.
struct Connection {
    /// Which ingest has opened it.
    owner: usize,
    pipe: Pipe,
    latency: Duration,
    last_received: Instant,
    /// It has sent the protocol header.
    has_greeted: bool,
    prefetch: usize,
    is_transactional: bool,
    /// What waits for the commit.
    transaction: Vec<Operation>,
    /// A checkpoint is being published.
    is_publishing: bool,
    has_published: bool,
    /// Nothing more is read from it.
    is_blocked: bool,
    unacknowledged: BTreeMap<u64, Queued>,
    last_tag: u64,
}

/// What a transaction consists of.
#[derive(Debug)]
enum Operation {
    Acknowledge { up_to: u64 },
    Reject { tag: u64 },
    Store(Vec<u8>),
}

/// What keeps its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    ToBroker(ConnectionId),
    ToClient(ConnectionId),
}

/// What is under way.
#[derive(Debug)]
enum Travelling {
    /// The first bytes of a connection.
    Greeting(ConnectionId),
    Frame(ConnectionId, Box<AMQPFrame>),
    /// The client has ended the connection.
    End(ConnectionId),
    Bytes(ConnectionId, Bytes),
    /// It is time for a heartbeat.
    Heartbeat(ConnectionId),
}

impl Broker {
    /// A broker, started on the current runtime.
    pub(crate) fn start(rng: StdRng, max_bytes: usize, on_left: OnLeft) -> Arc<RabbitMq> {
        Shared::start(Broker {
            rng,
            transit: Transit::new(),
            is_up: true,
            ready: VecDeque::new(),
            last_number: 0,
            max_bytes,
            checkpoint: None,
            is_alarmed: false,
            connections: BTreeMap::new(),
            last_connection: 0,
            consumers: VecDeque::new(),
            on_left,
        })
    }

    /// KAZOO publishes a message. Messages are numbered from 0 on.
    pub(crate) fn publish(&mut self, key: &str, body: Bytes) {
        let queued = Queued { number: self.last_number, key: key.to_owned(), body, is_redelivered: false };
        self.last_number += 1;
        self.ready.push_back(queued);
        self.deliver();
        let mut bytes: usize = self.ready.iter().map(|queued| queued.body.len()).sum();
        while bytes > self.max_bytes
            && let Some(oldest) = self.ready.pop_front()
        {
            bytes -= oldest.body.len();
            (self.on_left)(oldest.number, Left::Dropped);
        }
    }

    /// Whether it accepts connections.
    pub(crate) fn is_up(&self) -> bool {
        self.is_up
    }

    // What is done to the broker.

    /// Ends all connections of an ingest, or all.
    pub(crate) fn disconnect(&mut self, owner: Option<usize>) {
        let of_owner = |id: &ConnectionId| owner.is_none_or(|owner| self.connections[id].owner == owner);
        let ids: Vec<ConnectionId> = self.connections.keys().copied().filter(of_owner).collect();
        ids.into_iter().for_each(|id| self.close(id));
    }

    /// Lets nothing through on an ingest's connections, or lets it through again.
    pub(crate) fn stall(&mut self, owner: Option<usize>, is_stalled: bool) {
        let mut mended = Vec::new();
        for (id, connection) in &mut self.connections {
            if owner.is_none_or(|owner| connection.owner == owner) {
                connection.pipe.stall(is_stalled);
                mended.push(*id);
            }
        }
        if !is_stalled {
            mended.into_iter().for_each(|id| self.parse(id));
        }
    }

    /// Stops the broker, which then forgets the checkpoint, or starts it again.
    pub(crate) fn set_up(&mut self, is_up: bool) {
        self.is_up = is_up;
        if !is_up {
            self.disconnect(None);
            self.checkpoint = None;
        }
    }

    /// The broker becomes short of space, or has room again.
    pub(crate) fn alarm(&mut self, is_alarmed: bool) {
        self.is_alarmed = is_alarmed;
        let ids: Vec<ConnectionId> = self.connections.keys().copied().collect();
        for id in ids {
            self.block(id);
            if !is_alarmed && let Some(connection) = self.connections.get_mut(&id) {
                connection.is_blocked = false;
                self.parse(id);
            }
        }
    }

    /// Everything works again.
    pub(crate) fn heal(&mut self) {
        self.set_up(true);
        self.alarm(false);
        self.stall(None, false);
    }

    // What it does by itself.

    fn micros(&mut self, most: u64) -> Duration {
        Duration::from_micros(self.rng.random_range(0..=most))
    }

    /// Ends a connection: what was delivered on it is delivered again, and the next consumer gets it.
    fn close(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.pipe.close();
        self.requeue(id);
        if self.connections.get(&id).is_some_and(|connection| connection.pipe.is_gone) {
            self.connections.remove(&id);
        }
    }

    /// A consumer has ended.
    fn requeue(&mut self, id: ConnectionId) {
        self.consumers.retain(|consumer| *consumer != id);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let unacknowledged = std::mem::take(&mut connection.unacknowledged);
        for (_, queued) in unacknowledged.into_iter().rev() {
            self.ready.push_front(Queued { is_redelivered: true, ..queued });
        }
        self.deliver();
    }

    /// Sends messages to the active consumer.
    fn deliver(&mut self) {
        let Some(id) = self.consumers.front().copied() else { return };
        while let Some(connection) = self.connections.get_mut(&id)
            && connection.unacknowledged.len() < connection.prefetch
            && let Some(queued) = self.ready.pop_front()
        {
            connection.last_tag += 1;
            let bytes = connection::delivery(connection.last_tag, &queued);
            connection.unacknowledged.insert(connection.last_tag, queued);
            self.send(id, bytes);
        }
    }

    fn send(&mut self, id: ConnectionId, bytes: Vec<u8>) {
        let Some(connection) = self.connections.get(&id) else { return };
        self.transit.send(Way::ToClient(id), connection.latency, Travelling::Bytes(id, bytes.into()));
    }

    fn carry_out(&mut self, id: ConnectionId, operation: Operation) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        match operation {
            Operation::Store(checkpoint) => self.checkpoint = Some(checkpoint),
            Operation::Acknowledge { up_to } => {
                if !connection.unacknowledged.contains_key(&up_to) {
                    return self.refuse(id, up_to);
                }
                let rest = connection.unacknowledged.split_off(&(up_to + 1));
                let acknowledged = std::mem::replace(&mut connection.unacknowledged, rest);
                acknowledged.values().for_each(|queued| (self.on_left)(queued.number, Left::Acknowledged));
                self.deliver();
            }
            Operation::Reject { tag } => {
                let Some(queued) = connection.unacknowledged.remove(&tag) else {
                    return self.refuse(id, tag);
                };
                (self.on_left)(queued.number, Left::Rejected);
                self.deliver();
            }
        }
    }
}

impl Site for Broker {
    fn next_at(&self) -> Option<Instant> {
        self.transit.next_at()
    }

    fn arrive(&mut self) {
        match self.transit.pop() {
            Some(Travelling::Greeting(id)) => self.greeted(id),
            Some(Travelling::Frame(id, frame)) => self.frame(id, *frame),
            Some(Travelling::End(id)) => self.close(id),
            Some(Travelling::Bytes(id, bytes)) => {
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.pipe.deliver(&bytes);
                }
            }
            Some(Travelling::Heartbeat(id)) => self.heartbeat(id),
            None => {}
        }
    }
}
