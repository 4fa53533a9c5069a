//! HTTP on the WebSocket port: the console, the upgrade, and refusals with their reasons.

use std::net::Ipv4Addr;

use blackhole_dev::{
    websocket::{CLOSE, PING, upgrade_request},
    workspace,
};
use blackhole_tests::{
    accounts::Account,
    client::Client,
    eventually,
    raw::{RawClient, Response},
    stack::{Edge, Stack},
};

/// Handshakes that the edge has refused for this reason.
async fn refused(edge: &Edge, reason: &str) -> u64 {
    let start = format!("blackhole_edge_handshakes_refused_total{{reason=\"{reason}\"}} ");
    let metrics = edge.service.metrics().await.unwrap();
    metrics.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok()).unwrap_or(0)
}

async fn answer_of(edge: &Edge, request: impl AsRef<[u8]>) -> Response {
    let mut raw = RawClient::connect(edge.port).await;
    raw.send(request).await;
    raw.response().await
}

async fn upgraded(edge: &Edge, target: &str, changes: &[(&str, Option<&str>)]) -> Response {
    answer_of(edge, &upgrade_request(target, changes)).await
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: edge\r\n\r\n")
}

/// Connects with the headers of a proxy, and returns the connection with the response status.
async fn session_from(edge: &Edge, headers: &[(&str, Option<&str>)]) -> (RawClient, u16) {
    let mut raw = RawClient::connect(edge.port).await;
    raw.send(upgrade_request("/", headers)).await;
    let status = raw.response().await.status;
    (raw, status)
}

#[tokio::test]
async fn the_console_is_served_at_the_root_with_a_strict_content_security_policy() {
    let edge = &Stack::shared().edge;
    let page = answer_of(edge, &get("/")).await;
    assert_eq!(page.status, 200);
    assert!(page.body.contains("<title>") && page.body.contains("Blackhole"));
    let policy = page.header("content-security-policy").unwrap();
    assert_eq!(
        policy,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    assert_eq!(page.header("cache-control"), Some("no-cache"));
    assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
    assert_eq!(answer_of(edge, &get("/?view=args")).await.status, 200);
    assert_eq!(answer_of(edge, &get("/elsewhere")).await.status, 404);
    assert_eq!(
        answer_of(edge, "POST / HTTP/1.1\r\nHost: edge\r\nContent-Length: 0\r\n\r\n").await.status,
        405
    );
}

#[tokio::test]
async fn the_consoles_files_have_their_types_and_the_same_policy() {
    let edge = &Stack::shared().edge;
    let page = answer_of(edge, &get("/")).await;
    for (path, content_type) in [
        ("/console.css", "text/css; charset=utf-8"),
        ("/console.js", "text/javascript; charset=utf-8"),
        ("/console/json.js", "text/javascript; charset=utf-8"),
    ] {
        let file = answer_of(edge, &get(path)).await;
        assert_eq!((file.status, file.header("content-type")), (200, Some(content_type)), "{path}");
        for header in ["content-security-policy", "x-content-type-options", "cache-control"] {
            assert!(file.header(header).is_some() && file.header(header) == page.header(header), "{path}");
        }
    }
    assert_eq!(answer_of(edge, &get("/console/")).await.status, 404);
    assert_eq!(answer_of(edge, &get("/console/../console.js")).await.status, 404);
}

#[tokio::test]
async fn the_javascript_client_is_served_to_any_origin() {
    let file = answer_of(&Stack::shared().edge, &get("/client.js")).await;
    assert_eq!((file.status, file.header("content-type")), (200, Some("text/javascript; charset=utf-8")));
    assert_eq!(file.header("access-control-allow-origin"), Some("*"));
    assert_eq!(file.header("cache-control"), Some("no-cache"), "it must match the release of the edge");
    assert!(file.body.contains("\nclass BlackholeClient") && !file.body.contains("\nexport "));
    // The npm package's module is the same.
    let module = answer_of(&Stack::shared().edge, &get("/client.mjs")).await;
    assert_eq!(module.header("content-type"), Some("text/javascript; charset=utf-8"));
    let package = workspace::root().unwrap().join("ws-edge/clients/js/client.js");
    assert_eq!(module.body, std::fs::read_to_string(package).unwrap());
}

/// The list includes the families of the operator's own file.
#[tokio::test]
async fn the_bindings_of_the_catalogue_are_listed_as_json() {
    let dir = workspace::RunDir::create("told").unwrap();
    let file = dir.path().join("own.toml");
    let own = "[[family]]\nname = \"mine\"\n[[family.event]]\nexchange = \"e\"\nkey = \"mine.{id}\"\ntenant = []\n\
               [[family.event.form]]\nbinding = \"mine.{id}\"\nrequired = { id = \"which?\" }\n";
    std::fs::write(&file, own).unwrap();
    let settings = [("CATALOGUE__FILE", file.to_str().unwrap())];
    let edge = Stack::shared().another_edge("edge-told", &settings).await;
    let listed = answer_of(&edge, &get("/bindings")).await;
    assert_eq!((listed.status, listed.header("content-type")), (200, Some("application/json")));
    assert_eq!(listed.header("access-control-allow-origin"), Some("*"));
    let json: serde_json::Value = serde_json::from_str(&listed.body).unwrap();
    let last = json["bindings"].as_array().unwrap().last().unwrap();
    assert_eq!(*last, serde_json::json!({ "family": "mine", "binding": "mine.{id}", "required": ["id"] }));
    // The same of the description of all messages.
    let messages = answer_of(&edge, &get("/asyncapi.json")).await;
    assert_eq!((messages.status, messages.header("content-type")), (200, Some("application/json")));
    let document: serde_json::Value = serde_json::from_str(&messages.body).unwrap();
    assert_eq!(document["asyncapi"], "3.0.0");
    let own =
        &document["components"]["schemas"]["mineEvent"]["allOf"][1]["properties"]["routing_key"]["anyOf"];
    assert_eq!(*own, serde_json::json!([{ "pattern": "^mine\\.[^.]*$" }]));
    assert_eq!(answer_of(&edge, &get("/bindings").replace("GET", "DELETE")).await.status, 405);
    // An upgrade works at any path, including this one.
    assert_eq!(upgraded(&edge, "/bindings", &[]).await.status, 101);
}

#[tokio::test]
async fn an_upgrade_works_with_any_path_and_origin() {
    let edge = &Stack::shared().edge;
    for (target, origin) in
        [("/", "null"), ("/any/path?x=1&view=data", "https://elsewhere.example"), ("/socket", "file://")]
    {
        assert_eq!(
            upgraded(edge, target, &[("Origin", Some(origin))]).await.status,
            101,
            "{target} {origin}"
        );
    }
}

#[tokio::test]
async fn an_unsupported_handshake_is_refused() {
    let edge = &Stack::shared().edge;
    let sub_protocol = upgraded(edge, "/", &[("Sec-WebSocket-Protocol", Some("mqtt"))]).await;
    assert_eq!((sub_protocol.status, sub_protocol.body.as_str()), (400, "there are no sub-protocols here\n"));
    let view = upgraded(edge, "/?view=nice", &[]).await;
    assert_eq!((view.status, view.body.as_str()), (400, "view is one of args, data and both\n"));
    let version = upgraded(edge, "/", &[("Sec-WebSocket-Version", Some("8"))]).await;
    assert_eq!((version.status, version.header("sec-websocket-version")), (426, Some("13")));
    assert_eq!(upgraded(edge, "/", &[("Sec-WebSocket-Key", None)]).await.status, 400);
    assert_eq!(upgraded(edge, "/", &[("Connection", Some("keep-alive"))]).await.status, 400);
    assert_eq!(answer_of(edge, &upgrade_request("/", &[]).replace("GET", "PUT")).await.status, 400);
}

#[tokio::test]
async fn an_ambiguous_upgrade_request_is_refused() {
    let edge = &Stack::shared().edge;
    let request = upgrade_request("/", &[]);
    let with = |line: &str| request.replacen("\r\n", &format!("\r\n{line}\r\n"), 1);
    let host = request.lines().find(|line| line.starts_with("Host")).unwrap();
    for (request, expected) in [
        (request.replace("HTTP/1.1", "HTTP/1.0"), "a WebSocket needs HTTP/1.1\n"),
        (request.replace(&format!("{host}\r\n"), ""), "a WebSocket needs one Host header\n"),
        (with("Host: other.example"), "a WebSocket needs one Host header\n"),
        (with("Content-Length: 5") + "hello", "the upgrade request must not have a body\n"),
        (with("Transfer-Encoding: chunked") + "0\r\n\r\n", "the upgrade request must not have a body\n"),
        (with("Sec-WebSocket-Key: x"), "Sec-WebSocket-Key is missing\n"),
    ] {
        let response = answer_of(edge, &request).await;
        assert_eq!((response.status, response.body.as_str()), (400, expected), "{request}");
    }
    let both = with("Transfer-Encoding: chunked\r\nContent-Length: 5") + "0\r\n\r\n";
    assert_eq!(answer_of(edge, &both).await.status, 400);
    for key in
        ["", "c2hvcnQ=", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZSE=", "not base64 at all!!!!!!"]
    {
        assert_eq!(upgraded(edge, "/", &[("Sec-WebSocket-Key", Some(key))]).await.status, 400, "{key}");
    }
    assert_eq!(upgraded(edge, "/", &[("Content-Length", Some("0"))]).await.status, 101);
}

#[tokio::test]
async fn bytes_that_are_not_http_are_refused_and_counted() {
    let edge = Stack::shared().another_edge("edge-not-http", &[]).await;
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"AMQP\x00\x00\x09\x01 \r\n\r\n",
        b"\x00\x00\x00\x00\r\n\r\n",
    ] {
        assert_eq!(answer_of(&edge, bytes).await.status, 400, "{bytes:?}");
    }
    let huge = format!("GET / HTTP/1.1\r\nHost: edge\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    assert_eq!(answer_of(&edge, huge).await.status, 431);
    eventually("the count", async || refused(&edge, "not_http").await == 4).await;
}

#[tokio::test]
async fn a_slow_handshake_times_out() {
    let edge = Stack::shared().another_edge("edge-slow", &[("WS__HANDSHAKE_TIMEOUT", "300ms")]).await;
    for sent in ["", "GET / HTTP/1.1\r\nHost: ed"] {
        let mut slow = RawClient::connect(edge.port).await;
        slow.send(sent).await;
        assert_eq!(slow.rest().await, b"", "{sent:?}");
    }
    eventually("the count", async || refused(&edge, "timeout").await == 2).await;
}

#[tokio::test]
async fn connections_per_address_are_limited_and_released() {
    let settings = [("WS__MAX_CONNECTIONS_PER_IP", "2"), ("WS__TRUSTED_PROXIES", "[\"127.0.0.1/32\"]")];
    let edge = Stack::shared().another_edge("edge-places", &settings).await;
    let from = |address: &'static str| [("X-Forwarded-For", Some(address))];
    let first = session_from(&edge, &from("198.51.100.7")).await;
    let second = session_from(&edge, &from("6.6.6.6, 198.51.100.7")).await;
    assert_eq!((first.1, second.1), (101, 101));
    assert_eq!(
        session_from(&edge, &from("198.51.100.7")).await.1,
        429,
        "addresses that the client itself added do not count"
    );
    assert_eq!(session_from(&edge, &from("198.51.100.8")).await.1, 101);
    drop(first);
    eventually("the release of the connection", || async {
        session_from(&edge, &from("198.51.100.7")).await.1 == 101
    })
    .await;

    // The header is ignored unless it comes from a trusted proxy.
    let mut direct = Vec::new();
    for number in 0..3 {
        let mut raw = RawClient::connect_from(Ipv4Addr::new(127, 0, 0, 2), edge.port).await;
        raw.send(upgrade_request("/", &[("X-Forwarded-For", Some(&format!("203.0.113.{number}")))])).await;
        direct.push((raw.response().await.status, raw));
    }
    assert_eq!(direct.iter().map(|(status, _)| *status).collect::<Vec<_>>(), [101, 101, 429]);
}

#[tokio::test]
async fn connections_per_edge_are_limited() {
    let edge = Stack::shared().another_edge("edge-full", &[("WS__MAX_CONNECTIONS", "1")]).await;
    let first = session_from(&edge, &[]).await;
    assert_eq!(first.1, 101);
    let refused = upgraded(&edge, "/", &[]).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")));
}

#[tokio::test]
async fn a_client_that_does_not_answer_pings_is_dropped() {
    let edge = Stack::shared().another_edge("edge-dead", &[("WS__PING_INTERVAL", "200ms")]).await;
    let account = Account::fresh();
    let mut alive = Client::try_connect(&edge.url(""), &[]).await.unwrap();
    alive.subscribe(&account, &["call.*.*"]).await;
    let mut dead = RawClient::session(edge.port, "").await;
    let mut pings = 0;
    while let Some((first, _)) = dead.frame().await {
        assert_ne!(first, CLOSE, "a dead client gets no close frame");
        pings += usize::from(first == PING);
    }
    assert_eq!(pings, 2, "unanswered pings");
    // The library of this client answers pings by itself.
    alive.subscribe(&account, &["fax.status.*"]).await;
    eventually("the end of one session", || async {
        Stack::metric(&edge.service, "blackhole_edge_sessions").await == 1.0
    })
    .await;
}
