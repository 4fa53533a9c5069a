//! Lists of sessions: on the admin port of an edge, and from all edges over NATS.

use std::time::Duration;

use blackhole_common::wire::{EdgeHeartbeat, SessionsReply, SessionsRequest, Subjects};
use blackhole_dev::http;
use blackhole_tests::{
    accounts::Account,
    client::Client,
    eventually, soon,
    stack::{Edge, Stack},
};
use futures_util::StreamExt;
use serde_json::{Value, json};

async fn nats() -> async_nats::Client {
    async_nats::connect(Stack::shared().nats.url()).await.unwrap()
}

fn subjects() -> Subjects {
    Subjects::new("blackhole.v1")
}

/// Asks all edges and waits for complete answers from this many.
async fn ask(request: &SessionsRequest, edges: usize) -> Vec<SessionsReply> {
    let nats = nats().await;
    let inbox = nats.new_inbox();
    let mut answers = nats.subscribe(inbox.clone()).await.unwrap();
    let request = serde_json::to_vec(request).unwrap();
    nats.publish_with_reply(subjects().sessions(), inbox, request.into()).await.unwrap();
    let mut replies: Vec<SessionsReply> = Vec::new();
    while replies.iter().filter(|reply| reply.last && !reply.sessions.is_empty()).count() < edges {
        let answer = soon("an edge's answer", answers.next()).await.unwrap();
        replies.push(serde_json::from_slice(&answer.payload).unwrap());
    }
    replies
}

async fn page(edge: &Edge, query: &str) -> Value {
    let answer = http::get(edge.service.admin(), &format!("/sessions?{query}")).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    serde_json::from_str(&answer.body).unwrap()
}

#[tokio::test]
async fn every_edge_lists_the_sessions_of_an_account_with_their_bindings() {
    let stack = Stack::shared();
    let other = stack.another_edge("listed", &[("WS__HOST", "edge2.example.com")]).await;
    let account = Account::fresh();
    let token = account.token();
    let mut here = Client::connect(&stack.edge.url("")).await;
    here.request(json!({
        "action": "subscribe", "auth_token": token,
        "data": {
            "account_id": account.id, "bindings": ["call.*.*", "object.*.user"],
            "name": "Front \"desk\"", "metadata": { "room": [4, null] },
        },
    }))
    .await;
    let headers = [("authorization", token.as_str())];
    let _there = Client::try_connect(&other.url(""), &headers).await.unwrap();

    let of_account = SessionsRequest { account_id: Some(account.id.clone()), session_id: None };
    let replies = ask(&of_account, 2).await;
    assert!(!serde_json::to_string(&replies).unwrap().contains(&token));
    let mut sessions: Vec<_> = replies.iter().flat_map(|reply| &reply.sessions).collect();
    sessions.sort_by_key(|session| session.bindings.len());
    let [idle, desk] = sessions.as_slice() else { panic!("{sessions:?}") };
    assert_eq!(idle.destination, "edge2.example.com");
    assert_eq!((idle.account_id.as_deref(), idle.source.as_str()), (Some(&*account.id), "127.0.0.1"));
    assert_eq!(desk.bindings, ["call.*.*", "object.*.user"]);
    assert_eq!(desk.name.as_deref(), Some("Front \"desk\""));
    assert_eq!(desk.metadata, Some(json!({ "room": [4, null] })));

    // The same on the admin port of one edge; and a single session by its id, on any edge.
    let shown = page(&stack.edge, &format!("account_id={}", account.id)).await;
    assert_eq!(shown["sessions"], json!([desk]));
    let one = SessionsRequest { account_id: None, session_id: Some(idle.session_id.clone()) };
    let replies = ask(&one, 1).await;
    assert_eq!(replies.iter().flat_map(|reply| &reply.sessions).collect::<Vec<_>>(), [*idle]);
    assert_eq!(page(&stack.edge, &format!("session_id={}", idle.session_id)).await["sessions"], json!([]));

    here.request(json!({ "action": "unsubscribe", "data": { "binding": "call.*.*" } })).await;
    let shown = page(&stack.edge, &format!("session_id={}", desk.session_id)).await;
    assert_eq!(shown["sessions"][0]["bindings"], json!(["object.*.user"]));
    here.close().await;
    eventually("the session's end", || async {
        page(&stack.edge, &format!("account_id={}", account.id)).await["sessions"] == json!([])
    })
    .await;
}

#[tokio::test]
async fn a_list_too_long_for_one_message_is_split() {
    let stack = Stack::shared();
    let account = Account::fresh();
    let mut clients = Vec::new();
    for number in 0..150 {
        let mut client = Client::connect(&stack.edge.url("")).await;
        let data = json!({
            "binding": "call.*.*", "name": format!("{number}"), "metadata": "m".repeat(4000),
        });
        let reply = client
            .request(json!({ "action": "subscribe", "auth_token": account.token(), "data": data }))
            .await;
        assert_eq!(reply["status"], "success");
        clients.push(client);
    }
    let of_account = SessionsRequest { account_id: Some(account.id.clone()), session_id: None };
    let replies = ask(&of_account, 1).await;
    let parts: Vec<&SessionsReply> = replies.iter().filter(|reply| !reply.sessions.is_empty()).collect();
    assert!(parts.len() >= 3, "{}", parts.len());
    assert!(parts.iter().all(|part| part.edge == parts[0].edge));
    let mut names: Vec<usize> = parts
        .iter()
        .flat_map(|part| &part.sessions)
        .map(|session| session.name.as_ref().unwrap().parse().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names, (0..150).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_edge_announces_that_it_runs_and_that_it_leaves() {
    let nats = nats().await;
    let mut beats = nats.subscribe(subjects().edges()).await.unwrap();
    nats.flush().await.unwrap();
    let edge = Stack::shared().another_edge("beating", &[("WS__HOST", "beating.host")]).await;
    let mut beat = async |wanted: &dyn Fn(&EdgeHeartbeat) -> bool| loop {
        let message = tokio::time::timeout(Duration::from_secs(20), beats.next()).await.unwrap().unwrap();
        let beat: EdgeHeartbeat = serde_json::from_slice(&message.payload).unwrap();
        if wanted(&beat) {
            return beat;
        }
    };
    let mut client = Client::connect(&edge.url("view=args")).await;
    client.request(json!({ "action": "ping", "auth_token": Account::fresh().token() })).await;
    beat(&|beat| beat.edge.starts_with("beating.host-") && beat.sessions == Some(1)).await;
    let first = beat(&|beat| beat.edge.starts_with("beating.host-")).await;
    assert!(!first.leaving);
    let second = beat(&|beat| beat.edge == first.edge).await;
    assert!(!second.leaving, "heartbeats continue");
    edge.service.server().stop().await.unwrap();
    let last = beat(&|beat| beat.edge == first.edge && beat.leaving).await;
    assert!(last.sessions.is_some());
}

#[tokio::test]
async fn the_edge_is_a_nats_micro_service() {
    let stack = Stack::shared();
    let nats = nats().await;
    let answer =
        soon("the service's answer", nats.request("$SRV.INFO.blackhole-edge", "".into())).await.unwrap();
    let info: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(info["name"], "blackhole-edge");
    let subjects: Vec<&str> = info["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|endpoint| endpoint["subject"].as_str())
        .collect();
    assert!(subjects.contains(&"blackhole.v1.sessions"), "{info}");
    let edge = info["metadata"]["edge"].as_str().unwrap();
    assert!(!edge.is_empty());

    // A malformed request gets an error, and an empty one lists all sessions.
    let answer =
        soon("an answer", nats.request("blackhole.v1.sessions", r#"{"account_id":5}"#.into())).await.unwrap();
    assert_eq!(answer.headers.unwrap().get("Nats-Service-Error-Code").unwrap().as_str(), "400");
    let account = Account::fresh();
    let mut client = Client::connect(&stack.edge.url("")).await;
    client.subscribe(&account, &["call.*.*"]).await;
    let inbox = nats.new_inbox();
    let mut answers = nats.subscribe(inbox.clone()).await.unwrap();
    nats.publish_with_reply("blackhole.v1.sessions", inbox, "".into()).await.unwrap();
    // Other tests' sessions are listed too.
    let listed = async {
        loop {
            let answer = answers.next().await.unwrap();
            let reply: SessionsReply = serde_json::from_slice(&answer.payload).unwrap();
            if reply.sessions.iter().any(|session| session.account_id.as_ref() == Some(&account.id)) {
                return;
            }
        }
    };
    soon("the session in the list of all", listed).await;
}
