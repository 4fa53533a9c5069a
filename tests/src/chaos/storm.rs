//! A storm: thousands of sessions lose their edge at once and resume on another one, while events go on.
//!
//! Reported, and not judged: the time until all are back and until all have what they missed, and what that cost in CPU
//! time. Judged: nothing is lost, nothing comes twice, each binding's events are in order.

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
    accounts::{Account, Family},
    events,
    lean::{LeanClient, TextFrame},
    soon_enough,
    stack::Stack,
};

/// Accounts, with as many sessions each.
const ACCOUNTS: usize = 100;
/// Between two events, of one account after the other.
const EVERY: Duration = Duration::from_millis(5);
/// The waits of clients that come back: full jitter up to this.
const AGAIN_WITHIN: Duration = Duration::from_millis(500);
/// The storm is over within this, on the slowest machine.
const OVER_WITHIN: Duration = Duration::from_secs(300);
/// As the system counts CPU time (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// What a storm cost.
#[derive(Debug)]
pub struct Report {
    sessions: usize,
    back: Duration,
    caught_up: Duration,
    /// By process, in seconds.
    cpu: Vec<(&'static str, f64)>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { sessions, back, caught_up, cpu } = self;
        write!(
            f,
            "{sessions} sessions: all back after {back:.1?}, all up to date after {caught_up:.1?}; CPU seconds:"
        )?;
        cpu.iter().try_for_each(|(name, seconds)| write!(f, " {name} {seconds:.1}"))
    }
}

struct Storm {
    accounts: Vec<Account>,
    ports: [u16; 2],
    /// The edge that clients go to.
    at: AtomicUsize,
    /// Events of each account so far.
    sent: Vec<AtomicU64>,
    stopping: AtomicBool,
    back: AtomicUsize,
}

/// What came to a session: the numbers by binding.
type Came = HashMap<String, Vec<u64>>;

struct Session {
    number: usize,
    cursor: Mutex<Option<String>>,
    came: Mutex<Came>,
}

/// Makes a storm of so many sessions, with three bindings each.
pub async fn run(sessions: usize) -> Report {
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let settings = [("WS__ACCEPT_PER_SECOND", "100000"), ("LOG__FILTER", "info")];
    let stack = Stack::start_with("storm", &settings).await;
    let other = stack.another_edge("edge-2", &settings).await;
    let families = (0..ACCOUNTS / 2).map(|_| Family::fresh());
    let storm = Arc::new(Storm {
        accounts: families.flat_map(|family| [family.parent, family.child]).collect(),
        ports: [stack.edge.port, other.port],
        at: AtomicUsize::new(0),
        sent: (0..ACCOUNTS).map(|_| AtomicU64::new(0)).collect(),
        stopping: AtomicBool::new(false),
        back: AtomicUsize::new(0),
    });
    let all: Vec<Arc<Session>> = (0..sessions)
        .map(|number| Arc::new(Session { number, cursor: Mutex::default(), came: Mutex::default() }))
        .collect();
    let mut running = JoinSet::new();
    for session in &all {
        let (storm, session) = (Arc::clone(&storm), Arc::clone(session));
        running.spawn(async move { session.live(&storm).await });
    }
    let has = |what: fn(&Storm, &Session) -> bool| all.iter().all(|session| what(&storm, session));
    soon_enough("all subscriptions", OVER_WITHIN, || storm.back.load(Ordering::Relaxed) == sessions).await;
    let publisher = stack.publisher().await;
    let sending = {
        let storm = Arc::clone(&storm);
        tokio::spawn(async move { storm.send(&publisher, sessions).await })
    };
    soon_enough("a cursor for each", OVER_WITHIN, || has(|_, session| session.cursor.lock().is_some())).await;

    let servers = [
        ("edge", other.service.server()),
        ("nats-server", stack.nats.server()),
        ("auth-svc", stack.auth_svc.server()),
    ];
    let before = servers.map(|(_, server)| cpu_seconds(server));
    storm.at.store(1, Ordering::Relaxed);
    storm.back.store(0, Ordering::Relaxed);
    let began = Instant::now();
    stack.edge.service.server().kill().await.unwrap();
    soon_enough("the return of all", OVER_WITHIN, || storm.back.load(Ordering::Relaxed) == sessions).await;
    let back = began.elapsed();
    let sent: Vec<u64> = storm.sent.iter().map(|sent| sent.load(Ordering::Relaxed)).collect();
    let is_up_to_date = |session: &Arc<Session>| session.newest() >= sent[session.number % ACCOUNTS];
    soon_enough("what was missed", OVER_WITHIN, || all.iter().all(is_up_to_date)).await;
    let caught_up = began.elapsed();
    let cpu =
        servers.iter().zip(before).map(|((name, server), before)| (*name, cpu_seconds(server) - before));
    let cpu = cpu.collect();

    storm.stopping.store(true, Ordering::Relaxed);
    sending.await.unwrap();
    let is_done = |storm: &Storm, session: &Session| {
        session.newest() == storm.sent[session.number % ACCOUNTS].load(Ordering::Relaxed)
    };
    soon_enough("the last events", OVER_WITHIN, || has(is_done)).await;
    let own: usize = all.iter().map(|session| session.judge(&storm, sessions)).sum();
    assert!(own > 0, "no session had an event on the binding of its own call");
    Report { sessions, back, caught_up, cpu }
}

impl Storm {
    /// Numbers count from 1 in each account; the call is that of one of the account's sessions.
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
            tokio::time::sleep(EVERY).await;
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

    /// The number of the newest event of its account.
    fn newest(&self) -> u64 {
        let came = self.came.lock();
        came.get("call.CHANNEL_CREATE.*").and_then(|numbers| numbers.last().copied()).unwrap_or_default()
    }

    async fn live(&self, storm: &Storm) {
        loop {
            // The edge dies, or is not there yet.
            let _ = self.visit(storm).await;
            tokio::time::sleep(AGAIN_WITHIN.mul_f64(rand::random())).await;
        }
    }

    async fn visit(&self, storm: &Storm) -> io::Result<()> {
        let at = storm.at.load(Ordering::Relaxed);
        let mut lean = LeanClient::connect(storm.ports[at], "view=args", None).await?;
        let account = &storm.accounts[self.number % ACCOUNTS];
        let mut data = json!({ "account_id": account.id, "bindings": self.bindings() });
        let since = self.cursor.lock().clone();
        if let Some(cursor) = &since {
            data["since"] = json!(cursor);
        }
        let request = json!({ "action": "subscribe", "auth_token": account.token(), "data": data });
        lean.send(&request.to_string()).await?;
        loop {
            let frame = lean.next().await?;
            match frame.action.as_str() {
                "reply" => {
                    if !frame.is_success() {
                        return Err(io::Error::other(frame.data().to_owned()));
                    }
                    let is_whole = since.is_none() || frame.data().contains(r#""recovered":true"#);
                    assert!(is_whole, "session {}: {}", self.number, frame.data());
                    if storm.at.load(Ordering::Relaxed) == at {
                        storm.back.fetch_add(1, Ordering::Relaxed);
                    }
                }
                _ => self.take(frame),
            }
        }
    }

    fn take(&self, frame: TextFrame) {
        let (Some(binding), Some(body)) = (frame.subscribed_key, frame.args) else { return };
        self.came.lock().entry(binding).or_default().push(body.number);
        *self.cursor.lock() = frame.cursor;
    }

    /// Panics unless each binding brought its events, once and in order. Returns how many the binding of the session's
    /// own call brought.
    fn judge(&self, storm: &Storm, sessions: usize) -> usize {
        let account = self.number % ACCOUNTS;
        let last = storm.sent[account].load(Ordering::Relaxed);
        let came = self.came.lock();
        let own = format!("s{}", self.number);
        let [every, mine, _] = self.bindings();
        let none = Vec::new();
        let of = |binding: &str| came.get(binding).unwrap_or(&none).clone();
        assert_eq!(of(&every), (1..=last).collect::<Vec<_>>(), "session {}: {every}", self.number);
        let expected: Vec<u64> =
            (1..=last).filter(|number| call_of(account, *number, sessions) == own).collect();
        assert_eq!(of(&mine), expected, "session {}: {mine}", self.number);
        expected.len()
    }
}

/// What a process has used so far, all its threads together (`proc_pid_stat(5)`: utime and stime).
fn cpu_seconds(server: &Server) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.process().unwrap().id())).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks = fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<f64>().unwrap());
    ticks.sum::<f64>() / TICKS_PER_SECOND
}
