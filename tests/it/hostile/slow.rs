//! A client that reads too slowly is closed, and nobody waits for it.

use blackhole_tests::{
    accounts::Account,
    client::Client,
    events,
    raw::{Raw, TEXT},
    stack::Stack,
};
use serde_json::json;

/// More than the kernel keeps for a connection that is not read.
const MOST_EVENTS: usize = 300;

#[tokio::test]
async fn a_session_that_never_reads_is_closed_with_4008_and_its_neighbour_gets_everything() {
    let stack = Stack::shared();
    let edge = stack.another_edge("edge-slow", &[("WS__QUEUE_BYTES", "256KiB")]).await;
    let publisher = stack.publisher().await;
    let account = Account::fresh();
    let mut neighbour = Client::connect(&edge.url("view=args")).await;
    neighbour.subscribe(&account, &["call.*.*"]).await;
    let mut slow = Raw::connect_with_little_room(edge.port).await;
    slow.begin_session("view=args").await;
    let request =
        json!({ "action": "subscribe", "auth_token": account.token(), "data": { "binding": "call.*.*" } });
    slow.send_frame(TEXT, request.to_string()).await;
    assert!(slow.text().await.contains("success"));

    let mut closed = false;
    for number in 0..MOST_EVENTS {
        let mut event = events::call(&account, "CHANNEL_CREATE", &number.to_string());
        event.body["Padding"] = json!("x".repeat(100_000));
        event.publish(&publisher).await;
        assert_eq!(neighbour.event().await["args"]["Call-ID"], number.to_string());
        closed = closed || Stack::metric(&edge.service, "blackhole_edge_sessions_overrun_total").await == 1.0;
        if closed {
            break;
        }
    }
    assert!(closed, "{MOST_EVENTS} events of 100 kB are not too much for a queue of 256 KiB");
    // It begins to read at last: what was on its way already, and why there is no more.
    assert_eq!(slow.closed().await, Some(4008));
    events::call(&account, "CHANNEL_DESTROY", "after").publish(&publisher).await;
    assert_eq!(neighbour.event().await["args"]["Call-ID"], "after");
}
