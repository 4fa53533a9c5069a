//! Requests for event streams that are refused, or that no library would send.

use blackhole_dev::websocket::upgrade_request;
use blackhole_tests::{
    accounts::{self, Account, DISABLED},
    client::Client,
    event_stream::{EventStream, members, query},
    events, eventually, messages,
    raw::{RawClient, Response},
    stack::Stack,
};
use serde_json::{Value, json};

use super::{Neighbour, count_of};

async fn answer_of(request: &str) -> Response {
    let mut raw = RawClient::connect(Stack::shared().edge.port).await;
    raw.send(request).await;
    raw.response().await
}

fn get(query: &str, token: &str) -> String {
    format!("GET /events?{query} HTTP/1.1\r\nHost: edge\r\nAuthorization: Bearer {token}\r\n\r\n")
}

/// The response's error, which a browser's page of any origin may read.
fn error(response: &Response) -> String {
    assert_eq!(response.header("content-type"), Some("application/json"), "{response:?}");
    assert_eq!(response.header("access-control-allow-origin"), Some("*"), "{response:?}");
    let body: Value = serde_json::from_str(&response.body).unwrap();
    messages::check_stream_refusal(response.status, &body);
    assert_eq!((&body["action"], &body["status"]), (&json!("reply"), &json!("error")), "{body}");
    body["data"]["errors"][0].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_refused_token_or_binding_is_a_status_with_its_reason() {
    let account = Account::fresh();
    let (token, other) = (account.token(), Account::fresh().id);
    let disabled = accounts::token(DISABLED, std::time::Duration::from_secs(60));
    let bad = "failed to authenticate token : token is malformed";
    for (query, token, status, text) in [
        ("binding=call.*.*".to_owned(), "nonsense", 401, bad),
        ("binding=call.*.*".to_owned(), &disabled, 401, "failed to authenticate token : account is disabled"),
        (format!("binding=call.*.*&account_id={other}"), &token, 403, "unauthorized account id"),
        ("binding=call.*.*&account_id=*".to_owned(), &token, 403, "unauthorized wildcard account id"),
        ("binding=".to_owned(), &token, 400, "empty subscription"),
        (String::new(), &token, 400, "missing required keys : binding"),
        ("binding=nothing.*".to_owned(), &token, 400, "no available subscriptions to requested binding"),
        ("binding=call.X.*".to_owned(), &token, 400, "event X not supported"),
        ("binding=call.%.*".to_owned(), &token, 400, "invalid binding : not percent-encoded UTF-8"),
        ("binding=call.*.%c3%28".to_owned(), &token, 400, "invalid binding : not percent-encoded UTF-8"),
        ("binding=call.*.*&view=nice".to_owned(), &token, 400, "view is one of args, data and both"),
        ("binding=call.*.*&state=1".to_owned(), &token, 400, "invalid state : must be true or false"),
        (
            "binding=call.*.*&since=-5".to_owned(),
            &token,
            400,
            "invalid since : must be the cursor of an event, or a time back such as -5m",
        ),
        ("binding=a&".repeat(1001), &token, 400, "no available subscriptions to requested binding"),
        (format!("binding=call.*.{}", "a".repeat(300)), &token, 400, "binding is longer than 255 bytes"),
        (
            format!("binding=call.*.*&name={}", "a".repeat(300)),
            &token,
            400,
            "invalid name : longer than 256 bytes",
        ),
    ] {
        let response = answer_of(&get(&query, token)).await;
        assert_eq!((response.status, error(&response).as_str()), (status, text), "{query}");
        let challenge = (status == 401).then_some("Bearer");
        assert_eq!(response.header("www-authenticate"), challenge, "{query}");
    }
    let many: String = (0..1001).map(|number| format!("binding=call.*.{number}&")).collect();
    assert!(many.len() > 16 << 10, "too many bindings do not fit the header");
    assert_eq!(answer_of(&get(&many, &token)).await.status, 431);

    let without = answer_of("GET /events?binding=call.*.* HTTP/1.1\r\nHost: edge\r\n\r\n").await;
    assert_eq!((without.status, without.header("www-authenticate")), (401, Some("Bearer")));
    assert_eq!(error(&without), "authentication token required");
}

#[tokio::test]
async fn other_methods_and_bodies_are_refused() {
    let request = get("binding=call.*.*", &Account::fresh().token());
    for method in ["HEAD", "POST", "PUT", "DELETE", "PATCH"] {
        let mut raw = RawClient::connect(Stack::shared().edge.port).await;
        raw.send(request.replacen("GET", method, 1).replacen("Host", "Connection: close\r\nHost", 1)).await;
        let answer = String::from_utf8(raw.rest().await).unwrap();
        assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: GET, OPTIONS"), "{answer}");
        assert_eq!(answer.ends_with("\r\n\r\n"), method == "HEAD", "{answer}");
    }
    for (line, body) in [("Content-Length: 5", "hello"), ("Transfer-Encoding: chunked", "0\r\n\r\n")] {
        let request = request.replacen("Host", &format!("{line}\r\nHost"), 1) + body;
        let response = answer_of(&request).await;
        assert_eq!((response.status, error(&response).as_str()), (400, "the request must not have a body"));
    }
    let asked =
        answer_of("OPTIONS /events HTTP/1.1\r\nHost: edge\r\nOrigin: https://elsewhere.example\r\n\r\n")
            .await;
    assert_eq!((asked.status, asked.header("access-control-allow-origin")), (204, Some("*")));
    let allowed = asked.header("access-control-allow-headers").unwrap();
    assert!(["authorization", "x-auth-token", "last-event-id"].iter().all(|name| allowed.contains(name)));
    // An upgrade works at any path, including this one.
    assert_eq!(answer_of(&upgrade_request("/events", &[])).await.status, 101);
}

#[tokio::test]
async fn the_token_may_be_in_either_header_or_in_the_query() {
    let account = Account::fresh();
    let (token, port) = (account.token(), Stack::shared().edge.port);
    for (in_query, headers) in [
        (None, [("authorization", token.as_str())]),
        (Some("wrong"), [("authorization", token.as_str())]),
        (None, [("x-auth-token", token.as_str())]),
        (Some(token.as_str()), [("x-other", "")]),
    ] {
        let more: Vec<_> = in_query.iter().map(|token| ("auth_token", *token)).collect();
        let mut stream = EventStream::ask(port, &members(&account, &["call.*.*"], &more), &headers).await;
        stream.reply().await;
    }
}

#[tokio::test]
async fn http_1_0_and_what_is_sent_behind_the_request_are_no_problem() {
    let stack = Stack::shared();
    let account = Account::fresh();
    let request = get("binding=call.*.*&view=args", &account.token());
    for request in [
        request.replace("HTTP/1.1", "HTTP/1.0"),
        request.replace("HTTP/1.1", "HTTP/1.0").replace("Host: edge\r\n", ""),
        request.clone() + "GET /version HTTP/1.1\r\nHost: edge\r\n\r\n" + &"x".repeat(10_000),
        // Behind another request on the same connection.
        "GET /version HTTP/1.1\r\nHost: edge\r\n\r\n".to_owned() + &request,
    ] {
        let mut raw = RawClient::connect(stack.edge.port).await;
        let is_second = request.starts_with("GET /version");
        raw.send(request).await;
        if is_second {
            assert_eq!(raw.response().await.status, 200);
        }
        let response = raw.response().await;
        assert_eq!((response.status, response.header("connection")), (200, Some("close")));
        assert_eq!(response.header("transfer-encoding"), None);
        events::call(&account, "CHANNEL_CREATE", "here").publish(&stack.publisher().await).await;
        raw.until_received(b"\"Call-ID\":\"here\"").await;
    }
}

#[tokio::test]
async fn a_client_that_goes_on_sending_is_cut_off() {
    let edge = Stack::shared().another_edge("edge-chatty", &[]).await;
    let mut neighbour = Neighbour::on(&edge).await;
    let account = Account::fresh();
    let mut raw = RawClient::connect(edge.port).await;
    raw.send(get("binding=call.*.*", &account.token()) + &"x".repeat(200_000)).await;
    let all = String::from_utf8(raw.rest().await).unwrap();
    assert!(all.contains("event: close\ndata: ") && all.contains("\"code\":4429"), "{all}");
    neighbour.still_gets_events().await;
}

#[tokio::test]
async fn a_slow_reader_catches_up_and_does_not_delay_its_neighbour() {
    const EVENTS: u64 = 200;
    let stack = Stack::shared();
    let edge = stack.another_edge("edge-slow-sse", &[("WS__QUEUE_BYTES", "256KiB")]).await;
    let account = Account::fresh();
    let mut neighbour = Client::connect(&edge.url("view=args")).await;
    neighbour.subscribe(&account, &["call.*.*"]).await;
    let token = account.token();
    let asked = members(&account, &["call.*.*"], &[("auth_token", &token)]);
    let mut slow = EventStream::ask_with_receive_buffer(4096, edge.port, &asked, &[]).await;
    slow.reply().await;
    let publisher = stack.publisher().await;
    for number in 0..EVENTS {
        events::large_call(&account, number).publish(&publisher).await;
        assert_eq!(neighbour.event().await["args"]["Number"], number);
    }
    assert_eq!(Stack::metric(&edge.service, "blackhole_edge_sessions_lagging").await, 1.0);
    for number in 0..EVENTS {
        assert_eq!(slow.event().await["args"]["Number"], number);
    }
    events::call(&account, "CHANNEL_DESTROY", "after").publish(&publisher).await;
    assert_eq!(slow.event().await["args"]["Call-ID"], "after");
}

#[tokio::test]
async fn without_history_a_slow_reader_is_told_of_its_gap() {
    let settings = [("HISTORY__MAX_AGE", "0s"), ("WS__QUEUE_BYTES", "256KiB")];
    let stack = Stack::start_with("slow-sse-off", &settings).await;
    let account = Account::fresh();
    let token = account.token();
    let asked = query(&[("binding", "call.*.*"), ("auth_token", &token), ("view", "args")]);
    let mut slow = EventStream::ask_with_receive_buffer(4096, stack.edge.port, &asked, &[]).await;
    slow.reply().await;
    assert_eq!(slow.last_id, "", "there is nothing to resume from");
    let publisher = stack.publisher().await;
    for number in 0..200 {
        events::large_call(&account, number).publish(&publisher).await;
    }
    let all = slow.rest().await;
    let end = all.split("\n\n").collect::<Vec<_>>();
    let [.., gap, close, ""] = end.as_slice() else { panic!("{all}") };
    assert!(gap.starts_with("event: gap\ndata: {\"action\":\"gap\""), "{gap}");
    assert!(close.starts_with("event: close\ndata: ") && close.contains("\"code\":4008"), "{close}");
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_dropped() {
    let stack = Stack::shared();
    let edge = stack.another_edge("edge-dead-sse", &[("WS__PING_INTERVAL", "500ms")]).await;
    let account = Account::fresh();
    let token = account.token();
    let asked = members(&account, &["call.*.*"], &[("auth_token", &token)]);
    let mut dead = EventStream::ask_with_receive_buffer(4096, edge.port, &asked, &[]).await;
    dead.reply().await;
    let publisher = stack.publisher().await;
    for number in 0..30 {
        events::large_call(&account, number).publish(&publisher).await;
    }
    eventually("the end of the session", async || count_of(&edge, "sessions_closed", "reset").await == 1.0)
        .await;
}
