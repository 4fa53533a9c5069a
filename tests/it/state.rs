//! Subscriptions that begin with what is: the last events of living things, and then what follows.

use std::{collections::BTreeSet, time::Duration};

use blackhole_dev::simulator::Publisher;
use blackhole_tests::{
    accounts::{self, Account},
    chaos::deployment::Deployment,
    client::Client,
    events,
    living::{self, Calls},
    stack::Stack,
};
use rand::RngExt;
use serde_json::{Value, json};
use tokio::task::JoinSet;

async fn subscribe(client: &mut Client, account: &Account, bindings: &[&str], more: Value) -> Value {
    let mut data = json!({ "account_id": account.id, "bindings": bindings, "state": true });
    data.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    client.request(json!({ "action": "subscribe", "auth_token": account.token(), "data": data })).await
}

/// The kept events, and the message that ends them.
async fn kept(client: &mut Client) -> (Vec<Value>, Value) {
    let mut kept = Vec::new();
    loop {
        let frame = client.frame().await;
        match frame["action"].as_str().unwrap() {
            "event" => {
                assert_eq!(frame["state"], true, "{frame}");
                kept.push(frame);
            }
            "state" => {
                assert_eq!((&frame["complete"], &frame["events"]), (&json!(true), &json!(kept.len())));
                return (kept, frame);
            }
            _ => panic!("{frame}"),
        }
    }
}

/// Subscribes anew until so many events are kept: the ingest keeps them a moment after they came.
pub(crate) async fn until_kept(
    stack: &Stack,
    account: &Account,
    bindings: &[&str],
    count: usize,
) -> (Client, Vec<Value>, Value) {
    loop {
        let mut client = Client::connect(&stack.edge.url("view=args")).await;
        let reply = subscribe(&mut client, account, bindings, json!({})).await;
        if reply["data"]["state"] == true {
            let (events, end) = kept(&mut client).await;
            if events.len() == count {
                return (client, events, end);
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn words(events: &[Value], member: &str) -> Vec<String> {
    events.iter().map(|event| event["args"][member].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test]
async fn what_lives_comes_first_and_then_what_follows() {
    let stack = Stack::shared();
    let (account, other) = (Account::fresh(), Account::fresh());
    let publisher = stack.publisher().await;
    for (account, name, call) in [
        (&account, "CHANNEL_CREATE", "one"),
        (&account, "CHANNEL_CREATE", "two"),
        (&other, "CHANNEL_CREATE", "one"),
        (&account, "CHANNEL_CREATE", "three"),
        (&account, "CHANNEL_ANSWER", "one"),
        (&account, "CHANNEL_DESTROY", "two"),
    ] {
        events::call(account, name, call).publish(&publisher).await;
    }
    let (mut client, kept_events, end) = until_kept(stack, &account, &["call.*.*"], 2).await;
    assert_eq!(words(&kept_events, "Call-ID"), ["three", "one"], "the oldest first");
    assert_eq!(words(&kept_events, "Event-Name"), ["CHANNEL_CREATE", "CHANNEL_ANSWER"], "the last of each");
    assert!(end["kept_since"].is_u64() && end["cursor"].is_string(), "{end}");
    events::call(&account, "CHANNEL_DESTROY", "one").publish(&publisher).await;
    let event = client.event().await;
    assert_eq!((&event["name"], event.get("state")), (&json!("CHANNEL_DESTROY"), None), "{event}");
    // Another account's call with the same id lives on.
    let (_, kept_events, _) = until_kept(stack, &other, &["call.*.*"], 1).await;
    assert_eq!(words(&kept_events, "Call-ID"), ["one"]);
    // What a binding does not match is not kept for it.
    until_kept(stack, &account, &["call.CHANNEL_CREATE.*"], 1).await;
    until_kept(stack, &account, &["call.CHANNEL_ANSWER.*"], 0).await;
}

#[tokio::test]
async fn a_client_that_resumes_needs_the_state_only_if_its_gap_is_lost() {
    let stack = Stack::shared();
    let account = Account::fresh();
    let publisher = stack.publisher().await;
    events::call(&account, "CHANNEL_CREATE", "one").publish(&publisher).await;
    let (_, kept_events, _) = until_kept(stack, &account, &["call.*.*"], 1).await;
    let since = kept_events[0]["cursor"].clone();
    events::call(&account, "CHANNEL_CREATE", "two").publish(&publisher).await;
    until_kept(stack, &account, &["call.*.*"], 2).await;
    let mut client = Client::connect(&stack.edge.url("view=args")).await;
    let reply = subscribe(&mut client, &account, &["call.*.*"], json!({ "since": since })).await;
    assert_eq!(
        (&reply["data"]["recovered"], &reply["data"]["state"]),
        (&json!(true), &json!(true)),
        "{reply}"
    );
    assert_eq!(kept(&mut client).await.0.len(), 0, "it has that");
    assert_eq!(client.event().await["args"]["Call-ID"], "two");
    let mut client = Client::connect(&stack.edge.url("view=args")).await;
    let lost = json!({ "since": "AAAAAAAAAAAAAAAAAAAAAAAA" });
    let reply = subscribe(&mut client, &account, &["call.*.*"], lost).await;
    assert_eq!(
        (&reply["data"]["recovered"], &reply["data"]["reason"], &reply["data"]["state"]),
        (&json!(false), &json!("unknown cursor"), &json!(true)),
        "{reply}"
    );
    assert_eq!(words(&kept(&mut client).await.0, "Call-ID"), ["one", "two"]);
}

#[tokio::test]
async fn the_account_and_its_realm_have_one_call() {
    let stack = Stack::shared();
    let account = Account::fresh();
    let publisher = stack.publisher().await;
    events::call_of_realm(&account.realm, "CHANNEL_CREATE", "one").publish(&publisher).await;
    let (_, kept_events, _) = until_kept(stack, &account, &["call.*.*"], 1).await;
    assert_eq!(words(&kept_events, "Event-Name"), ["CHANNEL_CREATE"]);
    events::call(&account, "CHANNEL_ANSWER", "one").publish(&publisher).await;
    let kept_events = loop {
        let (_, kept_events, _) = until_kept(stack, &account, &["call.*.*"], 1).await;
        if words(&kept_events, "Event-Name") == ["CHANNEL_ANSWER"] {
            break kept_events;
        }
    };
    assert_eq!(words(&kept_events, "Call-ID"), ["one"]);
    events::call_of_realm(&account.realm, "CHANNEL_DESTROY", "one").publish(&publisher).await;
    until_kept(stack, &account, &["call.*.*"], 0).await;
}

#[tokio::test]
async fn other_families_have_things_too() {
    let stack = Stack::shared();
    let account = Account::fresh();
    let publisher = stack.publisher().await;
    let presence = |call: &str, who: &str, state: &str| {
        let realm = account.realm.replace('.', "%2E");
        let members =
            json!({ "Presence-ID": format!("{who}@{}", account.realm), "Call-ID": call, "State": state });
        events::any("presence", format!("update.{realm}.{call}"), "update", members)
    };
    let fax = |id: &str, state: &str| {
        let mut event = events::fax(&account, id);
        event.body["Fax-State"] = state.into();
        event
    };
    for event in [
        events::conference(&account, "add-member", "room", "one"),
        events::conference(&account, "add-member", "room", "two"),
        events::conference(&account, "del-member", "room", "one"),
        events::conference(&account, "lock", "room", "three"),
        presence("c1", "1001", "early"),
        presence("c1", "1002", "confirmed"),
        presence("c1", "1001", "terminated"),
        fax("f1", "send"),
        fax("f2", "send"),
        fax("f1", "end"),
    ] {
        event.publish(&publisher).await;
    }
    let bindings = ["conference.event.room.*", "presence.update.*", "fax.status.*"];
    let (_, kept_events, _) = until_kept(stack, &account, &bindings, 3).await;
    let ids: Vec<&Value> = kept_events
        .iter()
        .map(|event| &event["args"])
        .map(|body| body.get("Job-ID").unwrap_or(&body["Call-ID"]))
        .collect();
    assert_eq!(ids, ["two", "c1", "f2"]);
    // Nothing is kept of other bindings, and they work.
    let mut client = Client::connect(&stack.edge.url("view=args")).await;
    let reply = subscribe(&mut client, &account, &["object.*.*"], json!({})).await;
    assert_eq!(
        (&reply["status"], &reply["data"]["state"], &reply["data"]["state_reason"]),
        (&json!("success"), &json!(false), &json!("nothing is kept of these bindings"))
    );
    let reply = subscribe(&mut client, &account, &["call.*.*"], json!({ "state": "yes" })).await;
    assert_eq!(reply["data"]["errors"][0], "invalid state : must be true or false");
}

#[tokio::test]
async fn a_superduper_admin_gets_the_state_of_all() {
    let stack = Stack::shared();
    let account = Account::fresh();
    let publisher = stack.publisher().await;
    events::call(&account, "CHANNEL_CREATE", "for-all").publish(&publisher).await;
    until_kept(stack, &account, &["call.*.*"], 1).await;
    let mut client = Client::connect(&stack.edge.url("view=args")).await;
    let data = json!({ "account_id": "*", "bindings": ["call.*.*"], "state": true });
    let top = Account { id: accounts::TOP.to_owned(), realm: String::new() };
    client.request(json!({ "action": "subscribe", "auth_token": top.token(), "data": data })).await;
    let mut found = 0;
    let (mut kept_events, mut is_complete) = (0, false);
    while !is_complete {
        let frame = client.frame().await;
        is_complete = frame["action"] == "state";
        kept_events += usize::from(frame["action"] == "event");
        let is_own = frame["args"]["Custom-Channel-Vars"]["Account-ID"] == json!(account.id);
        found += usize::from(is_own && frame["state"] == true);
    }
    assert!(found == 1 && kept_events > 0);
}

/// The kept events are read at the server that leads their stream, which changes meanwhile.
#[tokio::test]
async fn a_cluster_keeps_the_state() {
    let deployment = Deployment::start(true).await;
    let urls: Vec<String> = deployment.nats.servers().iter().map(|server| server.url()).collect();
    let nats = async_nats::connect(urls).await.unwrap();
    let calls = Calls::new(2);
    let publisher = Publisher::connect(&deployment.rabbitmq.url()).await.unwrap();
    let mut joined = 0;
    let joins = async {
        // Nothing is kept before the first keeper has begun.
        while joined < 30 {
            let url = format!("ws://127.0.0.1:{}/?view=args", deployment.edges[joined % 2].port);
            match living::join(&calls, joined % 2, &url, false).await.unwrap() {
                Some(_) => joined += 1,
                None => tokio::time::sleep(Duration::from_millis(200)).await,
            }
            if joined % 10 == 5 {
                let step_down = "$JS.API.STREAM.LEADER.STEPDOWN.BLACKHOLE_V1_STATE";
                let _ = nats.request(step_down, "".into()).await;
            }
        }
    };
    calls.run(&publisher, 30, 50, joins).await;
}

/// 60 clients join at random times on two edges, while calls begin and end at 100 a second and the ingest is killed.
#[tokio::test]
async fn every_client_believes_in_exactly_the_calls_that_live() {
    let stack = Stack::start("state").await;
    let other = stack.another_edge("edge-state", &[]).await;
    let early = Account::fresh();
    events::call(&early, "CHANNEL_CREATE", "one").publish(&stack.publisher().await).await;
    until_kept(&stack, &early, &["call.*.*"], 1).await;
    let calls = Calls::new(3);
    let publisher = stack.publisher().await;
    let time = Duration::from_secs(12);
    let mut clients = JoinSet::new();
    for client in 0..60 {
        let url = if client % 2 == 0 { stack.edge.url("view=args") } else { other.url("view=args") };
        let (calls, wait) = (std::sync::Arc::clone(&calls), rand::rng().random_range(Duration::ZERO..time));
        clients.spawn(async move {
            tokio::time::sleep(wait).await;
            (client, wait, living::join(&calls, client % 3, &url, true).await)
        });
    }
    let kill = async {
        tokio::time::sleep(time / 3).await;
        stack.amqp_ingest.server().kill().await.unwrap();
        stack.amqp_ingest.server().start_again().await.unwrap();
        tokio::time::sleep(time * 2 / 3).await;
    };
    calls.run(&publisher, 100, 200, kill).await;
    let (mut wrong, mut completes, mut kept_at) = (Vec::new(), Vec::new(), BTreeSet::new());
    while let Some(result) = clients.join_next().await {
        match result.unwrap() {
            (client, wait, Ok(Some(joined))) => {
                completes.push(joined.complete);
                kept_at.insert((wait, joined.kept, client, joined.correct));
            }
            (client, wait, other) => wrong.push(format!("client {client}, after {wait:?}: {other:?}")),
        }
    }
    completes.sort();
    blackhole_tests::chaos::show(format_args!(
        "complete after {:?} (p50), {:?} (max); {kept_at:?}",
        completes.get(completes.len() / 2),
        completes.last()
    ));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(kept_at.iter().any(|(_, kept, ..)| *kept > 30), "the state was used");
}
