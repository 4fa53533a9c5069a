//! Draining an edge, and the rate at which it accepts sessions.

use std::time::{Duration, Instant};

use blackhole_dev::http;
use blackhole_tests::{
    accounts::Account,
    client::Client,
    events,
    stack::{Edge, Stack},
};

/// Connected and subscribed sessions.
async fn sessions(edge: &Edge, account: &Account, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = Client::connect(&edge.url("view=args")).await;
        client.subscribe(account, &["call.*.*"]).await;
        clients.push(client);
    }
    clients
}

async fn ready(edge: &Edge) -> (u16, String) {
    let answer = http::get(edge.service.admin(), "/health/ready").await.unwrap();
    (answer.status, answer.body)
}

#[tokio::test]
async fn a_drained_edge_becomes_unready_closes_sessions_with_1012_and_exits() {
    let stack = Stack::shared();
    let settings = [("WS__DRAIN_WAIT", "2s"), ("WS__DRAIN", "2s"), ("WS__DRAIN_PER_SECOND", "20")];
    let edge = stack.another_edge("edge-drained", &settings).await;
    let account = Account::fresh();
    let mut clients = sessions(&edge, &account, 20).await;
    assert_eq!(http::get(edge.service.admin(), "/drain").await.unwrap().status, 405);
    assert_eq!(http::post(edge.service.admin(), "/drain").await.unwrap().status, 202);
    blackhole_tests::eventually("no more readiness", || async { ready(&edge).await.0 == 503 }).await;
    // Load balancers may not have noticed yet, so new sessions are still served.
    clients.extend(sessions(&edge, &account, 1).await);
    events::call(&account, "CHANNEL_CREATE", "last").publish(&stack.publisher().await).await;
    for client in &mut clients {
        assert_eq!(client.event().await["args"]["Call-ID"], "last");
        assert_eq!(client.closed().await, Some(1012));
    }
    assert!(edge.service.server().process().unwrap().exited().await.unwrap().success());
}

#[tokio::test]
async fn a_draining_edge_closes_sessions_at_the_configured_rate() {
    let stack = Stack::shared();
    let edge = stack.another_edge("edge-paced", &[("WS__DRAIN_PER_SECOND", "10")]).await;
    let account = Account::fresh();
    let clients = sessions(&edge, &account, 20).await;
    let stopping = tokio::spawn(async move { edge.service.server().stop().await });
    let mut ends = Vec::new();
    for mut client in clients {
        ends.push(tokio::spawn(async move {
            assert_eq!(client.closed().await, Some(1012));
            Instant::now()
        }));
    }
    let mut times = Vec::new();
    for end in ends {
        times.push(end.await.unwrap());
    }
    times.sort();
    // 20 sessions at 10 per second: a slow machine may take longer, but none less.
    let took = *times.last().unwrap() - times[0];
    assert!(took > Duration::from_millis(1500), "closed within {took:?}");
    assert!(stopping.await.unwrap().unwrap().success());
}

#[tokio::test]
async fn in_a_connection_storm_clients_are_accepted_at_the_configured_rate_and_the_rest_refused() {
    let stack = Stack::shared();
    let edge = stack.another_edge("edge-storm", &[("WS__ACCEPT_PER_SECOND", "1")]).await;
    let url = edge.url("");
    // At most two are accepted at once. The third had to wait, so the next one is accepted a second later.
    for _ in 0..3 {
        Client::connect(&url).await;
    }
    let began = Instant::now();
    let storm: Vec<_> = (0..30)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move { (Client::try_connect(&url, &[]).await.map(drop), began.elapsed()) })
        })
        .collect();
    let (mut accepted, mut refused_after) = (0, Vec::new());
    for client in storm {
        match client.await.unwrap() {
            (Ok(()), _) => accepted += 1,
            (Err(429), after) => refused_after.push(after),
            (Err(status), _) => panic!("refused with {status}"),
        }
    }
    // Of the next five seconds' sessions one address gets half, and one more for each second that the clients took to
    // arrive.
    let arrival = refused_after.iter().max().expect("no client was refused").as_secs();
    assert!(
        (2..=3 + arrival).contains(&accepted),
        "{accepted} of 30 accepted, which arrived within {arrival} s"
    );
    assert_eq!(
        Stack::metric(&edge.service, "blackhole_edge_handshakes_refused_total").await,
        refused_after.len() as f64
    );
}
