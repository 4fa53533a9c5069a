//! The list of sockets: for Crossbar, and on the ingest's admin port.

use std::time::{Duration, Instant};

use blackhole_common::wire::SessionInfo;
use blackhole_dev::http;
use blackhole_tests::soon;
use serde_json::{Value, json};

use super::{
    Deployment,
    edge::{Behaviour, Edge, session},
};

/// The session ids in an answer, sorted.
fn ids(answer: &Value) -> Vec<&str> {
    let sockets = answer["Data"].as_array().unwrap();
    let mut ids: Vec<&str> =
        sockets.iter().map(|socket| socket["websocket_session_id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    ids
}

/// Waits until the ingest has listened long enough to know all edges: then it answers as soon as they have answered.
async fn until_all_edges_are_known(deployment: &Deployment) {
    let mut kazoo = deployment.kazoo("settling").await;
    soon("an answer without a wait for unknown edges", async {
        loop {
            let asked = Instant::now();
            kazoo.sockets(json!({ "Account-ID": "nobody" })).await;
            if asked.elapsed() < Duration::from_millis(500) {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn crossbar_gets_every_socket_of_the_account_and_silent_edges_are_logged() {
    let deployment = Deployment::start("listing").await;
    let client = deployment.client().await;
    let described = SessionInfo {
        name: Some("Front \"desk\"".into()),
        metadata: Some(json!({ "room": [4, null], "ünï": "\u{1f4de}" })),
        ..session("a1", "acc")
    };
    let several = vec![described, session("a2", "acc"), session("a3", "acc"), session("x1", "other")];
    let _one = Edge::start(&client, "edge-a", Behaviour::Complete, several).await;
    let two = vec![session("b1", "acc"), session("x2", "other")];
    let _other = Edge::start(&client, "edge-b", Behaviour::Complete, two).await;
    let silent = Edge::start(&client, "edge-c", Behaviour::Silent, vec![session("c1", "acc")]).await;
    deployment.until_missing("edge-c").await;
    let mut kazoo = deployment.kazoo("crossbar@apps01-5f2a").await;

    // One of three edges does not answer, but sends heartbeats.
    let asked = Instant::now();
    let answer = kazoo.sockets(json!({ "Account-ID": "acc", "Auth-Account-ID": "master" })).await;
    assert!(asked.elapsed() < Duration::from_secs(2), "longer than KAZOO waits: {:?}", asked.elapsed());
    assert_eq!(ids(&answer), ["a1", "a2", "a3", "b1"]);
    let mut members: Vec<&str> = answer.as_object().unwrap().keys().map(String::as_str).collect();
    members.sort_unstable();
    assert_eq!(
        members,
        ["App-Name", "App-Version", "Data", "Event-Category", "Event-Name", "Msg-ID", "Node"]
    );
    assert_eq!(
        (&answer["Event-Category"], &answer["Event-Name"], &answer["App-Name"]),
        (&json!("websockets"), &json!("get_resp"), &json!("blackhole"))
    );
    assert!(answer["Node"].as_str().unwrap().starts_with("blackhole@"), "{answer}");
    let sockets = answer["Data"].as_array().unwrap();
    let socket = sockets.iter().find(|socket| socket["websocket_session_id"] == "a1").unwrap();
    assert_eq!(
        *socket,
        json!({
            "bindings": ["call.*.*", "fax.status.a1"], "websocket_session_id": "a1",
            "timestamp": 63_962_692_803_u64, "name": "Front \"desk\"",
            "metadata": { "room": [4, null], "ünï": "\u{1f4de}" },
            "destination": "edge1.example.com", "source": "192.0.2.7",
        })
    );
    let partial = deployment.logged("a list of sessions is partial");
    let [line] = partial.as_slice() else { panic!("{partial:?}") };
    assert!(line.contains("edge-c") && !line.contains("edge-a") && !line.contains("edge-b"), "{line}");
    assert_eq!(deployment.counted("sessions", "partial").await, 1);

    // After it has left, no answer waits for it.
    silent.leave().await;
    until_all_edges_are_known(&deployment).await;
    let partial = deployment.counted("sessions", "partial").await;
    let asked = Instant::now();
    assert_eq!(ids(&kazoo.sockets(json!({ "Account-ID": "other" })).await), ["x1", "x2"]);
    assert!(asked.elapsed() < Duration::from_millis(900), "{:?}", asked.elapsed());

    // One socket, on any edge.
    let answer = kazoo.sockets(json!({ "Socket-ID": "b1" })).await;
    assert_eq!(answer["Data"]["websocket_session_id"], "b1", "{answer}");
    let answer = kazoo.sockets(json!({ "Account-ID": "acc", "Socket-ID": "a2" })).await;
    assert_eq!(answer["Data"]["bindings"], json!(["call.*.*", "fax.status.a2"]), "{answer}");
    for unknown in [json!({ "Socket-ID": "z" }), json!({ "Account-ID": "other", "Socket-ID": "a2" })] {
        assert_eq!(kazoo.sockets(unknown).await["Data"], json!([]));
    }
    assert_eq!(kazoo.sockets(json!({ "Account-ID": "nobody" })).await["Data"], json!([]));
    assert_eq!(deployment.counted("sessions", "partial").await, partial);

    // An incomplete answer of an edge is used as far as it goes.
    let three = vec![session("d1", "acc"), session("d2", "acc"), session("d3", "acc")];
    let _incomplete = Edge::start(&client, "edge-d", Behaviour::Incomplete, three).await;
    deployment.until_missing("edge-d").await;
    let answer = kazoo.sockets(json!({ "Account-ID": "acc" })).await;
    assert_eq!(ids(&answer), ["a1", "a2", "a3", "b1", "d1", "d2", "d3"]);
    assert!(deployment.logged("a list of sessions is partial").last().unwrap().contains("edge-d"));
}

#[tokio::test]
async fn malformed_requests_are_dropped_and_each_request_is_answered_once() {
    let deployment = Deployment::start("answering").await;
    let client = deployment.client().await;
    let _edge = Edge::start(&client, "edge-a", Behaviour::Complete, vec![session("a1", "acc")]).await;
    let mut kazoo = deployment.kazoo("crossbar").await;
    let deep =
        format!(r#"{{"Server-ID":"crossbar","Account-ID":{}1{}}}"#, "[".repeat(5000), "]".repeat(5000));
    for malformed in [
        b"\xff\xfe".to_vec(),
        b"".to_vec(),
        b"[]".to_vec(),
        deep.into_bytes(),
        br#"{"Server-ID":"crossbar"}"#.to_vec(),
        br#"{"Server-ID":"crossbar","Account-ID":5}"#.to_vec(),
        br#"{"Server-ID":"crossbar","Account-ID":"acc","Event-Name":"get_resp"}"#.to_vec(),
        br#"{"Account-ID":"acc"}"#.to_vec(),
        br#"{"Account-ID":"acc","Server-ID":""}"#.to_vec(),
        json!({ "Account-ID": "acc", "Server-ID": "crossbar".repeat(40) }).to_string().into_bytes(),
        json!({ "Account-ID": "a".repeat(100_000), "Server-ID": "crossbar" }).to_string().into_bytes(),
    ] {
        kazoo.publish("sysconf", "websockets.get", &malformed).await;
    }
    assert_eq!(
        ids(&kazoo.sockets(json!({ "Account-ID": "acc" })).await),
        ["a1"],
        "valid requests are still answered"
    );
    blackhole_tests::eventually("11 malformed requests", || async {
        deployment.counted("sessions", "malformed").await == 11
    })
    .await;
    assert_eq!(deployment.logged("dropped a request that cannot be read").len(), 1, "the log is throttled");

    // With a second ingest, each request is answered by one of the two.
    let standby = deployment.another_ingest().await;
    let mut asked = Vec::new();
    for _ in 0..40 {
        asked.push(kazoo.ask("sysconf", "websockets.get", "get_req", json!({ "Account-ID": "acc" })).await);
    }
    let mut answered = Vec::new();
    for _ in 0..40 {
        let answer = kazoo.message().await;
        assert_eq!(ids(&answer), ["a1"]);
        answered.push(answer["Msg-ID"].as_str().unwrap().to_owned());
    }
    answered.sort_unstable();
    asked.sort_unstable();
    assert_eq!(answered, asked);
    let done = [&deployment.ingest, &standby].map(|ingest| super::counted(ingest, "sessions", "done"));
    let done = futures_util::future::join_all(done).await;
    assert_eq!(done.iter().sum::<u64>(), 41, "each request was answered once");
    assert!(done.iter().all(|count| *count > 0), "{done:?}");

    // When an ingest dies, the other one answers its requests.
    let silent = Edge::start(&client, "edge-b", Behaviour::Silent, Vec::new()).await;
    deployment.until_missing("edge-b").await;
    let mut asked = Vec::new();
    for _ in 0..6 {
        asked.push(kazoo.ask("sysconf", "websockets.get", "get_req", json!({ "Account-ID": "acc" })).await);
    }
    deployment.ingest.server().kill().await.unwrap();
    let mut answered = std::collections::BTreeSet::new();
    while answered.len() < 6 {
        answered.insert(kazoo.message().await["Msg-ID"].as_str().unwrap().to_owned());
    }
    assert_eq!(answered, asked.into_iter().collect());
    silent.leave().await;

    // Without NATS there is no answer, rather than a wrong one.
    deployment.nats.server().kill().await.unwrap();
    super::until_counted(&standby, r#"connection_up{side="requests",zone=""} 0"#).await;
    kazoo.ask("sysconf", "websockets.get", "get_req", json!({ "Account-ID": "acc" })).await;
    assert!(kazoo.is_silent_for(Duration::from_millis(1500)).await);
    let shown = http::get(standby.admin(), "/sessions").await.unwrap();
    assert_eq!((shown.status, shown.body.as_str()), (503, "the edges cannot be asked: nats is away\n"));

    // It recovers from the loss of either broker.
    deployment.nats.server().start_again().await.unwrap();
    deployment.rabbitmq.server().restart().await.unwrap();
    let client = deployment.client().await;
    let _edge = Edge::start(&client, "edge-c", Behaviour::Complete, vec![session("c1", "acc")]).await;
    deployment.until_answering(&standby).await;
    let mut kazoo = deployment.kazoo("crossbar").await;
    assert!(ids(&kazoo.sockets(json!({ "Account-ID": "acc" })).await).contains(&"c1"));
}

#[tokio::test]
async fn the_admin_port_lists_the_sessions_of_all_edges() {
    let deployment = Deployment::start("shown").await;
    let listed = deployment.client().await.request("$SRV.INFO.blackhole-ingest", "".into()).await.unwrap();
    let listed: Value = serde_json::from_slice(&listed.payload).unwrap();
    assert_eq!(listed["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(listed["metadata"]["commit"], "unknown");
    let client = deployment.client().await;
    let named = SessionInfo { name: Some("desk".into()), ..session("a1", "acc") };
    let sessions = vec![named.clone(), session("x1", "other")];
    let _one = Edge::start(&client, "edge-a", Behaviour::Complete, sessions).await;
    let _other = Edge::start(&client, "edge-b", Behaviour::Complete, vec![session("b1", "acc")]).await;
    let page = async |query: &str| {
        let answer = http::get(deployment.ingest.admin(), &format!("/sessions{query}")).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        serde_json::from_str::<Value>(&answer.body).unwrap()
    };
    let shown = page("").await;
    assert_eq!((&shown["complete"], &shown["missing"]), (&json!(true), &json!([])));
    assert_eq!(shown["sessions"].as_array().unwrap().len(), 3);
    assert_eq!(page("?account_id=acc&session_id=a1").await["sessions"], json!([named]));
    assert_eq!(page("?account_id=other").await["sessions"], json!([session("x1", "other")]));

    let _silent = Edge::start(&client, "edge-c", Behaviour::Silent, Vec::new()).await;
    deployment.until_missing("edge-c").await;
    let shown = page("?account_id=acc").await;
    assert_eq!((&shown["complete"], &shown["missing"]), (&json!(false), &json!(["edge-c"])));
    assert_eq!(shown["sessions"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_list_too_large_for_amqp_is_cut_and_logged() {
    let deployment = Deployment::start("cut").await;
    let client = deployment.client().await;
    let large = |number: usize| SessionInfo {
        metadata: Some("m".repeat(200_000).into()),
        ..session(&format!("s{number:03}"), "acc")
    };
    let _edge = Edge::start(&client, "edge-a", Behaviour::Complete, (0..90).map(large).collect()).await;
    let mut kazoo = deployment.kazoo("crossbar").await;
    let answer = kazoo.sockets(json!({ "Account-ID": "acc" })).await;
    let listed = ids(&answer);
    // Each part has two sessions, a little over 400 kB: 31 parts fit in 12 MiB.
    assert_eq!(listed.len(), 62);
    let partial = deployment.logged("a list of sessions is partial");
    assert!(partial[0].contains("too_many=true"), "{partial:?}");
    let shown = http::get(deployment.ingest.admin(), "/sessions").await.unwrap();
    let shown: Value = serde_json::from_str(&shown.body).unwrap();
    assert_eq!((&shown["complete"], shown["sessions"].as_array().unwrap().len()), (&json!(true), 90));
}
