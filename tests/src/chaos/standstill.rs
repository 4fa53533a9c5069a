//! A client that stops reading while a lot is sent to it: the edge's memory stays bounded, and once the client reads
//! again, it receives everything in order.

use std::time::Duration;

use serde_json::json;

use crate::{
    accounts::Account,
    client::Client,
    events,
    lean::LeanClient,
    stack::{Edge, Stack},
};

/// Padding of each event.
const PADDING: usize = 100_000;
/// The queue of a session.
const QUEUE_BYTES: usize = 1 << 20;
/// Allowance for reading from NATS and for memory that the allocator keeps.
const SLACK_BYTES: usize = 24 << 20;

/// Sends `bytes` to a client that reads nothing for at least `pause`.
pub async fn run(bytes: usize, pause: Duration) {
    let stack =
        Stack::start_with("standstill", &[("WS__QUEUE_BYTES", "1MiB"), ("LOG__FILTER", "info")]).await;
    let account = Account::fresh();
    let mut neighbour = Client::connect(&stack.edge.url("view=args")).await;
    neighbour.subscribe(&account, &["call.*.*"]).await;
    let mut stopped = LeanClient::connect(stack.edge.port, "view=args", Some(4096)).await.unwrap();
    let data = json!({ "account_id": account.id, "binding": "call.*.*" });
    let request = json!({ "action": "subscribe", "auth_token": account.token(), "data": data });
    stopped.send(&request.to_string()).await.unwrap();
    assert!(stopped.next().await.unwrap().is_success());

    let publisher = stack.publisher().await;
    let began = tokio::time::Instant::now();
    let before = resident(&stack.edge);
    let events = u64::try_from(bytes / PADDING).unwrap();
    let mut peak = 0;
    for number in 0..events {
        let mut event = events::call(&account, "CHANNEL_CREATE", "one-call");
        event.body["Number"] = number.into();
        event.body["Padding"] = json!("x".repeat(PADDING));
        event.publish(&publisher).await;
        assert_eq!(neighbour.event().await["args"]["Number"], number, "other sessions do not wait");
        peak = peak.max(resident(&stack.edge));
    }
    tokio::time::sleep_until(began + pause).await;
    peak = peak.max(resident(&stack.edge));
    let grown = peak.saturating_sub(before);
    super::show(format_args!(
        "{} MB for a client that does not read: the edge grew by at most {} KiB",
        bytes / 1_000_000,
        grown / 1024
    ));
    assert!(grown < QUEUE_BYTES + SLACK_BYTES, "the edge grew by {grown} bytes");
    for number in 0..events {
        let frame = crate::soon("an event", stopped.next()).await.unwrap();
        assert_eq!(frame.args.map(|body| body.number), Some(number));
    }
}

/// Anonymous resident memory of the edge in bytes (`proc_pid_status(5)`: RssAnon).
fn resident(edge: &Edge) -> usize {
    let id = edge.service.server().process().unwrap().id();
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().unwrap() * 1024
}
