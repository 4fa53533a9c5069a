//! A reconnect storm: thousands of sessions lose their edge at once and resume on another one, while events flow.
//!
//! Reported only: the time until all sessions are back and until all have caught up, and the CPU time that took.
//! Asserted: each binding's events arrive in order, without loss or duplicates.

use std::{
    collections::HashMap,
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use blackhole_dev::server::Server;
use parking_lot::Mutex;
use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    accounts::{Account, AccountPair},
    events, eventually_within,
    lean::{LeanClient, TextFrame},
    stack::Stack,
};

/// Number of accounts. Sessions are spread evenly over them.
const ACCOUNTS: usize = 100;
/// Time between two events. The accounts take turns.
const EVENT_INTERVAL: Duration = Duration::from_millis(5);
/// Maximum backoff of a reconnecting client, with full jitter.
const MAX_BACKOFF: Duration = Duration::from_millis(500);
/// Enough for each phase on the slowest machine.
const PHASE_TIMEOUT: Duration = Duration::from_secs(300);
/// The unit of CPU time in `/proc` (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// What a storm took.
#[derive(Debug)]
pub struct Report {
    sessions: usize,
    back: Duration,
    caught_up: Duration,
    /// CPU seconds by process.
    cpu: Vec<(&'static str, f64)>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { sessions, back, caught_up, cpu } = self;
        write!(
            f,
            "{sessions} sessions: all reconnected after {back:.1?}, all caught up after {caught_up:.1?}; CPU seconds:"
        )?;
        cpu.iter().try_for_each(|(name, seconds)| write!(f, " {name} {seconds:.1}"))
    }
}

struct Storm {
    accounts: Vec<Account>,
    ports: [u16; 2],
    /// Index of the edge that clients connect to.
    current: AtomicUsize,
    /// Events sent so far, by account.
    sent: Vec<AtomicU64>,
    stopping: AtomicBool,
    /// Sessions that are subscribed on the current edge.
    back: AtomicUsize,
}

/// The numbers that a session received, by binding.
type Received = HashMap<String, Vec<u64>>;

struct Session {
    number: usize,
    cursor: Mutex<Option<String>>,
    received: Mutex<Received>,
}

/// Runs a storm of this many sessions, with three bindings each.
pub async fn run(sessions: usize) -> Report {
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    // All sessions come from one address.
    let settings = [
        ("WS__ACCEPT_PER_SECOND", "100000"),
        ("WS__MAX_CONNECTIONS_PER_IP", "0"),
        ("WS__MAX_TOKENLESS_PER_IP", "0"),
        ("LOG__FILTER", "info"),
    ];
    let stack = Stack::start_with("storm", &settings).await;
    let other = stack.another_edge("edge-2", &settings).await;
    let families = (0..ACCOUNTS / 2).map(|_| AccountPair::fresh());
    let storm = Arc::new(Storm {
        accounts: families.flat_map(|family| [family.parent, family.child]).collect(),
        ports: [stack.edge.port, other.port],
        current: AtomicUsize::new(0),
        sent: (0..ACCOUNTS).map(|_| AtomicU64::new(0)).collect(),
        stopping: AtomicBool::new(false),
        back: AtomicUsize::new(0),
    });
    let all: Vec<Arc<Session>> = (0..sessions)
        .map(|number| Arc::new(Session { number, cursor: Mutex::default(), received: Mutex::default() }))
        .collect();
    let mut running = JoinSet::new();
    for session in &all {
        let (storm, session) = (Arc::clone(&storm), Arc::clone(session));
        running.spawn(async move { session.run(&storm).await });
    }
    let has = |what: fn(&Storm, &Session) -> bool| all.iter().all(|session| what(&storm, session));
    eventually_within("all subscriptions", PHASE_TIMEOUT, || storm.back.load(Ordering::Relaxed) == sessions)
        .await;
    let publisher = stack.publisher().await;
    let sending = {
        let storm = Arc::clone(&storm);
        tokio::spawn(async move { storm.send(&publisher, sessions).await })
    };
    eventually_within("a cursor for each session", PHASE_TIMEOUT, || {
        has(|_, session| session.cursor.lock().is_some())
    })
    .await;

    let servers = [
        ("edge", other.service.server()),
        ("nats-server", stack.nats.server()),
        ("auth-svc", stack.auth_svc.server()),
    ];
    let before = servers.map(|(_, server)| cpu_seconds(server));
    storm.current.store(1, Ordering::Relaxed);
    storm.back.store(0, Ordering::Relaxed);
    let began = Instant::now();
    stack.edge.service.server().kill().await.unwrap();
    eventually_within("the return of all sessions", PHASE_TIMEOUT, || {
        storm.back.load(Ordering::Relaxed) == sessions
    })
    .await;
    let back = began.elapsed();
    let sent: Vec<u64> = storm.sent.iter().map(|sent| sent.load(Ordering::Relaxed)).collect();
    let is_up_to_date = |session: &Arc<Session>| session.newest() >= sent[session.number % ACCOUNTS];
    eventually_within("the missed events", PHASE_TIMEOUT, || all.iter().all(is_up_to_date)).await;
    let caught_up = began.elapsed();
    let cpu =
        servers.iter().zip(before).map(|((name, server), before)| (*name, cpu_seconds(server) - before));
    let cpu = cpu.collect();

    storm.stopping.store(true, Ordering::Relaxed);
    sending.await.unwrap();
    let is_done = |storm: &Storm, session: &Session| {
        session.newest() == storm.sent[session.number % ACCOUNTS].load(Ordering::Relaxed)
    };
    eventually_within("the last events", PHASE_TIMEOUT, || has(is_done)).await;
    let own: usize = all.iter().map(|session| session.check(&storm, sessions)).sum();
    assert!(own > 0, "no session received an event on the binding of its own call");
    Report { sessions, back, caught_up, cpu }
}

impl Storm {
    /// Events are numbered from 1 in each account. Each belongs to the call of one of the account's sessions.
    async fn send(&self, publisher: &blackhole_dev::simulator::Publisher, sessions: usize) {
        for turn in 0_usize.. {
            if self.stopping.load(Ordering::Relaxed) {
                return;
            }
            let account = turn % ACCOUNTS;
            let number = self.sent[account].load(Ordering::Relaxed) + 1;
            let call = call_of(account, number, sessions);
            let mut event = events::call(&self.accounts[account], "CHANNEL_CREATE", &call);
            event.body["Number"] = number.into();
            event.publish(publisher).await;
            self.sent[account].store(number, Ordering::Relaxed);
            tokio::time::sleep(EVENT_INTERVAL).await;
        }
    }
}

fn call_of(account: usize, number: u64, sessions: usize) -> String {
    let of_account = sessions.div_ceil(ACCOUNTS).max(1);
    format!("s{}", account + ACCOUNTS * (usize::try_from(number).unwrap() % of_account))
}

impl Session {
    fn bindings(&self) -> [String; 3] {
        ["call.CHANNEL_CREATE.*".into(), format!("call.*.s{}", self.number), "fax.status.*".into()]
    }

    /// The number of the last event that it has received.
    fn newest(&self) -> u64 {
        let received = self.received.lock();
        received.get("call.CHANNEL_CREATE.*").and_then(|numbers| numbers.last().copied()).unwrap_or_default()
    }

    async fn run(&self, storm: &Storm) {
        loop {
            // Ends when the edge dies or does not run yet.
            let _ = self.connect_once(storm).await;
            tokio::time::sleep(MAX_BACKOFF.mul_f64(rand::random())).await;
        }
    }

    async fn connect_once(&self, storm: &Storm) -> io::Result<()> {
        let edge = storm.current.load(Ordering::Relaxed);
        let mut client = LeanClient::connect(storm.ports[edge], "view=args", None).await?;
        let account = &storm.accounts[self.number % ACCOUNTS];
        let mut data = json!({ "account_id": account.id, "bindings": self.bindings() });
        let since = self.cursor.lock().clone();
        if let Some(cursor) = &since {
            data["since"] = json!(cursor);
        }
        let request = json!({ "action": "subscribe", "auth_token": account.token(), "data": data });
        client.send(&request.to_string()).await?;
        loop {
            let frame = client.next().await?;
            match frame.action.as_str() {
                "reply" => {
                    if !frame.is_success() {
                        return Err(io::Error::other(frame.data().to_owned()));
                    }
                    let is_recovered = since.is_none() || frame.data().contains(r#""recovered":true"#);
                    assert!(is_recovered, "session {}: {}", self.number, frame.data());
                    if storm.current.load(Ordering::Relaxed) == edge {
                        storm.back.fetch_add(1, Ordering::Relaxed);
                    }
                }
                _ => self.take(frame),
            }
        }
    }

    fn take(&self, frame: TextFrame) {
        let (Some(binding), Some(body)) = (frame.subscribed_key, frame.args) else { return };
        self.received.lock().entry(binding).or_default().push(body.number);
        *self.cursor.lock() = frame.cursor;
    }

    /// Asserts that each binding received its events, once and in order. Returns the number of events on the binding of
    /// the session's own call.
    fn check(&self, storm: &Storm, sessions: usize) -> usize {
        let account = self.number % ACCOUNTS;
        let last = storm.sent[account].load(Ordering::Relaxed);
        let received = self.received.lock();
        let own = format!("s{}", self.number);
        let [all, mine, _] = self.bindings();
        let none = Vec::new();
        let of = |binding: &str| received.get(binding).unwrap_or(&none).clone();
        assert_eq!(of(&all), (1..=last).collect::<Vec<_>>(), "session {}: {all}", self.number);
        let expected: Vec<u64> =
            (1..=last).filter(|number| call_of(account, *number, sessions) == own).collect();
        assert_eq!(of(&mine), expected, "session {}: {mine}", self.number);
        expected.len()
    }
}

/// CPU seconds that a process has used, all threads together (`proc_pid_stat(5)`: utime and stime).
fn cpu_seconds(server: &Server) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.process().unwrap().id())).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks = fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<f64>().unwrap());
    ticks.sum::<f64>() / TICKS_PER_SECOND
}
