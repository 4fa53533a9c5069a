//! Floods: clients that send control frames, fragments or nothing useful as fast as a socket takes them are closed, and
//! other sessions and the admin port go on.

use blackhole_dev::websocket::{CONTINUATION, PING, PONG, TEXT_START, client_frame};
use blackhole_tests::{accounts::Account, client::Client, raw::RawClient, stack::Stack};
use serde_json::json;

use super::Neighbour;

/// More bytes than the kernel buffers, so that the edge has to read for a flood to go on.
const FLOOD_BYTES: usize = 32 << 20;

/// Sends a frame again and again until the edge closes the session. Returns the close code.
async fn flood(port: u16, before: Option<u8>, first: u8) -> Option<u16> {
    let mut client = RawClient::session(port, "").await;
    if let Some(before) = before {
        client.send_frame(before, b"").await;
    }
    let frame = client_frame(first, b"");
    let frames = frame.repeat((16 << 10) / frame.len());
    for _ in 0..FLOOD_BYTES / frames.len() {
        client.send(&frames).await;
    }
    client.closed().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn floods_are_closed_while_others_get_their_events() {
    let stack = Stack::shared();
    let edge = stack.another_edge("edge-flood", &[]).await;
    let mut neighbour = Neighbour::on(&edge).await;
    let floods = [(None, PING), (None, PONG), (Some(TEXT_START), CONTINUATION), (None, PING)];
    let floods = floods.map(|(before, first)| tokio::spawn(flood(edge.port, before, first)));
    while floods.iter().any(|flood| !flood.is_finished()) {
        neighbour.still_gets_events().await;
        Stack::metric(&edge.service, "blackhole_edge_sessions").await;
    }
    for flood in floods {
        // The close frame may be lost with what the client had still sent.
        assert!(matches!(flood.await.unwrap(), Some(4429) | None));
    }
    let closed =
        Stack::metric(&edge.service, r#"blackhole_edge_sessions_closed_total{reason="flood"}"#).await;
    assert_eq!(closed, 4.0);
}

#[tokio::test]
async fn pings_do_not_replace_a_token() {
    let stack = Stack::shared();
    let edge = stack.another_edge("edge-no-token", &[("WS__AUTH_TIMEOUT", "1s")]).await;
    let mut stranger = RawClient::session(edge.port, "").await;
    let mut known = Client::connect(&edge.url("")).await;
    let token = Account::fresh().token();
    assert_eq!(known.request(json!({ "action": "ping", "auth_token": token })).await["status"], "success");
    stranger.send_frame(PING, b"").await;
    assert_eq!(stranger.closed().await, Some(4401));
    assert_eq!(
        known.request(json!({ "action": "ping" })).await["status"],
        "success",
        "it had a token in time"
    );
}
