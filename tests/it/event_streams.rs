//! Event streams: the same events as over a WebSocket, for clients that speak only HTTP.

use std::time::Duration;

use blackhole_dev::{http, simulator::Publisher, workspace::RunDir};
use blackhole_tests::{
    accounts::{self, Account, AccountPair},
    browser::Browser,
    client::Client,
    event_stream::{EventStream, members},
    events, eventually,
    stack::{Edge, Stack},
};
use serde_json::{Value, json};

use crate::revoked;

async fn publish(publisher: &Publisher, account: &Account, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let mut event = events::call(account, "CHANNEL_CREATE", &number.to_string());
        event.body["Number"] = number.into();
        event.publish(publisher).await;
    }
}

async fn numbers(stream: &mut EventStream, count: usize) -> Vec<u64> {
    let mut numbers = Vec::new();
    for _ in 0..count {
        numbers.push(stream.event().await["args"]["Number"].as_u64().unwrap());
    }
    numbers
}

async fn streams(edge: &Edge) -> f64 {
    Stack::metric(&edge.service, "blackhole_edge_event_streams").await
}

#[tokio::test]
async fn a_stream_has_the_frames_of_a_websocket_session() {
    let stack = Stack::shared();
    let account = Account::fresh();
    let publisher = stack.publisher().await;
    let mut client = Client::connect(&stack.edge.url("view=args")).await;
    client.subscribe(&account, &["call.*.*", "call.CHANNEL_CREATE.*"]).await;
    let bindings = ["call.*.*", "call.CHANNEL_CREATE.*"];
    let (mut stream, reply) = EventStream::subscribe(stack.edge.port, &account, &bindings, &[]).await;
    assert_eq!((&reply["subscribed"], &reply["subscriptions"]), (&json!(bindings), &json!(bindings)));
    assert_eq!(json!(stream.last_id), reply["cursor"], "a client that gets no event resumes from the reply");
    assert!((1000..3000).contains(&stream.retry), "{}", stream.retry);
    let header = |name: &str| stream.response.headers().get(name).unwrap().to_str().unwrap().to_owned();
    assert_eq!(header("content-type"), "text/event-stream");
    assert_eq!(header("cache-control"), "no-store, no-transform");
    assert_eq!(header("access-control-allow-origin"), "*");
    assert_eq!(header("x-accel-buffering"), "no", "nginx passes events on at once");

    // KAZOO's own bodies have no white space, others may.
    let event = events::call(&account, "CHANNEL_CREATE", "on\u{2028}two\nlines");
    let body = serde_json::to_string_pretty(&event.body).unwrap().replace('\n', "\r\n");
    publisher.publish(event.exchange, &event.key, body.as_bytes()).await.unwrap();
    for _ in bindings {
        let (mut expected, mut frame) = (client.event().await, stream.event().await);
        assert_eq!(frame["args"], event.body);
        for frame in [&mut expected, &mut frame] {
            frame.as_object_mut().unwrap().remove("request_id");
        }
        assert_eq!(frame, expected);
    }
}

#[tokio::test]
async fn a_session_over_http_is_limited_listed_and_counted_like_others() {
    let settings = [("WS__MAX_SESSIONS_PER_ACCOUNT", "1"), ("WS__MAX_BINDINGS", "2")];
    let edge = Stack::shared().another_edge("edge-streams", &settings).await;
    let account = Account::fresh();
    let (stream, _) =
        EventStream::subscribe(edge.port, &account, &["call.*.*"], &[("name", "Front desk")]).await;
    let list = http::get(edge.service.admin(), "/sessions").await.unwrap().body;
    let list: Value = serde_json::from_str(&list).unwrap();
    let listed = &list["sessions"][0];
    assert_eq!((&listed["account_id"], &listed["name"]), (&json!(account.id), &json!("Front desk")));
    assert_eq!((&listed["bindings"], &listed["source"]), (&json!(["call.*.*"]), &json!("127.0.0.1")));
    assert_eq!(
        (streams(&edge).await, Stack::metric(&edge.service, "blackhole_edge_sessions").await),
        (1.0, 1.0)
    );

    let token = format!("Bearer {}", account.token());
    let mut second = EventStream::ask(edge.port, "binding=call.*.*", &[("authorization", &token)]).await;
    assert_eq!(
        (second.response.status().as_u16(), second.response.headers()["retry-after"].to_str().unwrap()),
        (429, "5")
    );
    assert!(second.rest().await.contains("too many sessions : at most 1 per account"));
    drop(stream);
    eventually("the end of the session", async || streams(&edge).await == 0.0).await;
    let query = "binding=call.*.a&binding=call.*.b&binding=call.*.c";
    let mut three = EventStream::ask(edge.port, query, &[("authorization", &token)]).await;
    assert_eq!(three.response.status(), 400);
    assert!(three.rest().await.contains("too many bindings : at most 2 per session"));
    eventually("the end of the session", async || streams(&edge).await == 0.0).await;
    let metrics = edge.service.metrics().await.unwrap();
    for line in [
        "blackhole_edge_sessions_closed_total{reason=\"client\"} 1",
        "blackhole_edge_handshakes_refused_total{reason=\"account_sessions\"} 1",
        "blackhole_edge_handshakes_refused_total{reason=\"subscription\"} 1",
        "blackhole_edge_requests_total{outcome=\"success\"} 1",
        "blackhole_edge_requests_total{outcome=\"error\"} 1",
    ] {
        assert!(metrics.lines().any(|own| own == line), "{line} in {metrics}");
    }
}

#[tokio::test]
async fn a_client_resumes_on_another_edge_when_its_own_is_killed() {
    let stack = Stack::shared();
    let edges = [stack.another_edge("edge-sse-1", &[]).await, stack.another_edge("edge-sse-2", &[]).await];
    let account = Account::fresh();
    let publisher = stack.publisher().await;
    let (mut stream, _) = EventStream::subscribe(edges[0].port, &account, &["call.*.*"], &[]).await;
    publish(&publisher, &account, 0..5).await;
    assert_eq!(numbers(&mut stream, 3).await, [0, 1, 2]);
    edges[0].service.server().kill().await.unwrap();
    publish(&publisher, &account, 5..10).await;
    let (mut stream, reply) =
        EventStream::resume(edges[1].port, &account, &["call.*.*"], &stream.last_id).await;
    assert_eq!(reply["recovered"], true);
    publish(&publisher, &account, 10..12).await;
    assert_eq!(numbers(&mut stream, 9).await, (3..12).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_client_without_events_resumes_where_it_began() {
    let stack = Stack::shared();
    let account = Account::fresh();
    let publisher = stack.publisher().await;
    let (stream, _) = EventStream::subscribe(stack.edge.port, &account, &["call.*.*"], &[]).await;
    let first = stream.last_id.clone();
    drop(stream);
    publish(&publisher, &account, 0..3).await;
    let (stream, _) = EventStream::resume(stack.edge.port, &account, &["call.*.*"], &first).await;
    assert_eq!(stream.last_id, first, "before it has read the events that it missed");
    let (mut stream, _) =
        EventStream::resume(stack.edge.port, &account, &["call.*.*"], &stream.last_id).await;
    assert_eq!(numbers(&mut stream, 3).await, [0, 1, 2]);
    let since = [("since", "-5m")];
    let (mut stream, reply) = EventStream::subscribe(stack.edge.port, &account, &["call.*.*"], &since).await;
    // The stream of this run may be younger.
    if reply["recovered"] == true {
        assert_eq!(numbers(&mut stream, 3).await, [0, 1, 2]);
    }
}

#[tokio::test]
async fn a_quiet_stream_tells_where_it_is_beside_its_heartbeats() {
    let stack = Stack::shared();
    let edge = stack.another_edge("edge-beats", &[("WS__PING_INTERVAL", "400ms")]).await;
    let (account, busy) = (Account::fresh(), Account::fresh());
    let publisher = stack.publisher().await;
    let (mut stream, _) = EventStream::subscribe(edge.port, &account, &["call.*.*"], &[]).await;
    let first = stream.last_id.clone();
    publish(&publisher, &busy, 0..3).await;
    stream.id_after(&first).await;
    let quiet = stream.last_id.clone();
    publish(&publisher, &account, 0..2).await;
    assert_eq!(numbers(&mut stream, 2).await, [0, 1]);
    assert!(stream.comments > 0);
    let (mut stream, reply) = EventStream::resume(edge.port, &account, &["call.*.*"], &quiet).await;
    assert_eq!((&reply["recovered"], numbers(&mut stream, 2).await), (&json!(true), vec![0, 1]));
}

#[tokio::test]
async fn a_gap_is_told() {
    let port = Stack::shared().edge.port;
    let account = Account::fresh();
    let (mut stream, reply) = EventStream::resume(port, &account, &["call.*.*"], "some other text").await;
    assert_eq!((&reply["recovered"], &reply["reason"]), (&json!(false), &json!("unknown cursor")));
    let gap = stream.next().await.unwrap();
    assert_eq!(
        (gap.name.as_str(), gap.data),
        ("gap", json!({ "action": "gap", "reason": "unknown cursor" }))
    );
    publish(&Stack::shared().publisher().await, &account, 0..1).await;
    assert_eq!(numbers(&mut stream, 1).await, [0]);
}

#[tokio::test]
async fn a_stream_begins_with_the_state_if_it_is_asked_for() {
    let stack = Stack::shared();
    let account = Account::fresh();
    let publisher = stack.publisher().await;
    publish(&publisher, &account, 0..2).await;
    let state = [("state", "true")];
    let (mut stream, kept) = loop {
        let (mut stream, reply) =
            EventStream::subscribe(stack.edge.port, &account, &["call.*.*"], &state).await;
        let mut kept = Vec::new();
        if reply["state"] == true {
            loop {
                let event = stream.next().await.unwrap();
                if event.name == "state" {
                    assert_eq!(json!(event.id), event.data["cursor"]);
                    break;
                }
                assert_eq!(event.data["state"], true);
                kept.push((event.id.unwrap(), event.data["args"]["Number"].clone()));
            }
        }
        // The ingest keeps them a moment after they came.
        if kept.len() == 2 {
            break (stream, kept);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!([&kept[0].1, &kept[1].1], [0, 1]);
    publish(&publisher, &account, 2..3).await;
    assert_eq!(numbers(&mut stream, 1).await, [2]);
    // A connection that breaks between kept events loses none of them.
    let headers = [("authorization", &*account.token()), ("last-event-id", &kept[0].0)];
    let query = members(&account, &["call.*.*"], &state);
    let mut stream = EventStream::ask(stack.edge.port, &query, &headers).await;
    assert_eq!(stream.reply().await["recovered"], true);
    assert_eq!(stream.next().await.unwrap().name, "state", "none are kept: they follow");
    assert_eq!(numbers(&mut stream, 2).await, [1, 2]);
}

#[tokio::test]
async fn a_draining_edge_says_so_and_ends_its_streams() {
    let stack = Stack::shared();
    let edge = stack.another_edge("edge-sse-drained", &[("WS__DRAIN_WAIT", "100ms")]).await;
    let account = Account::fresh();
    let (mut stream, _) = EventStream::subscribe(edge.port, &account, &["call.*.*"], &[]).await;
    publish(&stack.publisher().await, &account, 0..1).await;
    assert_eq!(numbers(&mut stream, 1).await, [0]);
    let stopping = tokio::spawn(async move { edge.service.server().stop().await });
    let close = stream.next().await.unwrap();
    assert_eq!((close.name.as_str(), &close.data["code"]), ("close", &json!(1012)));
    assert!(stream.next().await.is_none());
    assert!(stopping.await.unwrap().unwrap().success());
}

#[tokio::test]
async fn what_is_no_longer_granted_ends_and_is_told() {
    let stack = revoked::stack();
    let AccountPair { parent, child } = AccountPair::fresh();
    let token = format!("Bearer {}", parent.token());
    let query = members(&child, &["call.*.*"], &[]);
    let mut moved = EventStream::ask(stack.edge.port, &query, &[("authorization", &token)]).await;
    moved.reply().await;
    let (mut disabled, _) = EventStream::subscribe(stack.edge.port, &child, &["call.*.*"], &[]).await;
    revoked::change(&[(
        revoked::entry(&child, &parent.id),
        revoked::entry(&child, accounts::TOP) + "enabled = false\n",
    )]);
    for (stream, reason) in [
        (&mut moved, "unauthorized account id"),
        (&mut disabled, "failed to authenticate token : account is disabled"),
    ] {
        let event = stream.next().await.unwrap();
        assert_eq!(event.name, "revoked");
        assert_eq!(event.data["data"]["revoked"][0]["reason"], reason);
    }
    let close = disabled.next().await.unwrap();
    assert_eq!((close.name.as_str(), &close.data["code"]), ("close", &json!(4401)));
    assert!(disabled.next().await.is_none());
}

#[tokio::test]
async fn a_stream_ends_with_its_token() {
    let account = Account::fresh();
    let token = account.token_for(Duration::from_secs(2));
    let query = members(&account, &["call.*.*"], &[("auth_token", &token)]);
    let mut stream = EventStream::ask(Stack::shared().edge.port, &query, &[]).await;
    stream.reply().await;
    let close = stream.next().await.unwrap();
    assert_eq!((close.name.as_str(), &close.data["code"]), ("close", &json!(4401)));
}

/// As a page would do it: it hears of everything, reconnects by itself, and loses nothing.
#[tokio::test]
async fn the_event_source_of_a_browser_resumes_by_itself() {
    let stack = Stack::shared();
    let edge = stack.another_edge("edge-source", &[("WS__PING_INTERVAL", "400ms")]).await;
    let account = Account::fresh();
    let publisher = stack.publisher().await;
    let browser = Browser::open().await;
    // A page of another origin.
    let dir = RunDir::create("event-source").unwrap();
    let page = dir.path().join("page.html");
    std::fs::write(&page, "<!doctype html><title>Events</title>").unwrap();
    browser.goto_file(&page, None).await;
    let token = account.token();
    let query = members(&account, &["call.*.*"], &[("auth_token", &token)]);
    let script = format!(
        "window.seen = []; window.heard = []; window.states = [];
         window.source = new EventSource('http://127.0.0.1:{}/events?{query}');
         source.onmessage = (message) => seen.push(JSON.parse(message.data).args.Number);
         source.onerror = () => states.push(source.readyState);
         for (const name of ['reply', 'gap', 'close'])
           source.addEventListener(name, (message) => heard.push(name));",
        edge.port
    );
    browser.script(&script).await;
    browser.until("heard.includes('reply')").await;
    publish(&publisher, &account, 0..3).await;
    browser.until("seen.length === 3").await;
    edge.service.server().kill().await.unwrap();
    publish(&publisher, &account, 3..6).await;
    browser.until("states.length > 0").await;
    edge.service.server().start_again().await.unwrap();
    browser.until("seen.length === 6").await;
    publish(&publisher, &account, 6..8).await;
    browser.until("seen.length === 8").await;
    assert_eq!(browser.script("return seen").await, json!([0, 1, 2, 3, 4, 5, 6, 7]));
    assert_eq!(browser.script("return heard").await, json!(["reply", "reply"]));

    // A refusal is final.
    browser.script(&script.replace(&token, "wrong")).await;
    browser.until("states.includes(EventSource.CLOSED)").await;
    // A page may send its token in a header, if it reads the stream with `fetch`.
    let fetch = format!(
        "const query = {}, token = {};
         fetch('http://127.0.0.1:{}/events?' + query, {{ headers: {{ authorization: 'Bearer ' + token }} }})
           .then(async (response) => {{
             const {{ value }} = await response.body.getReader().read();
             window.fetched = new TextDecoder().decode(value);
           }});",
        json!(members(&account, &["call.*.*"], &[])),
        json!(token),
        edge.port
    );
    browser.script(&fetch).await;
    browser.until("(window.fetched || '').includes('event: reply')").await;
    browser.close().await;
}
