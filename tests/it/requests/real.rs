//! Listing and switching with real edges, one of which is frozen.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use blackhole_tests::{accounts::Account, client::Client, kazoo::Kazoo, soon, stack::Stack};
use futures_util::StreamExt;
use serde_json::json;

/// Host and bindings of each socket of the account, as Crossbar gets them.
async fn hosts(kazoo: &mut Kazoo, account: &Account) -> Vec<String> {
    let answer = kazoo.sockets(json!({ "Account-ID": account.id, "Auth-Account-ID": account.id })).await;
    let token = account.token();
    assert!(!answer.to_string().contains(token.rsplit('.').next().unwrap()), "{answer}");
    let sockets = answer["Data"].as_array().unwrap().iter();
    let mut hosts: Vec<String> = sockets
        .map(|socket| format!("{} {}", socket["destination"].as_str().unwrap(), socket["bindings"]))
        .collect();
    hosts.sort_unstable();
    hosts
}

#[tokio::test]
async fn crossbar_and_kazoo_are_answered_although_one_of_three_edges_is_frozen() {
    let stack = Stack::start_with("dead-edge", &[("WS__HOST", "edge1.example.com")]).await;
    let (second, third) = (
        stack.another_edge("second", &[("WS__HOST", "edge2.example.com")]).await,
        stack.another_edge("third", &[("WS__HOST", "edge3.example.com")]).await,
    );
    let account = Account::fresh();
    // Wait for a heartbeat of each edge.
    let nats = async_nats::connect(stack.nats.url()).await.unwrap();
    let mut beats = nats.subscribe("blackhole.v1.edges").await.unwrap();
    let mut edges = BTreeSet::new();
    while edges.len() < 3 {
        edges.insert(soon("an edge's beat", beats.next()).await.unwrap().payload);
    }
    let mut clients = Vec::new();
    for (edge, binding) in [(&stack.edge, "call.*.*"), (&second, "fax.status.*"), (&third, "object.*.user")] {
        let mut client = Client::connect(&edge.url("")).await;
        client.subscribe(&account, &[binding]).await;
        clients.push(client);
    }
    super::until_counted(&stack.amqp_ingest, r#"connection_up{side="requests",zone=""} 1"#).await;
    let mut kazoo = Kazoo::start(&stack.rabbitmq, "crossbar@apps01-77").await;
    let all = [
        r#"edge1.example.com ["call.*.*"]"#,
        r#"edge2.example.com ["fax.status.*"]"#,
        r#"edge3.example.com ["object.*.user"]"#,
    ];
    assert_eq!(hosts(&mut kazoo, &account).await, all);

    third.service.server().pause().unwrap();
    let asked = Instant::now();
    assert_eq!(hosts(&mut kazoo, &account).await, all[..2]);
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    let log = std::fs::read_to_string(stack.dir.path().join("amqp-ingest.log")).unwrap();
    let partial: Vec<&str> =
        log.lines().filter(|line| line.contains("a list of sessions is partial")).collect();
    let [line] = partial.as_slice() else { panic!("{partial:?}") };
    assert!(line.contains("edge3.example.com-") && !line.contains("edge2.example.com-"), "{line}");

    let answer = kazoo.module(json!({ "Module": "bh_call", "Action": "stop", "Persist": true })).await;
    assert_eq!((&answer["Persisted"], answer.get("Error")), (&json!(true), None), "{answer}");
    let refused = json!(["no available subscriptions to requested binding"]);
    for client in &mut clients[..2] {
        let data = json!({ "account_id": account.id, "binding": "call.CHANNEL_ANSWER.*" });
        let request = json!({ "action": "subscribe", "auth_token": account.token(), "data": data });
        assert_eq!(client.request(request).await["data"]["errors"], refused);
    }
    // The frozen edge learns of it when it continues: from its subscription or from the bucket.
    third.service.server().resume().unwrap();
    blackhole_tests::eventually("the stop on the third edge", || async {
        Stack::metric(&third.service, "blackhole_edge_families_stopped").await == 1.0
    })
    .await;
    assert_eq!(hosts(&mut kazoo, &account).await, all);
}
