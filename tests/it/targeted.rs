//! The actions `relay.publish` and `dialog.push`: the messages on NATS, and the replies to the client.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use blackhole_common::wire::{Subjects, TargetedRequest};
use blackhole_dev::{services::Service, workspace::RunDir};
use blackhole_tests::{
    accounts::{self, Account, AccountPair},
    client::Client,
    soon,
    stack::{self, Edge, Stack},
};
use futures_util::StreamExt;
use serde_json::{Value, json};

const PREFIX: &str = "targeted.v1";

/// A separate deployment on the shared NATS server without an ingest, which the test stands in for.
async fn deployment() -> (RunDir, Service, Edge) {
    let shared = Stack::shared();
    let dir = RunDir::create("targeted").unwrap();
    std::fs::write(dir.path().join("accounts.toml"), accounts::file()).unwrap();
    let env = [
        ("NATS__URL", shared.nats.url()),
        ("NATS__PREFIX", PREFIX.to_owned()),
        ("AUTH__ACCOUNTS_FILE", dir.path().join("accounts.toml").display().to_string()),
        ("AUTH__JWT__HS256_SECRET", accounts::SECRET.to_owned()),
    ];
    let auth_svc = Service::start("auth-svc", &stack::binaries().auth_svc, dir.path(), &env).await.unwrap();
    let settings = [("NATS__PREFIX", PREFIX), ("WS__HOST", "edge1"), ("WS__REQUEST_TIMEOUT", "5s")];
    let edge = shared.another_edge("targeted", &settings).await;
    (dir, auth_svc, edge)
}

async fn send(client: &mut Client, action: &str, data: Value) -> Value {
    client.request(json!({ "action": action, "request_id": "m1", "data": data })).await
}

async fn error(client: &mut Client, action: &str, data: Value) -> Value {
    let reply = send(client, action, data).await;
    assert_eq!(reply["status"], "error", "{reply}");
    reply["data"]["errors"][0].clone()
}

#[tokio::test]
async fn messages_reach_the_ingest_with_the_account_that_was_granted() {
    let (_dir, _auth_svc, edge) = deployment().await;
    let family = AccountPair::fresh();
    let expires = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(600);
    let token = accounts::signed(&json!({
        "iss": "kazoo", "account_id": family.parent.id, "id": "token-1", "exp": expires.as_secs(),
    }));
    let mut client = Client::connect(&edge.url("")).await;
    client.request(json!({ "action": "ping", "auth_token": token })).await;

    let relay = |more: Value| {
        let mut data = json!({ "Server-ID": "queue-1", "params": { "Text": "hi", "Account-ID": "victim" } });
        data.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        data
    };
    let unsent = "the message could not be sent, try again";
    assert_eq!(error(&mut client, "relay.publish", relay(json!({}))).await, unsent, "there is no ingest");

    let nats = async_nats::connect(Stack::shared().nats.url()).await.unwrap();
    let mut messages = nats.subscribe(Subjects::new(PREFIX).targeted()).await.unwrap();
    nats.flush().await.unwrap();
    // What the ingest receives, and the reply to the client when the ingest gives this answer.
    let mut exchange = async |action: &str, data: Value, answer: &str| {
        let mut reply = std::pin::pin!(send(&mut client, action, data));
        let message = tokio::select! {
            message = soon("the message", messages.next()) => message.unwrap(),
            reply = &mut reply => panic!("replied before the ingest was asked: {reply}"),
        };
        nats.publish(message.reply.clone().unwrap(), answer.to_owned().into()).await.unwrap();
        (serde_json::from_slice::<TargetedRequest>(&message.payload).unwrap(), reply.await)
    };

    let (asked, reply) = exchange("relay.publish", relay(json!({})), "{}").await;
    assert_eq!((&reply["status"], &reply["data"]), (&json!("success"), &json!({})));
    assert_eq!((asked.server_id.as_str(), asked.zone), ("queue-1", None));
    let version = asked.body["App-Version"].clone();
    assert_eq!(
        Value::Object(asked.body),
        json!({
            "Account-ID": family.parent.id, "App-Name": "blackhole", "App-Version": version,
            "Event-Category": "relay", "Event-Name": "broadcast", "Msg-ID": "m1", "Node": "blackhole@edge1",
            "Relay-ID": "token-1", "Server-ID": "", "Text": "hi",
        })
    );
    let push = json!({ "Server-ID": "queue-2", "account_id": family.child.id, "Dialog-ID": "d" });
    let (asked, reply) = exchange("dialog.push", push, "{}").await;
    assert_eq!(reply["status"], "success");
    assert_eq!(asked.body["Account-ID"], json!(family.child.id), "an account below the token's");
    assert_eq!((&asked.body["Event-Name"], &asked.body["Dialog-ID"]), (&json!("push"), &json!("d")));
    assert_eq!(asked.body["Server-ID"], "queue-2");

    let (_, reply) =
        exchange("relay.publish", relay(json!({})), r#"{"error":"the broker at 10.0.0.1 is away"}"#).await;
    assert_eq!(reply["data"]["errors"], json!([unsent]), "the error of the ingest is only logged");
    let silent = "nobody confirmed the message in time, it may have been sent";
    assert_eq!(error(&mut client, "relay.publish", relay(json!({}))).await, silent);
    soon("the message that was not answered", messages.next()).await.unwrap();

    // None of these is sent.
    let stranger = Account::fresh();
    for (data, expected) in [
        (relay(json!({ "account_id": stranger.id })), "unauthorized account id"),
        (relay(json!({ "account_id": "*" })), "invalid account_id : must be one account"),
        (relay(json!({ "Server-ID": "" })), "invalid Server-ID : must have 1 to 255 bytes"),
        (relay(json!({ "Server-ID": "a\u{1b}b" })), "invalid Server-ID : must not have control characters"),
        (relay(json!({ "Server-ID": null })), "missing required keys : Server-ID"),
        (relay(json!({ "params": null })), "missing required keys : params"),
    ] {
        assert_eq!(error(&mut client, "relay.publish", data.clone()).await, expected, "{data}");
    }
    let mut nobody = Client::connect(&edge.url("")).await;
    assert_eq!(error(&mut nobody, "dialog.push", relay(json!({}))).await, "authentication token required");
    nats.publish(Subjects::new(PREFIX).targeted(), "the end".into()).await.unwrap();
    assert_eq!(soon("the end", messages.next()).await.unwrap().payload, "the end");
}
