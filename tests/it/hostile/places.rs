//! Places of connections and the pace of new sessions: a client that takes more than its share is refused, and others are
//! not.

use std::net::Ipv4Addr;

use blackhole_dev::websocket::upgrade_request;
use blackhole_tests::{accounts::Account, client::Client, eventually, raw::RawClient, stack::Edge};
use serde_json::json;

use super::{Neighbour, authenticate, count_of, edge, with_token};

/// Another address than that of all other clients.
const GREEDY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Asks for a WebSocket through a proxy that names this client. Returns the status with the connection.
async fn through_proxy(edge: &Edge, client: &str) -> (u16, RawClient) {
    let mut raw = RawClient::connect(edge.port).await;
    raw.send(upgrade_request("/", &[("X-Forwarded-For", Some(client))])).await;
    (raw.response().await.status, raw)
}

#[tokio::test]
async fn silent_connections_are_refused_before_they_send_anything_and_others_still_connect() {
    let edge = edge("edge-silent", &[("WS__MAX_TOKENLESS_PER_IP", "20")]).await;
    let mut neighbour = Neighbour::on(&edge).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(RawClient::connect_from(GREEDY, edge.port).await);
    }
    for _ in 0..10 {
        let refused = RawClient::connect_from(GREEDY, edge.port).await.response().await;
        assert_eq!((refused.status, refused.header("retry-after")), (429, Some("5")));
        assert_eq!(refused.body, "too many connections from your address that have not sent a token\n");
    }
    assert_eq!(count_of(&edge, "handshakes_refused", "tokenless").await, 10.0);
    RawClient::session(edge.port, "").await;
    neighbour.still_gets_events().await;
    drop(silent);
    eventually("places for the address", async || {
        let mut raw = RawClient::connect_from(GREEDY, edge.port).await;
        raw.send(upgrade_request("/", &[])).await;
        raw.response().await.status == 101
    })
    .await;
}

#[tokio::test]
async fn connections_with_an_accepted_token_do_not_count_as_tokenless() {
    let settings = [("WS__MAX_TOKENLESS_PER_IP", "1"), ("WS__MAX_CONNECTIONS_PER_IP", "7")];
    let edge = edge("edge-known", &settings).await;
    let account = Account::fresh();
    let mut known = Vec::new();
    for _ in 0..3 {
        known.push(with_token(&edge, &account).await);
        let authorization = format!("Bearer {}", account.token());
        let headers = [("Authorization", authorization.as_str())];
        known.push(Client::try_connect(&edge.url(""), &headers).await.ok().unwrap());
    }
    let mut stranger = Client::connect(&edge.url("")).await;
    // Both limits are reached now.
    assert_eq!(Client::try_connect(&edge.url(""), &[]).await.err(), Some(429));
    assert_eq!(count_of(&edge, "handshakes_refused", "per_address").await, 1.0);
    known.pop();
    eventually("the place of the session that ended", async || {
        let _ = Client::try_connect(&edge.url(""), &[]).await;
        count_of(&edge, "handshakes_refused", "tokenless").await > 0.0
    })
    .await;
    stranger.send_text(json!({ "action": "ping", "auth_token": "nonsense" }).to_string()).await;
    assert_eq!(stranger.reply().await["status"], "error");
    assert_eq!(
        Client::try_connect(&edge.url(""), &[]).await.err(),
        Some(429),
        "a refused token frees no place"
    );
    authenticate(&mut stranger, &account).await;
    Client::connect(&edge.url("")).await;
}

#[tokio::test]
async fn behind_a_proxy_the_addresses_that_it_names_count_and_not_its_own() {
    let settings = [("WS__MAX_TOKENLESS_PER_IP", "2"), ("WS__TRUSTED_PROXIES", "[\"127.0.0.1/32\"]")];
    let edge = edge("edge-proxied", &settings).await;
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(RawClient::connect(edge.port).await);
    }
    for (client, expected) in [
        ("198.51.100.1", 101),
        ("2001:db8:0:1::1", 101),
        ("2001:db8:0:1::2", 101),
        ("2001:db8:0:1:ffff::3", 429),
        ("2001:db8:0:2::1", 101),
        ("198.51.100.1", 101),
        ("198.51.100.1", 429),
        ("198.51.100.2", 101),
    ] {
        let (status, raw) = through_proxy(&edge, client).await;
        assert_eq!(status, expected, "{client}");
        held.push(raw);
    }
    assert_eq!(count_of(&edge, "handshakes_refused", "tokenless").await, 2.0);
}

#[tokio::test]
async fn one_address_does_not_use_up_the_pace_of_new_sessions() {
    let edge = edge("edge-pace", &[("WS__ACCEPT_PER_SECOND", "4")]).await;
    let mut greedy = Vec::new();
    for _ in 0..60 {
        let mut raw = RawClient::connect_from(GREEDY, edge.port).await;
        raw.send(upgrade_request("/", &[])).await;
        greedy.push(raw);
    }
    // Twenty may wait; half of the places are left to others.
    eventually("the greedy address's refusals", async || {
        count_of(&edge, "handshakes_refused", "pace_per_address").await > 30.0
    })
    .await;
    Client::connect(&edge.url("")).await;
    assert_eq!(count_of(&edge, "handshakes_refused", "pace").await, 0.0);
}
