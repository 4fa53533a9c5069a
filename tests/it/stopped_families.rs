//! Binding families are stopped and started while edges run: by request over NATS, and from the bucket.

use async_nats::jetstream::{self, kv};
use blackhole_common::wire::{FamilyReply, FamilyRequest, Subjects};
use blackhole_dev::simulator::Publisher;
use blackhole_tests::{accounts::Account, client::Client, events, eventually, soon, stack::Stack};
use futures_util::StreamExt;
use serde_json::{Value, json};

const REFUSAL: &str = "no available subscriptions to requested binding";

fn subjects() -> Subjects {
    Subjects::new("blackhole.v1")
}

/// Asks all edges and waits for this many answers.
async fn switch(nats: &async_nats::Client, family: &str, running: bool, edges: usize) -> Vec<FamilyReply> {
    let inbox = nats.new_inbox();
    let answers = nats.subscribe(inbox.clone()).await.unwrap();
    let request = serde_json::to_vec(&FamilyRequest { family: family.into(), running }).unwrap();
    nats.publish_with_reply(subjects().families(), inbox, request.into()).await.unwrap();
    let answers = soon("the edges' answers", answers.take(edges).collect::<Vec<_>>()).await;
    answers.iter().map(|answer| serde_json::from_slice(&answer.payload).unwrap()).collect()
}

async fn try_subscribe(client: &mut Client, account: &Account, binding: &str) -> Value {
    let data = json!({ "account_id": account.id, "binding": binding });
    client.request(json!({ "action": "subscribe", "auth_token": account.token(), "data": data })).await
}

async fn call(publisher: &Publisher, account: &Account, id: &str) {
    events::call(account, "CHANNEL_CREATE", id).publish(publisher).await;
}

/// Creates the bucket. `create_key_value` does not work: it cannot parse the account information of nats-server 2.9.
async fn bucket(nats: &async_nats::Client) -> kv::Store {
    let jetstream = jetstream::new(nats.clone());
    let name = subjects().stopped_families();
    let config = jetstream::stream::Config {
        name: format!("KV_{name}"),
        subjects: vec![format!("$KV.{name}.>")],
        max_messages_per_subject: 1,
        allow_rollup: true,
        allow_direct: true,
        ..jetstream::stream::Config::default()
    };
    jetstream.create_stream(config).await.unwrap();
    jetstream.get_key_value(name).await.unwrap()
}

#[tokio::test]
async fn a_family_is_stopped_and_started_on_running_edges_and_on_those_that_start_later() {
    let stack = Stack::start("stopped").await;
    let other = stack.another_edge("other", &[]).await;
    let nats = async_nats::connect(stack.nats.url()).await.unwrap();
    let publisher = stack.publisher().await;
    let account = Account::fresh();
    let mut clients = Vec::new();
    for edge in [&stack.edge, &other] {
        let mut client = Client::connect(&edge.url("view=args")).await;
        client.subscribe(&account, &["call.*.*", "fax.status.*"]).await;
        clients.push(client);
    }

    let replies = switch(&nats, "call", false, 2).await;
    assert_ne!(replies[0].edge, replies[1].edge);
    assert!(replies.iter().all(|reply| reply.error.is_none()), "{replies:?}");
    call(&publisher, &account, "unowed").await;
    events::fax(&account, "faxed").publish(&publisher).await;
    for client in &mut clients {
        let event = client.event().await;
        assert_eq!(event["subscribed_key"], "fax.status.*", "{event}");
        for binding in ["call.*.*", "call.CHANNEL_ANSWER.*", "call.nonsense"] {
            let reply = try_subscribe(client, &account, binding).await;
            assert_eq!(reply["data"]["errors"], json!([REFUSAL]), "{binding}");
        }
    }
    assert_eq!(Stack::metric(&other.service, "blackhole_edge_families_stopped").await, 1.0);

    switch(&nats, "call", true, 2).await;
    call(&publisher, &account, "owed").await;
    for client in &mut clients {
        let event = client.event().await;
        assert_eq!(event["args"]["Call-ID"], "owed", "events from while it was stopped do not arrive later");
        assert_eq!(try_subscribe(client, &account, "call.CHANNEL_ANSWER.*").await["status"], "success");
    }
    let replies = switch(&nats, "calls", false, 2).await;
    let error = replies[0].error.as_deref().unwrap();
    assert!(error.starts_with("there is no family calls; there are call, "), "{error}");

    // A stored stop applies to running edges and to those that start later.
    let store = bucket(&nats).await;
    store.put("fax", "".into()).await.unwrap();
    let refused = async |client: &mut Client| {
        try_subscribe(client, &account, "fax.status.*").await["data"]["errors"] == json!([REFUSAL])
    };
    let [first, _] = clients.as_mut_slice() else { panic!() };
    soon("the family's stop", async {
        while !refused(first).await {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    })
    .await;
    let third = stack.another_edge("third", &[]).await;
    eventually("the third edge's stop", || async {
        Stack::metric(&third.service, "blackhole_edge_families_stopped").await == 1.0
    })
    .await;
    // A start that is not stored survives the loss of NATS.
    switch(&nats, "fax", true, 3).await;
    stack.nats.server().restart().await.unwrap();
    Stack::until_ready(&third.service, true).await;
    store.put("conference", "".into()).await.unwrap();
    eventually("the later stored stop", || async {
        let mut client = Client::connect(&third.url("")).await;
        let reply = try_subscribe(&mut client, &account, "conference.command.c1").await;
        reply["data"]["errors"] == json!([REFUSAL])
    })
    .await;
    let mut client = Client::connect(&third.url("")).await;
    assert_eq!(try_subscribe(&mut client, &account, "fax.status.*").await["status"], "success");
    store.delete("conference").await.unwrap();
    eventually("the family's start", || async {
        let mut client = Client::connect(&third.url("")).await;
        try_subscribe(&mut client, &account, "conference.command.c1").await["status"] == "success"
    })
    .await;
}

#[tokio::test]
async fn a_family_starts_when_the_bucket_that_stopped_it_is_deleted() {
    let stack = Stack::start("bucket-deleted").await;
    let nats = async_nats::connect(stack.nats.url()).await.unwrap();
    let stopped = async || Stack::metric(&stack.edge.service, "blackhole_edge_families_stopped").await;
    bucket(&nats).await.put("fax", "".into()).await.unwrap();
    eventually("the stored stop", || async { stopped().await == 1.0 }).await;
    let name = format!("KV_{}", subjects().stopped_families());
    jetstream::new(nats).delete_stream(name).await.unwrap();
    eventually("the start without the bucket", || async { stopped().await == 0.0 }).await;
}
