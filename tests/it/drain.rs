//! Leaving in order, and being taken in at a pace.

use std::time::{Duration, Instant};

use blackhole_dev::http;
use blackhole_tests::{
    accounts::Account,
    client::Client,
    events,
    stack::{Edge, Stack},
};

/// Sessions that are there.
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
async fn a_drained_edge_is_not_ready_takes_nobody_closes_with_1012_and_ends_well() {
    let stack = Stack::shared();
    let settings = [("WS__DRAIN_WAIT", "2s"), ("WS__DRAIN", "2s"), ("WS__DRAIN_PER_SECOND", "20")];
    let edge = stack.another_edge("edge-drained", &settings).await;
    let account = Account::fresh();
    let mut clients = sessions(&edge, &account, 20).await;
    assert_eq!(http::get(edge.service.admin(), "/drain").await.unwrap().status, 405);
    assert_eq!(http::post(edge.service.admin(), "/drain").await.unwrap().status, 202);
    blackhole_tests::eventually("no more readiness", || async { ready(&edge).await.0 == 503 }).await;
    // Load balancers have not seen it yet: who comes is served.
    clients.extend(sessions(&edge, &account, 1).await);
    events::call(&account, "CHANNEL_CREATE", "last").publish(&stack.publisher().await).await;
    for client in &mut clients {
        assert_eq!(client.event().await["args"]["Call-ID"], "last");
        assert_eq!(client.closed().await, Some(1012));
    }
    assert!(edge.service.server().process().unwrap().exited().await.unwrap().success());
}

#[tokio::test]
async fn sessions_are_closed_over_time_and_not_at_once() {
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
    // 20 at 10 per second: the machine may be late, but it cannot be early.
    let took = *times.last().unwrap() - times[0];
    assert!(took > Duration::from_millis(1500), "closed within {took:?}");
    assert!(stopping.await.unwrap().unwrap().success());
}

#[tokio::test]
async fn who_comes_in_a_storm_waits_or_is_told_to_come_back() {
    let stack = Stack::shared();
    let edge = stack.another_edge("edge-storm", &[("WS__ACCEPT_PER_SECOND", "1")]).await;
    let url = edge.url("");
    // At most two are accepted at once; the third had to wait, so the next turn is a second away.
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
            (Err(503), after) => refused_after.push(after),
            (Err(status), _) => panic!("refused with {status}"),
        }
    }
    // One in each of the next five seconds; one more for each second that the clients took to arrive.
    let arrival = refused_after.iter().max().expect("nobody was refused").as_secs();
    assert!((5..=5 + arrival).contains(&accepted), "{accepted} of 30 accepted, who arrived in {arrival} s");
    assert_eq!(
        Stack::metric(&edge.service, "blackhole_edge_handshakes_refused_total").await,
        refused_after.len() as f64
    );
}
