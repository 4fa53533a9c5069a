//! HAProxy with TLS in front of two edges, with the project's configuration.

use std::{net::Ipv4Addr, time::Duration};

use blackhole_dev::websocket::upgrade_request;
use blackhole_tests::{
    accounts::Account,
    browser::Browser,
    client::{Client, Incoming},
    event_stream::EventStream,
    events, eventually,
    haproxy::HaProxy,
    raw::RawClient,
    stack::{Edge, Stack},
};

/// HAProxy connects from this address.
const PROXY: (&str, &str) = ("WS__TRUSTED_PROXIES", "[\"127.0.0.1/32\"]");

async fn two_edges(name: &str, settings: &[(&str, &str)]) -> [Edge; 2] {
    let stack = Stack::shared();
    let settings: Vec<(&str, &str)> = settings.iter().copied().chain([PROXY]).collect();
    [
        stack.another_edge(&format!("{name}-1"), &settings).await,
        stack.another_edge(&format!("{name}-2"), &settings).await,
    ]
}

async fn sessions(edge: &Edge) -> f64 {
    Stack::metric(&edge.service, "blackhole_edge_sessions").await
}

fn ws(proxy: &HaProxy) -> String {
    format!("ws://127.0.0.1:{}/?view=args", proxy.ws)
}

#[tokio::test]
async fn the_console_and_the_example_work_over_wss() {
    let edges = two_edges("edge-wss", &[]).await;
    let proxy = HaProxy::start([&edges[0], &edges[1]], &[]).await;
    let account = Account::fresh();
    let browser = Browser::open().await;
    // The browser accepts the test's certificate; the page is the console's, from the same HAProxy.
    let page = format!("https://127.0.0.1:{}/#token={}&binding=call.*.*", proxy.wss, account.token());
    browser.page.goto(&page).await.unwrap();
    browser.until("!!document.querySelector('.subscription[data-state=active]')").await;
    events::call(&account, "CHANNEL_CREATE", "over-tls").publish(&Stack::shared().publisher().await).await;
    browser.until("document.getElementById('events').textContent.includes('over-tls')").await;

    let example = blackhole_dev::workspace::root().unwrap().join("docs/example.html");
    let url = format!("wss://127.0.0.1:{}/", proxy.wss);
    let fragment = format!("url={url}&token={}&account={}&conference=C", account.token(), account.id);
    browser.page.goto(&format!("file://{}#{fragment}", example.display())).await.unwrap();
    browser.until("document.querySelectorAll('#messages li').length === 3").await;
    events::call(&account, "CHANNEL_CREATE", "example-over-tls")
        .publish(&Stack::shared().publisher().await)
        .await;
    browser.until("document.getElementById('messages').textContent.includes('example-over-tls')").await;
    browser.close().await;
}

#[tokio::test]
async fn clients_are_spread_over_the_edges_and_an_edge_that_died_gets_none() {
    let edges = two_edges("edge-spread", &[]).await;
    let proxy = HaProxy::start([&edges[0], &edges[1]], &[]).await;
    let publisher = Stack::shared().publisher().await;
    let account = Account::fresh();
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = Client::connect(&ws(&proxy)).await;
        client.subscribe(&account, &["call.*.*"]).await;
        clients.push(client);
    }
    let spread = [sessions(&edges[0]).await, sessions(&edges[1]).await];
    assert!(spread.iter().all(|own| *own >= 2.0) && spread.iter().sum::<f64>() == 10.0, "{spread:?}");
    events::call(&account, "CHANNEL_CREATE", "everywhere").publish(&publisher).await;
    for client in &mut clients {
        assert_eq!(client.event().await["args"]["Call-ID"], "everywhere");
    }

    // One edge dies: its clients are disconnected, the others continue, and new clients are served at once, before a
    // health check has noticed.
    edges[0].service.server().kill().await.unwrap();
    for _ in 0..4 {
        let mut client = Client::connect(&ws(&proxy)).await;
        client.subscribe(&account, &["call.*.*"]).await;
        clients.push(client);
    }
    assert_eq!(sessions(&edges[1]).await, spread[1] + 4.0);
    events::call(&account, "CHANNEL_DESTROY", "everywhere").publish(&publisher).await;
    let (mut ended, mut alive) = (0.0, Vec::new());
    for mut client in clients {
        match client.incoming().await {
            Incoming::Closed(None) => ended += 1.0,
            Incoming::Json(event) if event["name"] == "CHANNEL_DESTROY" => alive.push(client),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(ended, spread[0]);

    // The other edge is stopped: its sessions are closed with 1012, and new clients are refused with 503.
    edges[1].service.server().stop().await.unwrap();
    for client in &mut alive {
        assert_eq!(client.closed().await, Some(1012), "the close code of the edge is passed on");
    }
    let refused = Client::try_connect(&ws(&proxy), &[]).await;
    assert_eq!(refused.err(), Some(503));

    edges[0].service.server().start_again().await.unwrap();
    eventually("clients on the restarted edge", || async {
        Client::try_connect(&ws(&proxy), &[]).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn connection_limits_use_the_clients_real_address() {
    let edges = two_edges("edge-addresses", &[("WS__MAX_CONNECTIONS_PER_IP", "1")]).await;
    let proxy = HaProxy::start([&edges[0], &edges[1]], &[]).await;
    let mut held = Vec::new();
    let mut statuses = Vec::new();
    for number in 0..4 {
        let mut raw = RawClient::connect_from(Ipv4Addr::new(127, 0, 0, 7), proxy.ws).await;
        raw.send(upgrade_request("/", &[("X-Forwarded-For", Some(&format!("203.0.113.{number}")))])).await;
        statuses.push(raw.response().await.status);
        held.push(raw);
    }
    // Each of the two edges accepts one connection per address.
    statuses.sort_unstable();
    assert_eq!(statuses, [101, 101, 429, 429]);
    let mut other = RawClient::connect_from(Ipv4Addr::new(127, 0, 0, 8), proxy.ws).await;
    other.send(upgrade_request("/", &[])).await;
    assert_eq!(other.response().await.status, 101, "another address is counted separately");
}

#[tokio::test]
async fn an_event_stream_outlives_the_proxys_time_outs_and_resumes_on_the_other_edge() {
    let edges = two_edges("edge-streamed", &[("WS__PING_INTERVAL", "600ms")]).await;
    let proxy = HaProxy::start([&edges[0], &edges[1]], &[("BH_HTTP_TIMEOUT", "1s")]).await;
    let publisher = Stack::shared().publisher().await;
    let account = Account::fresh();
    let (mut stream, _) = EventStream::subscribe(proxy.ws, &account, &["call.*.*"], &[]).await;
    // Time is what this is about: three times the time-out without an event.
    tokio::time::sleep(Duration::from_secs(3)).await;
    events::call(&account, "CHANNEL_CREATE", "at-once").publish(&publisher).await;
    assert_eq!(stream.event().await["args"]["Call-ID"], "at-once");

    let own = if sessions(&edges[0]).await == 1.0 { &edges[0] } else { &edges[1] };
    own.service.server().kill().await.unwrap();
    assert!(stream.next().await.is_none(), "nobody tells that an edge was killed");
    events::call(&account, "CHANNEL_CREATE", "meanwhile").publish(&publisher).await;
    let (mut stream, reply) = EventStream::resume(proxy.ws, &account, &["call.*.*"], &stream.last_id).await;
    assert_eq!(reply["recovered"], true);
    assert_eq!(stream.event().await["args"]["Call-ID"], "meanwhile");
}

#[tokio::test]
async fn pings_keep_a_quiet_session_alive_through_the_proxy() {
    let edges = two_edges("edge-quiet", &[("WS__PING_INTERVAL", "300ms")]).await;
    let timeouts = [("BH_HTTP_TIMEOUT", "1s"), ("BH_TUNNEL_TIMEOUT", "1500ms")];
    let proxy = HaProxy::start([&edges[0], &edges[1]], &timeouts).await;
    let account = Account::fresh();
    let mut client = Client::connect(&ws(&proxy)).await;
    client.subscribe(&account, &["call.*.*"]).await;
    // Time is what this is about: twice the tunnel's timeout without an event.
    tokio::time::sleep(Duration::from_secs(3)).await;
    events::call(&account, "CHANNEL_CREATE", "still-here").publish(&Stack::shared().publisher().await).await;
    assert_eq!(client.event().await["args"]["Call-ID"], "still-here");
    drop(client);
    eventually("the end of the session", || async {
        sessions(&edges[0]).await + sessions(&edges[1]).await == 0.0
    })
    .await;
}
