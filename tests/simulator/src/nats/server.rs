//! What the servers do with what arrives.

use std::time::Duration;

use blackhole_common::{nats::protocol, wire};
use bytes::Bytes;
use rand::RngExt;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    Channel, Cluster, Command, Message, Stale, Subscription, Travelling,
    stream::{Stored, Stream, matches},
};
use crate::pipe::ConnectionId;

/// By this time after a power loss every edge has asked for the stream, and believes the answer.
const ASKED_AGAIN: Duration = Duration::from_secs(25);

impl Cluster {
    pub(super) fn arrived(&mut self, travelling: Travelling) {
        match travelling {
            Travelling::Command(connection, command) => self.command(connection, command),
            Travelling::Interest { server, connection, subscription } => {
                if let Some(connection) = self.connections.get_mut(&connection)
                    && let Some(subscription) = connection.subscriptions.get_mut(&subscription)
                {
                    subscription.known_at[server] = true;
                }
            }
            Travelling::Request { server, from, message } => self.requested(server, from, message),
            Travelling::Replicated { server, sequence } => {
                let applied = &mut self.servers[server].applied;
                *applied = sequence.max(*applied);
            }
            Travelling::Republished { term, server, message } => {
                // A leader that has died takes with it what it has not sent; one that does not know of its successor sends it.
                let is_stale = self.stale.as_ref().is_some_and(|stale| stale.server == server);
                let is_up = self.servers[server].is_up;
                if term == self.term || (is_up && (is_stale || !self.rng.random_ratio(1, 2))) {
                    self.spread(server, &message);
                }
            }
            Travelling::Delivered { server, message } => self.deliver(server, &message),
            Travelling::Thawed(connection) => self.thaw(connection),
            Travelling::Bytes(connection, bytes) => self.bytes(connection, &bytes),
            Travelling::Elected { term, leader } if term == self.term => {
                self.lead(leader);
                if let Some(stream) = &self.stream {
                    self.servers[leader].applied = stream.last;
                }
                self.store_waiting();
            }
            Travelling::Elected { .. } => {}
        }
    }

    /// The stream has a leader, who tells of it.
    fn lead(&mut self, leader: usize) {
        self.leader = Some(leader);
        let subject = format!("$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.{}", self.subjects.stream());
        self.spread(leader, &Message { subject, ..Message::default() });
    }

    fn command(&mut self, id: ConnectionId, command: Command) {
        let Some(connection) = self.connections.get_mut(&id).filter(|connection| connection.pipe.is_open)
        else {
            return;
        };
        let server = connection.server;
        match command {
            Command::Ping => self.answer(id, b"PONG\r\n"),
            Command::Subscribe(number, subject) => {
                if connection.subscriptions.len() >= self.max_subscriptions && !subject.starts_with("_INBOX")
                {
                    return self.answer(id, b"-ERR 'maximum subscriptions exceeded'\r\n");
                }
                if self.refused.contains(&subject) {
                    let error = format!("-ERR 'Permissions Violation for Subscription to \"{subject}\"'\r\n");
                    return self.answer(id, error.as_bytes());
                }
                let mut known_at = [false; 3];
                known_at[server] = true;
                connection.subscriptions.insert(number, Subscription { subject, known_at });
                self.tell_interest(server, id, number);
            }
            Command::Unsubscribe(number) => drop(connection.subscriptions.remove(&number)),
            Command::End => drop(self.connections.remove(&id)),
            Command::Publish(message) => {
                if message.subject.starts_with("_INBOX") {
                    return self.spread(server, &message);
                }
                if self.stream.is_none() && !message.subject.starts_with("$JS") && !message.reply.is_empty() {
                    let headers = Bytes::from_static(b"NATS/1.0 503\r\n\r\n");
                    let nobody = Message { subject: message.reply, headers, ..Message::default() };
                    return self.deliver(server, &nobody);
                }
                // Whoever leads answers; without a leader nobody does.
                let stale = self.stale.as_ref().filter(|stale| Instant::now() < stale.until);
                let leader = stale.map(|stale| stale.server).filter(|stale| *stale == server).or(self.leader);
                let Some(leader) = leader else { return };
                self.route(server, leader, Travelling::Request { server: leader, from: server, message });
            }
        }
    }

    fn tell_interest(&mut self, server: usize, connection: ConnectionId, subscription: u64) {
        for other in 0..self.servers.len() {
            if other != server {
                let interest = Travelling::Interest { server: other, connection, subscription };
                self.route(server, other, interest);
            }
        }
    }

    fn route(&mut self, from: usize, to: usize, travelling: Travelling) {
        if from == to {
            return self.arrived(travelling);
        }
        let is_cut = self.cuts.contains(&(from.min(to), from.max(to)));
        if is_cut || !self.servers[from].is_up || !self.servers[to].is_up {
            return;
        }
        let delay = self.routes[from][to];
        self.send(Channel::Route(from, to), delay, travelling);
    }

    /// Sends a message to all who listen: directly, and through the servers that have told of somebody.
    fn spread(&mut self, server: usize, message: &Message) {
        if !self.servers[server].is_up {
            return;
        }
        self.deliver(server, message);
        for other in (0..self.servers.len()).filter(|other| *other != server) {
            let is_wanted = self.connections.values().any(|connection| {
                connection.server == other
                    && connection.pipe.is_open
                    && connection
                        .subscriptions
                        .values()
                        .any(|own| own.known_at[server] && matches(&own.subject, &message.subject))
            });
            if is_wanted {
                let message = message.clone();
                self.route(server, other, Travelling::Delivered { server: other, message });
            }
        }
    }

    /// Sends a message to the server's own clients, once for each subscription.
    fn deliver(&mut self, server: usize, message: &Message) {
        let mut sent = Vec::new();
        for (id, connection) in &self.connections {
            if connection.server != server || !connection.pipe.is_open {
                continue;
            }
            let subscriptions = connection.subscriptions.iter();
            let wanted = subscriptions.filter(|(_, own)| matches(&own.subject, &message.subject));
            sent.extend(wanted.map(|(number, _)| (*id, message.to_bytes(*number))));
        }
        sent.into_iter().for_each(|(id, bytes)| self.answer(id, &bytes));
    }

    /// Sends bytes to a client.
    pub(super) fn answer(&mut self, id: ConnectionId, bytes: &[u8]) {
        let Some(connection) = self.connections.get(&id) else { return };
        let latency = connection.latency;
        self.send(Channel::ToClient(id), latency, Travelling::Bytes(id, Bytes::copy_from_slice(bytes)));
    }

    fn bytes(&mut self, id: ConnectionId, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.pipe.deliver(bytes) > connection.max_pending {
            self.close(id);
        }
    }

    /// A request arrives at who leads the stream, or thinks so.
    fn requested(&mut self, server: usize, from: usize, message: Message) {
        if !self.servers[server].is_up {
            return;
        }
        let stream_name = self.subjects.stream();
        let answer = match message.subject.strip_prefix("$JS.API.") {
            None => self.published(server, &message),
            Some(request) => {
                let is_stale = self.leader != Some(server);
                let mut words = request.split('.');
                match (words.next(), words.next()) {
                    (Some("STREAM"), Some("INFO")) => Some(self.info(server)),
                    (Some("STREAM"), Some("CREATE" | "UPDATE")) if !is_stale => Some(self.save(&message)),
                    (Some("CONSUMER"), Some("CREATE")) if !is_stale => {
                        Some(self.read_all(server, from, &stream_name, &message))
                    }
                    _ => None,
                }
            }
        };
        let Some(answer) = answer else { return };
        let answer =
            Message { subject: message.reply, payload: answer.to_string().into(), ..Message::default() };
        if !answer.subject.is_empty() {
            let delay = self.answer_delay + self.micros(200);
            if self.is_cluster() || delay > Duration::from_millis(1) {
                self.route(server, from, Travelling::Delivered { server: from, message: answer });
            } else {
                let delivered = Travelling::Delivered { server: from, message: answer };
                self.send_at(Instant::now() + delay, delivered);
            }
        }
    }

    /// The stream as a server knows it.
    pub(super) fn info(&self, server: usize) -> Value {
        let stale = self.stale.as_ref().filter(|stale| stale.server == server && self.leader != Some(server));
        let stream = match stale {
            Some(stale) => &stale.stream,
            None => &self.stream,
        };
        if self.is_cluster() && Instant::now() < self.forgetful_until {
            return not_found();
        }
        let others = (0..self.servers.len()).filter(|other| *other != server);
        let others = others.map(|other| format!("n{other}")).collect();
        let leader = format!("n{server}");
        let cluster = self.is_cluster().then_some((leader.as_str(), others));
        stream.as_ref().map_or_else(not_found, |stream| stream.info(cluster))
    }

    fn save(&mut self, message: &Message) -> Value {
        let config: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
        let now = self.now();
        match &mut self.stream {
            Some(stream) => stream.config = config,
            None => self.stream = Some(Stream::new(config, now)),
        }
        self.info(self.leader.unwrap_or_default())
    }

    /// A consumer that gets everything from a position on.
    fn read_all(&mut self, server: usize, to: usize, name: &str, message: &Message) -> Value {
        let request: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
        let config = &request["config"];
        let Some(stream) = &self.stream else { return not_found() };
        let messages = stream.read(config["opt_start_seq"].as_u64().unwrap_or(1), "", usize::MAX);
        let count = messages.len();
        for (index, (sequence, stored)) in messages.into_iter().enumerate() {
            let left = count - index - 1;
            let message = Message {
                subject: config["deliver_subject"].as_str().unwrap_or_default().to_owned(),
                reply: format!("$JS.ACK.{name}.c.1.{sequence}.{}.0.{left}", index + 1),
                headers: stored.headers,
                payload: Bytes::new(),
            };
            self.route(server, to, Travelling::Delivered { server: to, message });
        }
        json!({ "type": "io.nats.jetstream.api.v1.consumer_create_response", "name": "c" })
    }

    /// Something is to be stored.
    fn published(&mut self, server: usize, message: &Message) -> Option<Value> {
        if self.leader != Some(server) || Instant::now() < self.no_store_until {
            return None;
        }
        let (now, is_full) = (self.now(), self.is_full);
        let header = |name: &str| {
            let value = protocol::header(&message.headers, name.as_bytes())?;
            String::from_utf8(value.to_vec()).ok()
        };
        let name = self.subjects.stream();
        let stream = self.stream.as_mut()?;
        let id = header(wire::MESSAGE_ID);
        if let Some(sequence) = id.as_deref().and_then(|id| stream.duplicate_of(id, now)) {
            return Some(json!({ "stream": name, "seq": sequence, "duplicate": true }));
        }
        if is_full {
            let description = "insufficient resources";
            return Some(json!({ "error": { "code": 503, "err_code": 10023, "description": description } }));
        }
        let expected = header("Nats-Expected-Last-Sequence").and_then(|text| text.parse::<u64>().ok());
        if expected.is_some_and(|expected| expected != stream.last) {
            let description = format!("wrong last sequence: {}", stream.last);
            return Some(json!({ "error": { "code": 400, "err_code": 10071, "description": description } }));
        }
        let expected = header("Nats-Expected-Last-Msg-Id");
        if expected.is_some() && expected != stream.last_id {
            let description = format!("wrong last msg ID: {:?}", stream.last_id);
            return Some(json!({ "error": { "code": 400, "err_code": 10070, "description": description } }));
        }
        let stored = Stored {
            subject: message.subject.clone(),
            headers: message.headers.clone(),
            payload: message.payload.clone(),
            at: now,
        };
        let sequence = self.store(stored, id.as_deref());
        Some(json!({ "stream": name, "seq": sequence }))
    }

    // What is done to the servers.

    /// Ends a connection.
    pub(super) fn close(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.pipe.close();
        }
    }

    /// Ends all connections of an owner, or all.
    pub(crate) fn disconnect(&mut self, owner: Option<usize>) {
        let of_owner = |id: &ConnectionId| owner.is_none_or(|owner| self.connections[id].owner == owner);
        let ids: Vec<ConnectionId> = self.connections.keys().copied().filter(of_owner).collect();
        ids.into_iter().for_each(|id| self.close(id));
    }

    /// Lets nothing through on an owner's connections, or lets it through again.
    pub(crate) fn stall(&mut self, owner: usize, is_stalled: bool) {
        for connection in self.connections.values_mut().filter(|connection| connection.owner == owner) {
            connection.pipe.stall(is_stalled);
        }
        if !is_stalled {
            self.parse_all();
        }
    }

    fn parse_all(&mut self) {
        let ids: Vec<ConnectionId> = self.connections.keys().copied().collect();
        ids.into_iter().for_each(|id| self.parse(id));
    }

    /// Stops a server's process as SIGSTOP does, or continues it. Connections are accepted meanwhile, as the kernel does.
    /// Afterwards the server reads them in any order.
    pub(crate) fn freeze(&mut self, server: usize, is_frozen: bool) {
        self.servers[server].is_frozen = is_frozen;
        let of_server = |id: &ConnectionId| self.connections[id].server == server;
        let ids: Vec<ConnectionId> = self.connections.keys().copied().filter(of_server).collect();
        for id in ids {
            if is_frozen {
                self.connections.entry(id).and_modify(|connection| connection.pipe.stall(true));
            } else {
                let at = Instant::now() + self.micros(5_000);
                self.send_at(at, Travelling::Thawed(id));
            }
        }
    }

    fn thaw(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if !self.servers[connection.server].is_frozen {
            connection.pipe.stall(false);
            self.parse(id);
        }
    }

    /// Stops a server, or starts it again.
    pub(crate) fn set_up(&mut self, server: usize, is_up: bool) {
        self.servers[server].is_up = is_up;
        if !is_up {
            let of_server = |id: &ConnectionId| self.connections[id].server == server;
            let ids: Vec<ConnectionId> = self.connections.keys().copied().filter(of_server).collect();
            ids.into_iter().for_each(|id| self.close(id));
            if self.is_cluster() && self.leader == Some(server) {
                self.elect(false);
            }
        } else if self.is_cluster() {
            self.tell_all_interest();
        } else {
            self.store_waiting();
        }
    }

    /// Cuts a route, or mends it.
    pub(crate) fn set_cut(&mut self, one: usize, other: usize, is_cut: bool) {
        if is_cut {
            self.cuts.insert((one.min(other), one.max(other)));
            return;
        }
        self.cuts.remove(&(one.min(other), one.max(other)));
        self.tell_all_interest();
    }

    fn tell_all_interest(&mut self) {
        let all: Vec<(usize, ConnectionId, u64)> = self
            .connections
            .iter()
            .flat_map(|(id, connection)| {
                connection.subscriptions.keys().map(move |number| (connection.server, *id, *number))
            })
            .collect();
        all.into_iter().for_each(|(server, id, number)| self.tell_interest(server, id, number));
    }

    /// The stream gets another leader.
    pub(crate) fn elect(&mut self, is_stale: bool) {
        let Some(former) = self.leader.filter(|_| self.is_cluster()) else { return };
        self.term += 1;
        self.leader = None;
        let now = Instant::now();
        if is_stale {
            let until = now + Duration::from_millis(self.rng.random_range(100..4_000));
            self.stale = Some(Stale { server: former, until, stream: self.stream.clone() });
        }
        if self.rng.random_ratio(1, 6) {
            self.forgetful_until = now + Duration::from_millis(self.rng.random_range(100..5_000));
        }
        let ready: Vec<usize> = (0..self.servers.len())
            .filter(|server| *server != former && self.servers[*server].is_up)
            .collect();
        let Some(leader) = (!ready.is_empty()).then(|| ready[self.rng.random_range(0..ready.len())]) else {
            return;
        };
        let at = now + Duration::from_millis(self.rng.random_range(1..2_000));
        self.send_at(at, Travelling::Elected { term: self.term, leader });
    }

    /// Everything works again.
    pub(crate) fn heal(&mut self) {
        self.cuts.clear();
        self.refused.clear();
        self.max_subscriptions = usize::MAX;
        self.is_full = false;
        self.answer_delay = Duration::ZERO;
        self.stale = None;
        self.forgetful_until = Instant::now();
        for server in &mut self.servers {
            server.is_up = true;
            server.is_frozen = false;
        }
        if self.leader.is_none() {
            self.term += 1;
            self.lead(0);
        }
        let now = Instant::now();
        if self.no_store_until > now {
            self.no_store_until = now + ASKED_AGAIN;
        }
        for connection in self.connections.values_mut() {
            connection.pipe.stall(false);
        }
        self.parse_all();
        if self.is_cluster() {
            self.tell_all_interest();
        }
        if let Some(stream) = &self.stream {
            let last = stream.last;
            self.servers.iter_mut().for_each(|server| server.applied = last);
        }
        self.store_waiting();
    }

    /// The stream loses its newest messages in a power loss.
    pub(crate) fn lose(&mut self, count: usize) -> Vec<Stored> {
        self.disconnect(None);
        // All servers have lost it.
        self.stale = None;
        // What is stored before an edge has asked is at positions that it takes for known: see docs/guarantees.md.
        self.no_store_until = Instant::now() + ASKED_AGAIN;
        let Some(stream) = &mut self.stream else { return Vec::new() };
        let lost = stream.lose(count);
        let last = stream.last;
        self.term += 1;
        self.servers.iter_mut().for_each(|server| server.applied = last);
        lost
    }

    /// Deletes the stream.
    pub(crate) fn delete(&mut self) {
        self.servers.iter_mut().for_each(|server| server.applied = 0);
        self.stream = None;
    }

    /// Makes a stream, if there is none.
    pub(crate) fn create(&mut self, config: Value) {
        let now = self.now();
        if self.stream.is_none() {
            self.stream = Some(Stream::new(config, now));
        }
        self.store_waiting();
    }

    /// The server's clock goes on from another time.
    pub(crate) fn jump(&mut self, by: Duration) {
        self.clock += by;
    }
}

fn not_found() -> Value {
    json!({ "error": { "code": 404, "err_code": 10059, "description": "stream not found" } })
}
