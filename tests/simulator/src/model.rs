//! The judge: it knows what was published, and who may see it. It knows nothing of positions, streams and brokers.

pub(crate) mod client;
mod frames;
pub(crate) mod queue;
pub(crate) mod thread;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;

use self::{client::Client, queue::Queue};
use crate::{nats::stream::Stored, plan::ACCOUNTS};

/// An event, in the order in which the stream has stored them.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) account: usize,
    pub(crate) key: String,
    pub(crate) at: SystemTime,
    /// NATS has lost it with its disk.
    pub(crate) is_lost: bool,
}

/// What was published, what the clients did and got, and the first promise that was broken.
#[derive(Debug, Default)]
pub(crate) struct Model {
    /// The event with number `n` is at index `n - 1`.
    pub(crate) events: Vec<Published>,
    /// How many there were before the present stream.
    stream_begins: usize,
    /// The number of the event that was published with this id.
    numbers: BTreeMap<u64, u64>,
    /// What RabbitMQ has; nothing if there is no ingest.
    pub(crate) queue: Queue,
    pub(crate) has_ingest: bool,
    /// The stream may store messages in another order than the queue had.
    pub(crate) may_reorder: bool,
    pub(crate) clients: Vec<Client>,
    /// Something has left the stream, or the stream was replaced: clients may be told that something is missing.
    pub(crate) may_miss: bool,
    /// Subscriptions were refused.
    pub(crate) may_refuse: bool,
    /// The stream had another leader: an event may come after later ones, or close a session that has no room for it.
    pub(crate) may_be_late: bool,
    /// The stream was replaced: events of that moment may come twice.
    pub(crate) may_double: bool,
    /// Events have left the stream other than by age or for space, of which those who ask for a time are not told.
    pub(crate) was_cut_short: bool,
    /// The server's clock has jumped: times mean nothing.
    pub(crate) has_jumped: bool,
    pub(crate) jumped: Duration,
    /// How often the stream has lost its newest events.
    pub(crate) losses: u64,
    /// Everything works again: no request may fail.
    pub(crate) is_well: bool,
    pub(crate) violation: Option<String>,
    /// Logs what happens.
    is_shown: bool,
    pub(crate) counts: Counts,
    began: Option<tokio::time::Instant>,
}

/// How much has happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Events that were stored.
    pub events: u64,
    /// Frames of events that clients got.
    pub frames: u64,
    /// Sessions.
    pub sessions: u64,
    /// Subscriptions with `since` that were recovered,
    pub recovered: u64,
    /// and those that were not.
    pub unrecovered: u64,
    /// Requests that were answered with an error.
    pub errors: u64,
    /// Sessions that were closed with 4008.
    pub behind: u64,
    /// A digest of everything that clients got, in order.
    pub digest: u64,
}

/// The account of an event that has none: nobody's.
const NOBODY: usize = ACCOUNTS;

/// The model, shared.
pub(crate) type Shared = Arc<Mutex<Model>>;

impl Model {
    pub(crate) fn new(is_shown: bool) -> Model {
        Model { is_shown, began: Some(tokio::time::Instant::now()), ..Model::default() }
    }

    /// The server's time.
    pub(crate) fn server_now(&self) -> SystemTime {
        let passed = self.began.map(|began| began.elapsed()).unwrap_or_default();
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600) + self.jumped + passed
    }

    /// How many events there are.
    pub(crate) fn count(&self) -> u64 {
        self.events.len() as u64
    }

    /// The stream stores a message. `is_there` tells whether it has a copy.
    pub(crate) fn stored(&mut self, message: &Stored, is_there: impl FnOnce(u64) -> bool) {
        let body: serde_json::Value = serde_json::from_slice(&message.payload).unwrap_or_default();
        let id = body["Msg-ID"].as_str().and_then(|id| id.parse().ok()).unwrap_or_default();
        let mut words = message.subject.splitn(5, '.').skip(3);
        let account = words.next().and_then(|word| usize::from_str_radix(word, 16).ok()).unwrap_or(NOBODY);
        let key = words.next().unwrap_or_default().to_owned();
        let number = self.count() + 1;
        self.say(|| format!("event {number} is stored: account {account}, {key}{}", named(&message.headers)));
        let former = self.numbers.insert(id, number);
        if self.has_ingest {
            if let Some(text) = self.queue.stored(id, self.may_reorder, || is_there(id)) {
                self.blame(text);
            }
            // The stream had lost it, or no longer has it. The last account has equal events, and no clients.
            if let Some(former) = former {
                self.events[former as usize - 1].is_lost = true;
                self.may_double |= account + 1 < ACCOUNTS;
            }
        } else if former.is_some() {
            self.blame(format!("event with id {id} is stored twice"));
        }
        self.events.push(Published { account, key, at: message.at, is_lost: false });
        self.counts.events += 1;
    }

    /// The stream has lost a message.
    pub(crate) fn lost(&mut self, message: &Stored) {
        let body: serde_json::Value = serde_json::from_slice(&message.payload).unwrap_or_default();
        let id = body["Msg-ID"].as_str().and_then(|id| id.parse::<u64>().ok()).unwrap_or_default();
        if let Some(number) = self.numbers.get(&id).copied() {
            self.say(|| format!("event {number} is lost"));
            self.events[number as usize - 1].is_lost = true;
        }
        self.queue.lost(id);
    }

    /// The stream was deleted. What it had stored counts as lost, also what it had dropped already: an edge that was
    /// behind cannot ask for it.
    pub(crate) fn deleted(&mut self) {
        let from = std::mem::replace(&mut self.stream_begins, self.events.len());
        let gone = self.events.iter_mut().skip(from);
        gone.for_each(|event| event.is_lost = true);
        self.queue.deleted();
    }

    /// The number of the event with this id.
    pub(crate) fn number(&self, id: u64) -> Option<u64> {
        self.numbers.get(&id).copied()
    }

    /// Notes what happens.
    pub(crate) fn say(&mut self, text: impl FnOnce() -> String) {
        if self.is_shown {
            tracing::debug!("{}", text());
        }
    }

    /// A promise is broken. The first counts.
    pub(crate) fn blame(&mut self, text: String) {
        self.say(|| format!("BROKEN: {text}"));
        self.violation.get_or_insert(text);
    }

    fn digest(&mut self, what: u64) {
        self.counts.digest = (self.counts.digest ^ what).wrapping_mul(0x0100_0000_01b3).rotate_left(7);
    }

    /// All is well, and everything was published some time ago: checks that nobody waits.
    pub(crate) fn check_end(&mut self) {
        let mut missing = Vec::new();
        missing
            .extend(self.queue.first_waiting().map(|id| format!("the message with id {id} is never stored")));
        for (index, client) in self.clients.iter().enumerate() {
            if client.session.is_none() {
                missing.push(format!("client {index} has no session at the end"));
                continue;
            }
            if let Some(request) = client.pending.front() {
                missing.push(format!("client {index} waits for the answer to {request:?}"));
            }
            for (binding, thread) in &client.threads {
                if let Some(number) = thread.first_missing(&self.events, client.account, binding, u64::MAX) {
                    missing.push(format!("client {index} never got event {number} for {binding}"));
                }
            }
        }
        if let Some(first) = missing.into_iter().next() {
            self.blame(first);
        }
    }
}

impl Counts {
    /// Adds those of another run.
    pub(crate) fn add(&mut self, other: &Counts) {
        self.events += other.events;
        self.frames += other.frames;
        self.sessions += other.sessions;
        self.recovered += other.recovered;
        self.unrecovered += other.unrecovered;
        self.errors += other.errors;
        self.behind += other.behind;
        self.digest = self.digest.wrapping_add(other.digest);
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Counts { events, frames, sessions, recovered, unrecovered, errors, behind, .. } = self;
        write!(
            f,
            "{events} events, {frames} frames, {sessions} sessions, {recovered} resumed, {unrecovered} not recovered, \
             {errors} errors, {behind} closed with 4008"
        )
    }
}

/// The id in the headers, as it is told; nothing if there is none.
fn named(headers: &[u8]) -> String {
    let headers = String::from_utf8_lossy(headers);
    let id = headers.lines().find_map(|line| line.strip_prefix("Nats-Msg-Id: "));
    id.map(|id| format!(", id {id}")).unwrap_or_default()
}
