//! Twice as many hostile connections as processors flood an edge: with control frames, empty fragments, requests without a
//! token, or connections that are opened and dropped. Other sessions and the admin port go on.
//!
//! Reported only: how long events and the admin port took. Asserted: each event arrives, in order.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use blackhole_dev::{
    http,
    websocket::{CONTINUATION, PING, PONG, TEXT, TEXT_START, client_frame},
};

use super::times::Times;
use crate::{accounts::Account, client::Client, events, raw::RawClient, stack::Stack};

/// Time between two events, and between two requests to the admin port.
const INTERVAL: Duration = Duration::from_millis(10);
/// Bytes in one write of a flood.
const WRITE_BYTES: usize = 16 << 10;
/// Writes of one connection. Most are closed before.
const WRITES: usize = 1000;

/// What a flood did to others.
#[derive(Debug)]
pub struct Report {
    floods: usize,
    closed: f64,
    /// From publishing an event to its frame.
    events: Vec<Duration>,
    /// `GET /health/live`.
    admin: Vec<Duration>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { floods, closed, events, admin } = self;
        write!(f, "{floods} flooding connections at a time, {closed} sessions closed for it; ")?;
        write!(f, "events {}; admin port {}", Times(events), Times(admin))
    }
}

/// Floods an edge for `time`.
pub async fn run(time: Duration) -> Report {
    let stack = Stack::start_with("flood", &[("LOG__FILTER", "info")]).await;
    let account = Account::fresh();
    let mut neighbour = Client::connect(&stack.edge.url("view=args")).await;
    neighbour.subscribe(&account, &["call.*.*"]).await;
    let publisher = stack.publisher().await;

    let floods = 2 * thread::available_parallelism().map_or(1, usize::from);
    let is_over = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..floods)
        .map(|number| {
            let (port, is_over) = (stack.edge.port, Arc::clone(&is_over));
            thread::spawn(move || flood(number, port, &is_over))
        })
        .collect();
    let admin = {
        let (authority, is_over) = (stack.edge.service.admin().to_owned(), Arc::clone(&is_over));
        tokio::spawn(async move {
            let mut times = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                let began = Instant::now();
                http::get(&authority, "/health/live").await.unwrap();
                times.push(began.elapsed());
                tokio::time::sleep(INTERVAL).await;
            }
            times
        })
    };

    let (began, mut times) = (Instant::now(), Vec::new());
    while began.elapsed() < time {
        let call_id = format!("{}", times.len());
        let published = Instant::now();
        events::call(&account, "CHANNEL_CREATE", &call_id).publish(&publisher).await;
        assert_eq!(neighbour.event().await["args"]["Call-ID"], call_id);
        times.push(published.elapsed());
        tokio::time::sleep(INTERVAL).await;
    }
    is_over.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let closed =
        Stack::metric(&stack.edge.service, r#"blackhole_edge_sessions_closed_total{reason="flood"}"#).await;
    Report { floods, closed, events: times, admin: admin.await.unwrap() }
}

/// Floods in one of four ways, again and again, on a thread of its own.
fn flood(number: usize, port: u16, is_over: &AtomicBool) {
    let first = [PING, PONG, CONTINUATION, TEXT][number % 4];
    let frame = client_frame(first, if first == TEXT { b"{}" } else { b"" });
    let frames = frame.repeat(WRITE_BYTES / frame.len());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        while !is_over.load(Ordering::Relaxed) {
            let mut client = RawClient::connect(port).await;
            client.begin_session("").await;
            if first == CONTINUATION {
                client.send_frame(TEXT_START, b"").await;
            }
            for _ in 0..WRITES {
                // A session that is not closed takes no more once it has queued too many replies.
                let write = tokio::time::timeout(Duration::from_secs(1), client.write(&frames)).await;
                if !matches!(write, Ok(Ok(()))) || is_over.load(Ordering::Relaxed) {
                    break;
                }
            }
        }
    });
}
