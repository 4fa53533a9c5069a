//! Sixty sessions of an account with next to no events claim, again and again, to stand at the beginning of a long stream.
//! Meanwhile a session of another account resumes ten events.
//!
//! Reported only: how long each resume of ten events took. Asserted: it gets these ten.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt, future::join_all, stream};
use serde_json::{Value, json};

use super::times::Times;
use crate::{accounts::Account, client::Client, events, stack::Stack};

/// Events of accounts that nobody asks for.
const OTHERS: usize = 50_000;
/// Hostile sessions.
const SESSIONS: usize = 60;
/// Bindings of each.
const BINDINGS: usize = 40;
/// Events that the honest session has missed.
const MISSED: usize = 10;
/// Time between two resumes of the honest session.
const INTERVAL: Duration = Duration::from_millis(50);

/// What the hostile sessions did to another.
#[derive(Debug)]
pub struct Report {
    hostile_resumes: u64,
    bytes: f64,
    /// From the request to the last of ten events.
    resumes: Vec<Duration>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { hostile_resumes, bytes, resumes } = self;
        write!(
            f,
            "{SESSIONS} sessions resumed {hostile_resumes} times from the beginning of {OTHERS} events; {:.1} MB \
             were read from the stream; resumes of {MISSED} events of another account {}",
            bytes / 1e6,
            Times(resumes),
        )
    }
}

/// Starves an edge for `time`.
pub async fn run(time: Duration) -> Report {
    let stack = Stack::start_with("starve", &[("LOG__FILTER", "info")]).await;
    let [hostile, other, honest] = [(); 3].map(|()| Account::fresh());
    let old = publish_and_get_cursor(&stack, &hostile).await;
    publish(&stack, &other, OTHERS).await;
    let recent = publish_and_get_cursor(&stack, &honest).await;
    publish(&stack, &honest, MISSED).await;
    publish(&stack, &hostile, 1).await;

    let bindings: Vec<String> = (0..BINDINGS).map(|call| format!("call.*.{call}")).collect();
    let (is_over, hostile_resumes) = (AtomicBool::new(false), AtomicU64::new(0));
    let starve = join_all((0..SESSIONS).map(|_| async {
        while !is_over.load(Ordering::Relaxed) {
            resume(&stack, &hostile, &bindings, &old, 1).await;
            hostile_resumes.fetch_add(1, Ordering::Relaxed);
        }
    }));
    let mut resumes = Vec::new();
    let honest_session = async {
        let began = Instant::now();
        while began.elapsed() < time {
            let asked = Instant::now();
            resume(&stack, &honest, &["call.*.*".to_owned()], &recent, MISSED).await;
            resumes.push(asked.elapsed());
            tokio::time::sleep(INTERVAL).await;
        }
        is_over.store(true, Ordering::Relaxed);
    };
    tokio::join!(starve, honest_session);
    let bytes = Stack::metric(&stack.edge.service, "blackhole_edge_events_caught_up_size_bytes_total").await;
    Report { hostile_resumes: hostile_resumes.into_inner(), bytes, resumes }
}

async fn publish(stack: &Stack, account: &Account, count: usize) {
    let publisher = Arc::new(stack.publisher().await);
    stream::iter(0..count)
        .for_each_concurrent(256, |call_id| {
            let publisher = Arc::clone(&publisher);
            async move {
                events::call(account, "CHANNEL_CREATE", &call_id.to_string()).publish(&publisher).await;
            }
        })
        .await;
}

/// Publishes an event of an account. Returns its cursor.
async fn publish_and_get_cursor(stack: &Stack, account: &Account) -> Value {
    let mut client = Client::connect(&stack.edge.url("view=args")).await;
    client.subscribe(account, &["call.*.*"]).await;
    publish(stack, account, 1).await;
    client.event().await["cursor"].clone()
}

/// Resumes, and gets this many events.
async fn resume(stack: &Stack, account: &Account, bindings: &[String], since: &Value, count: usize) {
    let mut client = Client::connect(&stack.edge.url("view=args")).await;
    let data = json!({ "account_id": account.id, "bindings": bindings, "since": since });
    let request = json!({ "action": "subscribe", "auth_token": account.token(), "data": data });
    let reply = client.request(request).await;
    assert_eq!(reply["data"]["recovered"], true, "{reply}");
    for _ in 0..count {
        client.event().await;
    }
}
