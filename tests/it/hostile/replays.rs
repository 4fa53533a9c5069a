//! Cursors are not signed: a client may claim to stand at the beginning of the stream. That makes an edge read its own
//! account's events, not everybody's.

use blackhole_tests::{
    accounts::Account,
    client::Client,
    events,
    stack::{Edge, Stack},
};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

/// Events of an account that nobody asks for. A shorter gap than this many is read as a whole.
const OTHERS: usize = 3000;
const SESSIONS: usize = 20;

async fn publish(stack: &Stack, account: &Account, call_ids: impl IntoIterator<Item = usize>) {
    let publisher = &stack.publisher().await;
    stream::iter(call_ids)
        .for_each_concurrent(64, |call_id| async move {
            events::call(account, "CHANNEL_CREATE", &call_id.to_string()).publish(publisher).await;
        })
        .await;
}

async fn resume(edge: &Edge, account: &Account, bindings: &[String], since: &Value) -> Client {
    let mut client = Client::connect(&edge.url("view=args")).await;
    let data = json!({ "account_id": account.id, "bindings": bindings, "since": since });
    let request = json!({ "action": "subscribe", "auth_token": account.token(), "data": data });
    let reply = client.request(request).await;
    assert_eq!(reply["data"]["recovered"], true, "{reply}");
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_with_old_cursors_have_only_their_own_accounts_events_read() {
    let stack = Stack::shared();
    let edge = stack.another_edge("edge-replays", &[]).await;
    let [hostile, other, honest] = [(); 3].map(|()| Account::fresh());
    let mut first = Client::connect(&edge.url("view=args")).await;
    first.subscribe(&hostile, &["call.*.*"]).await;
    publish(stack, &hostile, [0]).await;
    let old = first.event().await["cursor"].clone();
    publish(stack, &other, 0..OTHERS).await;
    publish(stack, &hostile, [1]).await;
    first.event().await;

    let mut session = Client::connect(&edge.url("view=args")).await;
    session.subscribe(&honest, &["call.*.*"]).await;
    publish(stack, &honest, [0]).await;
    let recent = session.event().await["cursor"].clone();
    publish(stack, &honest, 1..=10).await;
    for _ in 0..10 {
        session.event().await;
    }

    // More bindings than an edge would read one by one.
    let bindings: Vec<String> = (0..40).map(|call| format!("call.*.{call}")).collect();
    let hostile_sessions = (0..SESSIONS).map(|_| async {
        resume(&edge, &hostile, &bindings, &old).await.event().await["args"]["Call-ID"].clone()
    });
    let honest_session = async {
        let mut client = resume(&edge, &honest, &["call.*.*".to_owned()], &recent).await;
        let mut call_ids = Vec::new();
        for _ in 0..10 {
            call_ids
                .push(client.event().await["args"]["Call-ID"].as_str().unwrap().parse::<usize>().unwrap());
        }
        call_ids.sort();
        call_ids
    };
    let (call_ids, own) = tokio::join!(futures_util::future::join_all(hostile_sessions), honest_session);
    assert_eq!(own, (1..=10).collect::<Vec<_>>());
    assert_eq!(call_ids, vec![json!("1"); SESSIONS]);
    let read = Stack::metric(&edge.service, "blackhole_edge_events_caught_up_total").await;
    assert!(read < OTHERS as f64, "{read} events were read");
}
