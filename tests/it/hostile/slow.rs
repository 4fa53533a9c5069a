//! Slow consumers: other sessions do not wait for them, their memory is bounded, and once they read again they get all
//! events that the history still has.

use blackhole_dev::websocket::TEXT;
use blackhole_tests::{
    accounts::Account,
    client::Client,
    events,
    raw::RawClient,
    stack::{Edge, Stack},
};
use serde_json::{Value, json};

/// With the padding, more than the socket buffers hold.
const EVENTS: u64 = 200;
/// Padding of each event.
const PADDING: usize = 100_000;

/// A subscribed client that does not read.
async fn slow_client(edge: &Edge, account: &Account) -> RawClient {
    let mut slow = RawClient::connect_with_receive_buffer(4096, edge.port).await;
    slow.begin_session("view=args").await;
    let request =
        json!({ "action": "subscribe", "auth_token": account.token(), "data": { "binding": "call.*.*" } });
    slow.send_frame(TEXT, request.to_string()).await;
    assert!(slow.text().await.contains("success"));
    slow
}

/// Publishes large events; a neighbour gets each one without delay.
async fn flood(stack: &Stack, account: &Account, neighbour: &mut Client) {
    let publisher = stack.publisher().await;
    for number in 0..EVENTS {
        let mut event = events::call(account, "CHANNEL_CREATE", &number.to_string());
        event.body["Number"] = number.into();
        event.body["Padding"] = json!("x".repeat(PADDING));
        event.publish(&publisher).await;
        assert_eq!(neighbour.event().await["args"]["Number"], number);
    }
}

#[tokio::test]
async fn a_slow_consumer_catches_up_and_does_not_delay_its_neighbour() {
    let stack = Stack::shared();
    let edge = stack.another_edge("edge-slow", &[("WS__QUEUE_BYTES", "256KiB")]).await;
    let account = Account::fresh();
    let mut neighbour = Client::connect(&edge.url("view=args")).await;
    neighbour.subscribe(&account, &["call.*.*"]).await;
    let mut slow = slow_client(&edge, &account).await;
    flood(stack, &account, &mut neighbour).await;
    assert_eq!(Stack::metric(&edge.service, "blackhole_edge_sessions_lagging").await, 1.0);
    for number in 0..EVENTS {
        let event: Value = serde_json::from_str(&slow.text().await).unwrap();
        assert_eq!(event["args"]["Number"], number);
    }
    blackhole_tests::eventually("the session to be live again", || async {
        Stack::metric(&edge.service, "blackhole_edge_sessions_lagging").await == 0.0
    })
    .await;
    events::call(&account, "CHANNEL_DESTROY", "after").publish(&stack.publisher().await).await;
    let event: Value = serde_json::from_str(&slow.text().await).unwrap();
    assert_eq!(event["args"]["Call-ID"], "after");
    assert_eq!(neighbour.event().await["args"]["Call-ID"], "after");
}

#[tokio::test]
async fn a_slow_consumer_whose_events_have_expired_is_closed_with_4008() {
    let stack =
        Stack::start_with("behind", &[("HISTORY__MAX_AGE", "1s"), ("WS__QUEUE_BYTES", "256KiB")]).await;
    let account = Account::fresh();
    let mut neighbour = Client::connect(&stack.edge.url("view=args")).await;
    neighbour.subscribe(&account, &["call.*.*"]).await;
    let mut slow = slow_client(&stack.edge, &account).await;
    flood(&stack, &account, &mut neighbour).await;
    let jetstream = async_nats::jetstream::new(async_nats::connect(stack.nats.url()).await.unwrap());
    blackhole_tests::eventually("the history to pass", || async {
        let mut stream = jetstream.get_stream("BLACKHOLE_V1").await.unwrap();
        stream.info().await.unwrap().state.messages == 0
    })
    .await;
    // It reads the events that were sent already, then the close frame.
    assert_eq!(slow.closed().await, Some(4008));
    events::call(&account, "CHANNEL_DESTROY", "after").publish(&stack.publisher().await).await;
    assert_eq!(neighbour.event().await["args"]["Call-ID"], "after");
}

#[tokio::test]
async fn without_history_a_slow_consumer_is_closed_with_4008() {
    let stack =
        Stack::start_with("slow-off", &[("HISTORY__MAX_AGE", "0s"), ("WS__QUEUE_BYTES", "256KiB")]).await;
    let account = Account::fresh();
    let mut neighbour = Client::connect(&stack.edge.url("view=args")).await;
    neighbour.subscribe(&account, &["call.*.*"]).await;
    let mut slow = slow_client(&stack.edge, &account).await;
    flood(&stack, &account, &mut neighbour).await;
    assert_eq!(slow.closed().await, Some(4008));
}
