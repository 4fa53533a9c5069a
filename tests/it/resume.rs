//! Cursors and `since`: with the last cursor, a client resumes on any edge without missing an event.

use std::time::{Duration, Instant};

use async_nats::jetstream::{ErrorCode, context::GetStreamErrorKind};
use blackhole_tests::{
    accounts::Account,
    client::{Client, Incoming},
    events,
    stack::{Edge, Stack},
};
use serde_json::{Value, json};

async fn subscribe_since(client: &mut Client, account: &Account, bindings: &[&str], since: &str) -> Value {
    let data = json!({ "account_id": account.id, "bindings": bindings, "since": since });
    client.request(json!({ "action": "subscribe", "auth_token": account.token(), "data": data })).await
}

/// A new client of an edge that has resumed; panics unless the history was recovered.
async fn resumed(edge: &Edge, account: &Account, bindings: &[&str], since: &str) -> Client {
    let mut client = Client::connect(&edge.url("view=args")).await;
    let reply = subscribe_since(&mut client, account, bindings, since).await;
    assert_eq!((&reply["status"], &reply["data"]["recovered"]), (&json!("success"), &json!(true)), "{reply}");
    client
}

async fn publish(stack: &Stack, account: &Account, numbers: std::ops::Range<u64>) {
    let publisher = stack.publisher().await;
    for number in numbers {
        let name = ["CHANNEL_CREATE", "CHANNEL_DESTROY"][(number % 2) as usize];
        let mut event = events::call(account, name, "one-call");
        event.body["Number"] = number.into();
        event.publish(&publisher).await;
    }
}

async fn numbers(client: &mut Client, count: usize) -> Vec<u64> {
    let mut numbers = Vec::new();
    for _ in 0..count {
        numbers.push(client.event().await["args"]["Number"].as_u64().unwrap());
    }
    numbers
}

fn cursor(event: &Value) -> String {
    event["cursor"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn missed_events_are_replayed_before_live_events_on_any_edge() {
    let stack = Stack::shared();
    let other = stack.another_edge("edge-resume", &[]).await;
    let account = Account::fresh();
    let mut client = Client::connect(&stack.edge.url("view=args")).await;
    client.subscribe(&account, &["call.*.*"]).await;
    publish(stack, &account, 0..3).await;
    let second = [client.event().await, client.event().await][1].clone();
    drop(client);
    publish(stack, &account, 3..10).await;
    for edge in [&stack.edge, &other] {
        let mut client = resumed(edge, &account, &["call.*.*"], &cursor(&second)).await;
        assert_eq!(numbers(&mut client, 8).await, (2..10).collect::<Vec<_>>());
    }
    let mut client = resumed(&other, &account, &["call.*.*"], &cursor(&second)).await;
    publish(stack, &account, 10..12).await;
    assert_eq!(numbers(&mut client, 10).await, (2..12).collect::<Vec<_>>());
}

#[tokio::test]
async fn history_is_replayed_once_for_each_binding() {
    let stack = Stack::shared();
    let account = Account::fresh();
    let mut client = Client::connect(&stack.edge.url("view=args")).await;
    client.subscribe(&account, &["call.*.*"]).await;
    publish(stack, &account, 0..1).await;
    let since = cursor(&client.event().await);
    publish(stack, &account, 1..21).await;
    let bindings = ["call.*.*", "call.CHANNEL_CREATE.*", "call.CHANNEL_DESTROY.one-call", "call.#"];
    let mut client = resumed(&stack.edge, &account, &bindings, &since).await;
    publish(stack, &account, 21..41).await;
    let mut by_binding = std::collections::HashMap::<String, Vec<u64>>::new();
    for _ in 0..3 * 40 {
        let event = client.event().await;
        let binding = event["subscribed_key"].as_str().unwrap().to_owned();
        by_binding.entry(binding).or_default().push(event["args"]["Number"].as_u64().unwrap());
    }
    let of = |remainder: u64| (1..41).filter(|number| number % 2 == remainder).collect::<Vec<_>>();
    assert_eq!(by_binding["call.*.*"], (1..41).collect::<Vec<_>>());
    assert_eq!(by_binding["call.#"], (1..41).collect::<Vec<_>>());
    assert_eq!(by_binding["call.CHANNEL_CREATE.*"], of(0));
    assert_eq!(by_binding["call.CHANNEL_DESTROY.one-call"], of(1));
}

#[tokio::test]
async fn a_live_session_may_replay_history_for_a_further_binding() {
    let stack = Stack::shared();
    let account = Account::fresh();
    let mut client = Client::connect(&stack.edge.url("view=args")).await;
    client.subscribe(&account, &["call.CHANNEL_CREATE.*"]).await;
    publish(stack, &account, 0..6).await;
    let first = client.event().await;
    assert_eq!(numbers(&mut client, 2).await, [2, 4]);
    let reply = subscribe_since(&mut client, &account, &["call.CHANNEL_DESTROY.*"], &cursor(&first)).await;
    assert_eq!(reply["data"]["recovered"], true);
    assert_eq!(reply["data"]["subscriptions"], json!(["call.CHANNEL_CREATE.*", "call.CHANNEL_DESTROY.*"]));
    publish(stack, &account, 6..8).await;
    assert_eq!(
        numbers(&mut client, 5).await,
        [1, 3, 5, 6, 7],
        "the missed events of the new binding, and no duplicates for the other one"
    );
}

#[tokio::test]
async fn a_session_without_events_resumes_from_the_cursor_of_a_reply() {
    let stack = Stack::shared();
    let (account, busy) = (Account::fresh(), Account::fresh());
    let mut client = Client::connect(&stack.edge.url("view=args")).await;
    let reply = client.subscribe(&account, &["call.*.*"]).await;
    let subscribed = cursor(&reply["data"]);
    publish(stack, &busy, 0..3).await;
    // Events of other accounts advance its position.
    let moved = async {
        while cursor(&client.request(json!({ "action": "ping" })).await["data"]) == subscribed {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    blackhole_tests::soon("a newer cursor", moved).await;
    publish(stack, &account, 0..2).await;
    assert_eq!(numbers(&mut client, 2).await, [0, 1]);
    let mut client = resumed(&stack.edge, &account, &["call.*.*"], &subscribed).await;
    assert_eq!(numbers(&mut client, 2).await, [0, 1], "the events since the reply");
}

#[tokio::test]
async fn history_is_replayed_for_bindings_with_unusual_characters_and_for_realms() {
    let stack = Stack::shared();
    let account = Account::fresh();
    let mut client = Client::connect(&stack.edge.url("view=args")).await;
    client.subscribe(&account, &["call.*.*"]).await;
    let publisher = stack.publisher().await;
    events::call(&account, "CHANNEL_CREATE", "first").publish(&publisher).await;
    let since = cursor(&client.event().await);
    events::call_of_realm(&account.realm.to_uppercase(), "CHANNEL_CREATE", "Zoë *>. 1")
        .publish(&publisher)
        .await;
    events::call(&account, "CHANNEL_ANSWER", "Zoë *>. 1").publish(&publisher).await;
    events::call(&Account::fresh(), "CHANNEL_ANSWER", "Zoë *>. 1").publish(&publisher).await;
    events::fax(&account, "f").publish(&publisher).await;
    let mut client = resumed(&stack.edge, &account, &["call.*.Zoë *>%2E 1", "fax.status.*"], &since).await;
    let names: Vec<Value> = [client.event().await, client.event().await, client.event().await]
        .map(|event| event["name"].clone())
        .into();
    assert_eq!(names, ["CHANNEL_CREATE", "CHANNEL_ANSWER", "status"]);
}

#[tokio::test]
async fn since_may_be_a_time() {
    let stack = Stack::start_with("since-time", &[]).await;
    let account = Account::fresh();
    let mut first = Client::connect(&stack.edge.url("view=args")).await;
    first.subscribe(&account, &["call.*.*"]).await;
    publish(&stack, &account, 0..3).await;
    assert_eq!(numbers(&mut first, 3).await, [0, 1, 2]);
    let mut watcher = Client::connect(&stack.edge.url("view=args")).await;
    let reply = subscribe_since(&mut watcher, &account, &["call.*.*"], "-1h").await;
    assert_eq!(reply["data"]["recovered"], false, "the stream is newer than that: {reply}");
    assert_eq!(reply["data"]["reason"], "cursor expired");
    // `since` reaches back to the middle of a pause between the events.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let pause = Instant::now() - Duration::from_secs(1);
    publish(&stack, &account, 3..5).await;
    assert_eq!(numbers(&mut watcher, 2).await, [3, 4]);
    let since = format!("-{}ms", pause.elapsed().as_millis());
    let mut client = resumed(&stack.edge, &account, &["call.*.*"], &since).await;
    publish(&stack, &account, 5..6).await;
    assert_eq!(numbers(&mut client, 3).await, [3, 4, 5]);
}

#[tokio::test]
async fn a_malformed_time_is_an_error() {
    let stack = Stack::shared();
    let mut client = Client::connect(&stack.edge.url("view=args")).await;
    for bad in ["-", "-5", "-5 parsecs"] {
        let reply = subscribe_since(&mut client, &Account::fresh(), &["call.*.*"], bad).await;
        let expected = "invalid since : must be the cursor of an event, or a time back such as -5m";
        assert_eq!(reply["data"]["errors"], json!([expected]), "{bad}");
    }
}

#[tokio::test]
async fn a_cursor_that_an_edge_does_not_understand_recovers_nothing_and_live_events_follow() {
    let stack = Stack::shared();
    let account = Account::fresh();
    let mut watcher = Client::connect(&stack.edge.url("view=args")).await;
    watcher.subscribe(&account, &["call.*.*"]).await;
    publish(stack, &account, 0..1).await;
    let known = cursor(&watcher.event().await);
    let of_a_newer_edge = format!("v2.{known}");
    for (unknown, number) in
        ["", "nonsense", "AAAAAAAAAAAAAAAAAAAAAAAA", &of_a_newer_edge].into_iter().zip(1..)
    {
        let mut client = Client::connect(&stack.edge.url("view=args")).await;
        let reply = subscribe_since(&mut client, &account, &["call.*.*"], unknown).await;
        assert_eq!(
            (&reply["status"], &reply["data"]["recovered"], &reply["data"]["reason"]),
            (&json!("success"), &json!(false), &json!("unknown cursor")),
            "{reply}"
        );
        publish(stack, &account, number..number + 1).await;
        assert_eq!(numbers(&mut client, 1).await, [number], "only new events");
    }
}

#[tokio::test]
async fn a_cursor_of_another_stream_is_unknown() {
    let stack = Stack::start_with("since-unknown", &[]).await;
    let account = Account::fresh();
    let mut client = Client::connect(&stack.edge.url("view=args")).await;
    client.subscribe(&account, &["call.*.*"]).await;
    publish(&stack, &account, 0..1).await;
    let since = cursor(&client.event().await);

    let nats = async_nats::connect(stack.nats.url()).await.unwrap();
    let jetstream = async_nats::jetstream::new(nats);
    jetstream.delete_stream("BLACKHOLE_V1").await.unwrap();
    // The ingest creates the stream again for the first event that is not stored.
    publish(&stack, &account, 1..3).await;
    assert_eq!(numbers(&mut client, 2).await, [1, 2], "an existing session continues");
    for binding in ["call.*.*", "call.#"] {
        let mut client = Client::connect(&stack.edge.url("view=args")).await;
        let reply = subscribe_since(&mut client, &account, &[binding], &since).await;
        assert_eq!(
            (&reply["data"]["recovered"], &reply["data"]["reason"]),
            (&json!(false), &json!("unknown stream")),
            "{reply}"
        );
        publish(&stack, &account, 9..10).await;
        assert_eq!(numbers(&mut client, 1).await, [9], "only new events");
    }
}

#[tokio::test]
async fn an_expired_cursor_recovers_nothing() {
    let stack = Stack::start_with("since-expired", &[("HISTORY__MAX_AGE", "1s")]).await;
    let account = Account::fresh();
    let mut client = Client::connect(&stack.edge.url("view=args")).await;
    client.subscribe(&account, &["call.*.*"]).await;
    publish(&stack, &account, 0..2).await;
    let since = cursor(&client.event().await);
    let jetstream = async_nats::jetstream::new(async_nats::connect(stack.nats.url()).await.unwrap());
    blackhole_tests::eventually("the history to pass", || async {
        let mut stream = jetstream.get_stream("BLACKHOLE_V1").await.unwrap();
        stream.info().await.unwrap().state.messages == 0
    })
    .await;
    publish(&stack, &account, 2..3).await;
    assert_eq!(numbers(&mut client, 2).await, [1, 2], "it is stored before the other one subscribes");
    let mut late = Client::connect(&stack.edge.url("view=args")).await;
    let reply = subscribe_since(&mut late, &account, &["call.*.*"], &since).await;
    assert_eq!(
        (&reply["data"]["recovered"], &reply["data"]["reason"]),
        (&json!(false), &json!("cursor expired"))
    );
    publish(&stack, &account, 3..4).await;
    assert_eq!(numbers(&mut late, 1).await, [3]);
}

#[tokio::test]
async fn without_history_there_are_no_cursors_and_since_is_refused() {
    let stack = Stack::start_with("no-history", &[("HISTORY__MAX_AGE", "0s")]).await;
    let account = Account::fresh();
    let mut client = Client::connect(&stack.edge.url("view=args")).await;
    let reply = subscribe_since(&mut client, &account, &["call.*.*"], "-5m").await;
    assert_eq!(reply["data"]["errors"], json!(["there is no history here : since is not possible"]));
    client.subscribe(&account, &["call.*.*", "call.CHANNEL_CREATE.*"]).await;
    publish(&stack, &account, 0..2).await;
    let event = client.event().await;
    assert_eq!(event.get("cursor"), None, "{event}");
    assert_eq!(numbers(&mut client, 2).await, [0, 1]);
    // It recovers from the loss of either broker. Meanwhile events wait in RabbitMQ's queue.
    stack.nats.server().kill().await.unwrap();
    Stack::until_ready(&stack.amqp_ingest, false).await;
    publish(&stack, &account, 2..3).await;
    stack.nats.server().start_again().await.unwrap();
    Stack::until_ready(&stack.amqp_ingest, true).await;
    Stack::until_ready(&stack.edge.service, true).await;
    stack.rabbitmq.close_all_connections().await.unwrap();
    Stack::until_ready(&stack.amqp_ingest, true).await;
    // Events published before the edge had reconnected are lost without history; later ones arrive.
    publish(&stack, &account, 3..4).await;
    while numbers(&mut client, 1).await != [3] {}
    let jetstream = async_nats::jetstream::new(async_nats::connect(stack.nats.url()).await.unwrap());
    let missing = jetstream.get_stream("BLACKHOLE_V1").await.unwrap_err();
    let GetStreamErrorKind::JetStream(missing) = missing.kind() else { panic!("{missing}") };
    assert_eq!(missing.error_code(), ErrorCode::STREAM_NOT_FOUND, "no stream is created");
}

#[tokio::test]
async fn turning_history_off_deletes_the_stream_and_turning_it_on_creates_a_new_one() {
    let stack = Stack::start_with("history-off", &[]).await;
    let account = Account::fresh();
    let mut client = Client::connect(&stack.edge.url("view=args")).await;
    client.subscribe(&account, &["call.*.*"]).await;
    publish(&stack, &account, 0..1).await;
    let since = cursor(&client.event().await);
    stack.amqp_ingest.server().stop().await.unwrap();
    let off = stack.another_ingest("ingest-off", &[("HISTORY__MAX_AGE", "0s")]).await;
    publish(&stack, &account, 1..2).await;
    let event = client.event().await;
    assert_eq!((&event["args"]["Number"], event.get("cursor")), (&json!(1), None));
    blackhole_tests::eventually("the edge to know", || async {
        let client = Client::connect(&stack.edge.url("")).await;
        let data = json!({ "account_id": account.id, "binding": "call.*.*", "since": since });
        let request = json!({ "action": "subscribe", "auth_token": account.token(), "data": data });
        client.send_text(request.to_string()).await;
        let expected = json!(["there is no history here : since is not possible"]);
        // Until the edge knows, it may accept `since`, and close the session later.
        matches!({ client }.incoming().await, Incoming::Json(reply) if reply["data"]["errors"] == expected)
    })
    .await;
    off.server().stop().await.unwrap();
    stack.amqp_ingest.server().start_again().await.unwrap();
    publish(&stack, &account, 2..3).await;
    let event = client.event().await;
    assert_eq!(event["args"]["Number"], 2);
    assert_ne!(cursor(&event), since);
}
