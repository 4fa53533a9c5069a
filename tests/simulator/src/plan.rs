//! What is to happen in a run: a list of actions with their times, which follows from the seed. A shorter list is a run
//! too, so a failure can be shortened.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Accounts; the last one has no clients.
pub(crate) const ACCOUNTS: usize = 3;
const EVENTS: [&str; 3] = ["CHANNEL_CREATE", "CHANNEL_ANSWER", "CHANNEL_DESTROY"];
const CALLS: u32 = 3;
/// The call whose first events may name no account, but a number.
pub(crate) const INBOUND_CALL: &str = ".c0";
/// Kinds of faults after which nobody can tell equal events apart: a stream that has lost events, a broker that has forgotten
/// the checkpoint, and one that takes none because it is short of space.
const BLUR_EQUAL: [u32; 5] = [3, 5, 6, 16, 17];

/// What a run consists of.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) servers: usize,
    pub(crate) edges: usize,
    /// How many ingests there are; without any, events are stored as a perfect one would.
    pub(crate) ingests: usize,
    /// Some events name a dialled number instead of an account.
    pub(crate) has_inbound: bool,
    /// How many messages an ingest may have in flight.
    pub(crate) prefetch: u16,
    /// How many bytes RabbitMQ's queue keeps.
    pub(crate) queue_bytes: usize,
    pub(crate) clients: usize,
    /// In seconds.
    pub(crate) max_age: u64,
    pub(crate) max_bytes: u64,
    /// The stream is there before the edges.
    pub(crate) has_stream: bool,
    pub(crate) actions: Vec<(Duration, Action)>,
}

/// Something that happens.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Publish {
        account: usize,
        key: String,
        size: usize,
        count: usize,
    },
    /// What was published last for the last account is published again.
    Repeat {
        count: usize,
    },
    Connect {
        client: usize,
        edge: usize,
        is_fresh: bool,
    },
    Leave {
        client: usize,
    },
    Subscribe {
        client: usize,
        bindings: Vec<String>,
        since: Wanted,
    },
    Unsubscribe {
        client: usize,
        binding: String,
    },
    Ping {
        client: usize,
    },
    Read {
        client: usize,
        is_reading: bool,
    },
    /// The connections to NATS of an edge or ingest end, or let nothing through.
    Disconnect {
        owner: usize,
    },
    Stall {
        owner: usize,
        is_stalled: bool,
    },
    StopEdge {
        edge: usize,
    },
    StartEdge {
        edge: usize,
    },
    StopIngest {
        ingest: usize,
    },
    StartIngest {
        ingest: usize,
    },
    FreezeIngest {
        ingest: usize,
        is_frozen: bool,
    },
    /// An ingest's connections to RabbitMQ end, or let nothing through.
    DisconnectBroker {
        ingest: usize,
    },
    StallBroker {
        ingest: usize,
        is_stalled: bool,
    },
    RabbitMq {
        is_up: bool,
    },
    /// RabbitMQ is short of space.
    Alarm {
        is_on: bool,
    },
    Purge {
        keep: usize,
    },
    Delete,
    Create,
    Lose {
        count: usize,
    },
    Jump {
        seconds: u64,
    },
    Server {
        server: usize,
        is_up: bool,
    },
    /// A server's process stands still.
    FreezeServer {
        server: usize,
        is_frozen: bool,
    },
    Cut {
        one: usize,
        other: usize,
        is_cut: bool,
    },
    Elect {
        is_stale: bool,
    },
    SlowAnswers {
        millis: u64,
    },
    Refuse {
        account: usize,
        binding: String,
    },
    MaxSubscriptions {
        count: usize,
    },
    Full {
        is_full: bool,
    },
}

/// From where on a client wants events.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wanted {
    Now,
    /// From an earlier cursor on: this share of those that it has.
    Earlier(f64),
    Ago(u64),
}

/// The subject of an account's events for a binding `call.…`.
pub(crate) fn subject(root: &str, account: usize, words: &str) -> String {
    format!("{root}.{account:032x}.{words}")
}

impl Plan {
    /// The plan of a seed.
    pub(crate) fn new(seed: u64) -> Plan {
        let mut rng = StdRng::seed_from_u64(seed);
        let rng = &mut rng;
        let servers = if rng.random_ratio(1, 3) { 3 } else { 1 };
        let edges = rng.random_range(1..=2);
        let clients = rng.random_range(1..=4);
        let ingests = [0, 0, 1, 2][rng.random_range(0..4)];
        let mut plan = Plan {
            seed,
            servers,
            edges,
            ingests,
            // Not drawn from the generator of the rest: plans stay as they were.
            has_inbound: ingests > 0 && StdRng::seed_from_u64(seed ^ 0x1b0d).random_ratio(1, 3),
            prefetch: if rng.random() { rng.random_range(1..50) } else { 1000 },
            queue_bytes: if rng.random_ratio(1, 8) { rng.random_range(500..20_000) } else { usize::MAX },
            clients,
            max_age: if rng.random_ratio(1, 4) { rng.random_range(2..20) } else { 600 },
            max_bytes: if rng.random_ratio(1, 6) { rng.random_range(2_000..20_000) } else { 1 << 30 },
            has_stream: !rng.random_ratio(1, 8),
            actions: Vec::new(),
        };
        let length = rng.random_range(3..30);
        // A run has some kinds of faults, and none of the others.
        let kinds: Vec<u32> = (0..rng.random_range(0..4))
            .map(|_| rng.random_range(0..if ingests > 0 { 19 } else { 12 }))
            .collect();
        let count = rng.random_range(20..120);
        let has_repetitions =
            ingests > 0 && plan.is_roomy() && !kinds.iter().any(|kind| BLUR_EQUAL.contains(kind));
        if rng.random_ratio(1, 10) {
            for edge in 0..edges {
                plan.add(0, Action::StopEdge { edge });
                plan.add(rng.random_range(0..length * 1000), Action::StartEdge { edge });
            }
        }
        for client in 0..clients {
            let is_fresh = true;
            plan.add(
                rng.random_range(0..500),
                Action::Connect { client, edge: rng.random_range(0..edges), is_fresh },
            );
            let bindings = bindings(rng);
            plan.add(rng.random_range(500..1500), Action::Subscribe { client, bindings, since: Wanted::Now });
        }
        for _ in 0..count {
            let at = rng.random_range(0..length * 1000);
            if has_repetitions && rng.random_ratio(1, 10) {
                plan.add(at, Action::Repeat { count: rng.random_range(1..4) });
            } else if rng.random_ratio(2, 3) {
                let action = publish(rng, ingests > 0);
                plan.add(at, action);
            } else if kinds.is_empty() || rng.random_ratio(2, 3) {
                plan.client(rng, at);
            } else {
                let kind = kinds[rng.random_range(0..kinds.len())];
                plan.fault(rng, at, kind);
            }
        }
        plan.actions.sort_by_key(|(at, _)| *at);
        plan
    }

    /// An edge of a cluster that could not ask for the stream before it was deleted takes what it holds for events of the
    /// next one: see `docs/guarantees.md`.
    fn is_deletion_blurred(&self) -> bool {
        self.ingests > 0 && self.servers > 1
    }

    /// In a cluster positions are not compared, so a copy that a server holds back is stored again when the stream has
    /// forgotten its id: see `docs/guarantees.md`. A clock that jumps makes it forget.
    fn forgets_ids(&self, with: impl Fn(&Action) -> bool) -> bool {
        self.servers > 1 && self.actions.iter().any(|(_, action)| with(action))
    }

    /// Nothing leaves the stream or the queue for want of room or by age.
    fn is_roomy(&self) -> bool {
        self.max_age >= 600 && self.max_bytes >= 1 << 30 && self.queue_bytes == usize::MAX
    }

    fn add(&mut self, millis: u64, action: Action) {
        self.actions.push((Duration::from_millis(millis), action));
    }

    fn client(&mut self, rng: &mut StdRng, at: u64) {
        let client = rng.random_range(0..self.clients);
        match rng.random_range(0..12) {
            0 | 1 => {
                self.add(at, Action::Leave { client });
                let edge = rng.random_range(0..self.edges);
                let is_fresh = rng.random_ratio(1, 4);
                self.add(at + rng.random_range(0..3000), Action::Connect { client, edge, is_fresh });
            }
            2..=4 => self.add(at, Action::Subscribe { client, bindings: bindings(rng), since: Wanted::Now }),
            5 => {
                let since = Wanted::Earlier(rng.random());
                self.add(at, Action::Subscribe { client, bindings: bindings(rng), since });
            }
            6 => {
                let since = Wanted::Ago(rng.random_range(0..20));
                self.add(at, Action::Subscribe { client, bindings: bindings(rng), since });
            }
            7 | 8 => self.add(at, Action::Unsubscribe { client, binding: binding(rng) }),
            9 => self.add(at, Action::Ping { client }),
            _ => {
                self.add(at, Action::Read { client, is_reading: false });
                self.add(at + rng.random_range(0..5000), Action::Read { client, is_reading: true });
            }
        }
    }

    fn fault(&mut self, rng: &mut StdRng, at: u64, kind: u32) {
        let edge = rng.random_range(0..self.edges);
        let owner = rng.random_range(0..self.edges + self.ingests);
        let ingest = rng.random_range(0..self.ingests.max(1));
        let longest = if rng.random() { 300 } else { [9_000, 30_000][usize::from(kind >= 12)] };
        let later = at + rng.random_range(0..longest);
        match kind {
            0 => self.add(at, Action::Disconnect { owner }),
            1 => {
                self.add(at, Action::Stall { owner, is_stalled: true });
                self.add(later, Action::Stall { owner, is_stalled: false });
            }
            2 => {
                self.add(at, Action::StopEdge { edge });
                self.add(later, Action::StartEdge { edge });
            }
            // Each costs the edges of a cluster 15 s.
            4 if !self.is_deletion_blurred()
                && !self.actions.iter().any(|(_, action)| matches!(action, Action::Delete)) =>
            {
                self.add(at, Action::Delete);
                self.add(later, Action::Create);
            }
            3 | 4 => self.add(at, Action::Purge { keep: rng.random_range(0..5) }),
            5 => self.add(at, Action::Lose { count: rng.random_range(1..6) }),
            6 if !self.forgets_ids(|action| matches!(action, Action::FreezeServer { .. })) => {
                self.add(at, Action::Jump { seconds: rng.random_range(1..1000) });
            }
            7 => {
                let server = rng.random_range(0..self.servers);
                self.add(at, Action::Server { server, is_up: false });
                self.add(later, Action::Server { server, is_up: true });
            }
            8 if self.servers > 1 => {
                let (one, other) = [(0, 1), (0, 2), (1, 2)][rng.random_range(0..3)];
                self.add(at, Action::Cut { one, other, is_cut: true });
                self.add(later, Action::Cut { one, other, is_cut: false });
            }
            6 | 8 | 9 => self.add(at, Action::Elect { is_stale: rng.random() }),
            10 => {
                self.add(at, Action::SlowAnswers { millis: rng.random_range(1..3_000) });
                self.add(later, Action::SlowAnswers { millis: 0 });
            }
            12 => {
                self.add(at, Action::StopIngest { ingest });
                self.add(later, Action::StartIngest { ingest });
            }
            13 => {
                self.add(at, Action::FreezeIngest { ingest, is_frozen: true });
                self.add(later, Action::FreezeIngest { ingest, is_frozen: false });
            }
            14 => self.add(at, Action::DisconnectBroker { ingest }),
            15 => {
                self.add(at, Action::StallBroker { ingest, is_stalled: true });
                self.add(later, Action::StallBroker { ingest, is_stalled: false });
            }
            16 => {
                self.add(at, Action::RabbitMq { is_up: false });
                self.add(later, Action::RabbitMq { is_up: true });
            }
            17 => {
                self.add(at, Action::Alarm { is_on: true });
                self.add(later, Action::Alarm { is_on: false });
            }
            18 if !self.forgets_ids(|action| matches!(action, Action::Jump { .. })) => {
                let server = rng.random_range(0..self.servers);
                let longest = if self.servers > 1 { self.max_age * 900 } else { u64::MAX };
                let later = later.min(at.saturating_add(longest));
                self.add(at, Action::FreezeServer { server, is_frozen: true });
                self.add(later, Action::FreezeServer { server, is_frozen: false });
                if rng.random() {
                    self.add(rng.random_range(at..=later), Action::DisconnectBroker { ingest });
                }
            }
            _ if rng.random() => {
                let account = rng.random_range(0..ACCOUNTS);
                self.add(at, Action::Refuse { account, binding: binding(rng) });
            }
            _ if rng.random() => {
                self.add(at, Action::MaxSubscriptions { count: rng.random_range(1..5) });
                self.add(later, Action::MaxSubscriptions { count: usize::MAX });
            }
            _ => {
                self.add(at, Action::Full { is_full: true });
                self.add(later, Action::Full { is_full: false });
            }
        }
    }
}

fn publish(rng: &mut StdRng, has_ingest: bool) -> Action {
    let account = rng.random_range(0..ACCOUNTS);
    let event = EVENTS[rng.random_range(0..EVENTS.len())];
    let key = format!("call.{event}.c{}", rng.random_range(0..CALLS));
    let size = if rng.random_ratio(1, 8) { 1500 } else { 0 };
    let count = match rng.random_range(0..60) {
        // An ingest takes its time.
        0 => rng.random_range(500..1500) / if has_ingest { 5 } else { 1 },
        1..=10 => rng.random_range(2..20),
        _ => 1,
    };
    let is_burst = count >= 100;
    let account = if is_burst { ACCOUNTS - 1 } else { account };
    Action::Publish { account, key, size: if is_burst { 0 } else { size }, count }
}

fn bindings(rng: &mut StdRng) -> Vec<String> {
    let mut bindings: Vec<String> = (0..rng.random_range(1..4)).map(|_| binding(rng)).collect();
    bindings.sort();
    bindings.dedup();
    bindings
}

fn binding(rng: &mut StdRng) -> String {
    let event = EVENTS[rng.random_range(0..EVENTS.len())];
    let call = rng.random_range(0..CALLS);
    match rng.random_range(0..4) {
        0 => "call.*.*".to_owned(),
        1 => format!("call.{event}.*"),
        2 => format!("call.*.c{call}"),
        _ => format!("call.{event}.c{call}"),
    }
}
