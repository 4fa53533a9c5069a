//! The action `api`: which requests reach Crossbar, and what the client gets back.

use std::time::{Duration, Instant};

use blackhole_dev::websocket::TEXT;
use blackhole_tests::{
    accounts::Account,
    client::Client,
    crossbar::Crossbar,
    eventually,
    raw::RawClient,
    soon,
    stack::{Edge, Setting, Stack},
};
use serde_json::{Value, json};

async fn edge(name: &str, url: &str, more: &[Setting<'_>]) -> Edge {
    let mut settings = vec![("WS__CROSSBAR_URL", url)];
    settings.extend(more);
    Stack::shared().another_edge(name, &settings).await
}

async fn login(edge: &Edge, token: &str) -> Client {
    let mut client = Client::connect(&edge.url("")).await;
    let reply = client.request(json!({ "action": "ping", "auth_token": token })).await;
    assert_eq!(reply["status"], "success", "{reply}");
    client
}

async fn api(client: &mut Client, data: Value) -> Value {
    client.request(json!({ "action": "api", "data": data })).await
}

async fn error(client: &mut Client, endpoint: &str) -> String {
    let reply = api(client, json!({ "endpoint": endpoint })).await;
    assert_eq!(reply["status"], "error", "{reply}");
    reply["data"]["errors"][0].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_request_reaches_crossbar_with_the_sessions_token_and_the_request_id() {
    let crossbar = Crossbar::start().await;
    let edge = edge("api", &format!("{}/kazoo/", crossbar.url()), &[]).await;
    let account = Account::fresh();
    let token = account.token();
    let mut client = login(&edge, &token).await;
    client
        .send_text(
            json!({
                "action": "api", "request_id": "q \"1\" ü",
                "data": { "verb": "post", "endpoint": "v2/accounts/a%40b?x=y", "body": { "data": { "n": null } } },
            })
            .to_string(),
        )
        .await;
    let reply = client.reply().await;
    assert_eq!((&reply["status"], &reply["request_id"]), (&json!("success"), &json!("q \"1\" ü")));
    let asked = crossbar.take_requests();
    let [asked] = asked.as_slice() else { panic!("{asked:?}") };
    assert_eq!((asked.method.as_str(), asked.target.as_str()), ("POST", "/kazoo/v2/accounts/a%40b?x=y"));
    assert_eq!(asked.body, r#"{"data":{"n":null}}"#);
    assert_eq!(asked.header("x-auth-token"), Some(&*token));
    assert_eq!(asked.header("x-request-id"), Some("q \\\"1\\\" \\u00fc"));
    assert_eq!(asked.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(asked.header("content-type"), Some("application/json"));
    assert_eq!(asked.header("host"), crossbar.url().strip_prefix("http://"));

    // KAZOO's defaults (get, no body), and all methods.
    api(&mut client, json!({ "endpoint": "/v2/about" })).await;
    for verb in ["get", "PUT", "patch", "delete"] {
        api(&mut client, json!({ "endpoint": "/v2/about", "verb": verb, "body": "text" })).await;
    }
    let asked = crossbar.take_requests();
    let methods: Vec<(&str, &str)> =
        asked.iter().map(|asked| (asked.method.as_str(), asked.body.as_str())).collect();
    assert_eq!(
        methods,
        [("GET", ""), ("GET", "text"), ("PUT", "text"), ("PATCH", "text"), ("DELETE", "text")]
    );
    assert_eq!(asked[0].header("content-type"), None);
}

#[tokio::test]
async fn crossbars_json_is_returned_unchanged() {
    let crossbar = Crossbar::start().await;
    let edge = edge("api-answers", &crossbar.url(), &[("WS__CROSSBAR_MAX_ANSWER", "64 KiB")]).await;
    let account = Account::fresh();
    let mut client = login(&edge, &account.token()).await;
    for status in [200, 201, 400, 401, 402, 404, 409, 500, 503] {
        let reply = api(&mut client, json!({ "endpoint": format!("/v2/status/{status}") })).await;
        let expected = json!({ "status": "error", "error": status.to_string() });
        assert_eq!((&reply["status"], &reply["data"]), (&json!("success"), &expected));
    }
    assert_eq!(api(&mut client, json!({ "endpoint": "/v2/empty" })).await["data"], json!({}));
    let reply = api(&mut client, json!({ "endpoint": "/v2/bytes/65536" })).await;
    assert_eq!(reply["data"].as_str().unwrap().len(), 65534);

    crossbar.take_requests();
    for (endpoint, expected) in [
        ("/v2/page", "Crossbar answered with status 502 and no JSON"),
        ("/v2/redirect", "Crossbar answered with a redirect, which is not followed"),
        ("/v2/bytes/65537", "the answer of Crossbar is larger than 65536 bytes"),
        ("/v2/endless", "the answer of Crossbar is larger than 65536 bytes"),
        ("/v2/broken", "Crossbar is not available, try again"),
    ] {
        assert_eq!(error(&mut client, endpoint).await, expected, "{endpoint}");
    }
    let targets: Vec<String> = crossbar.take_requests().into_iter().map(|asked| asked.target).collect();
    let expected = ["/v2/page", "/v2/redirect", "/v2/bytes/65537", "/v2/endless", "/v2/broken"];
    assert_eq!(targets, expected, "the redirect to /v2/secret is not followed");

    // Numbers, order and white space are unchanged.
    let mut raw = RawClient::session(edge.port, "").await;
    let request = json!({
        "action": "api", "auth_token": account.token(), "request_id": 1, "data": { "endpoint": "/v2/odd" },
    });
    raw.send_frame(TEXT, request.to_string()).await;
    let expected = format!(
        r#"{{"action":"reply","request_id":1,"status":"success","data":{}}}"#,
        blackhole_tests::crossbar::ODD_JSON
    );
    assert_eq!(raw.text().await, expected);
}

#[tokio::test]
async fn invalid_endpoints_reach_neither_crossbar_nor_other_servers() {
    let crossbar = Crossbar::start().await;
    let elsewhere = Crossbar::start().await;
    let host = elsewhere.url().strip_prefix("http://").unwrap().to_owned();
    let edge = edge("api-tricks", &format!("{}/base", crossbar.url()), &[]).await;
    let mut client = login(&edge, &Account::fresh().token()).await;
    let mut endpoints: Vec<String> = [
        "/",
        "/v2/../../other",
        "/v2/%2e%2e/%2e%2e/other",
        "/v2/..%2fother",
        "/v2/a%5c..%5cb",
        "/v2//a",
        "/v2/%252e%252e/a",
        "/v2/a%0d%0aX-Auth-Token:%20x",
        "/v2/a\r\nX-Auth-Token: x",
        "/v2/a b",
        "/v2/a\u{0}",
        "/v2/a#b",
        "/v2/ä",
        "/metrics",
        "/v2;/../x/..;/a",
    ]
    .map(str::to_owned)
    .to_vec();
    endpoints.extend([
        elsewhere.url() + "/v2/a",
        format!("//{host}/v2/a"),
        format!("@{host}/v2/a"),
        format!("/\\{host}/v2/a"),
        format!(".{host}/v2/a"),
    ]);
    for endpoint in &endpoints {
        let error = error(&mut client, endpoint).await;
        assert!(error.starts_with("invalid endpoint : "), "{endpoint}: {error}");
    }
    for (data, expected) in [
        (json!({}), "missing required keys : endpoint"),
        (
            json!({ "endpoint": "/v2/a", "verb": "trace" }),
            "invalid verb : must be get, put, post, patch or delete",
        ),
    ] {
        assert_eq!(api(&mut client, data).await["data"]["errors"][0], expected);
    }
    assert_eq!(
        client.request(json!({ "action": "api" })).await["data"]["errors"][0],
        "missing required keys : data"
    );
    let mut stranger = Client::connect(&edge.url("")).await;
    assert_eq!(error(&mut stranger, "/v2/about").await, "authentication token required");
    // A valid request at the end is the only one that reaches Crossbar.
    assert_eq!(api(&mut client, json!({ "endpoint": "/v2/about" })).await["status"], "success");
    let targets: Vec<String> = crossbar.take_requests().into_iter().map(|asked| asked.target).collect();
    assert_eq!(targets, ["/base/v2/about"]);
    assert!(elsewhere.take_requests().is_empty());
}

#[tokio::test]
async fn a_slow_crossbar_delays_only_the_sessions_that_wait_for_it() {
    let crossbar = Crossbar::start().await;
    let limits = [("WS__CROSSBAR_CONCURRENCY", "2"), ("WS__REQUEST_TIMEOUT", "3s")];
    let edge = edge("api-slow", &crossbar.url(), &limits).await;
    let account = Account::fresh();
    let mut client = login(&edge, &account.token()).await;
    let began = Instant::now();
    assert_eq!(error(&mut client, "/v2/silence").await, "Crossbar did not answer in time");
    assert!((Duration::from_secs(3)..Duration::from_secs(20)).contains(&began.elapsed()));

    let mut holders = [login(&edge, &account.token()).await, login(&edge, &account.token()).await];
    let request = |endpoint: &str| json!({ "action": "api", "data": { "endpoint": endpoint } }).to_string();
    crossbar.take_requests();
    for holder in &holders {
        holder.send_text(request("/v2/hold")).await;
    }
    eventually("two held requests", || async { crossbar.held() == 2 }).await;
    client.send_text(request("/v2/about")).await;
    // Meanwhile the edge serves other requests.
    let mut other = login(&edge, &account.token()).await;
    assert_eq!(other.request(json!({ "action": "ping" })).await["status"], "success");
    assert_eq!(crossbar.take_requests().len(), 2, "more than ws.crossbar_concurrency at once");
    crossbar.release_one();
    assert_eq!(client.reply().await["status"], "success");
    crossbar.release_one();
    for holder in &mut holders {
        assert_eq!(holder.reply().await["data"], json!({ "data": "held" }));
    }
}

#[tokio::test]
async fn requests_fail_without_crossbar_and_with_an_expired_token() {
    let account = Account::fresh();
    let mut client = login(&Stack::shared().edge, &account.token()).await;
    let expected = "api is not available here : the operator has not set ws.crossbar_url";
    assert_eq!(error(&mut client, "/v2/about").await, expected);

    let crossbar = Crossbar::start().await;
    let edge = edge("api-keep", &crossbar.url(), &[("WS__ON_TOKEN_EXPIRY", "keep")]).await;
    let mut client = login(&edge, &account.token_for(Duration::from_secs(2))).await;
    assert_eq!(api(&mut client, json!({ "endpoint": "/v2/about" })).await["status"], "success");
    let ended = async {
        loop {
            let reply = api(&mut client, json!({ "endpoint": "/v2/about" })).await;
            if reply["status"] == "error" {
                return reply["data"]["errors"][0].clone();
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    assert_eq!(soon("the token's end", ended).await, "failed to authenticate token : token is expired");
    crossbar.take_requests();
    // After a renewal it works again.
    let renewal =
        json!({ "action": "api", "auth_token": account.token(), "data": { "endpoint": "/v2/about" } });
    let token = renewal["auth_token"].clone();
    assert_eq!(client.request(renewal).await["status"], "success");
    assert_eq!(crossbar.take_requests()[0].header("x-auth-token"), token.as_str());

    let nobody = format!("http://127.0.0.1:{}", blackhole_dev::ports::free().unwrap());
    let edge = self::edge("api-away", &nobody, &[]).await;
    let mut client = login(&edge, &account.token()).await;
    assert_eq!(error(&mut client, "/v2/about").await, "Crossbar is not available, try again");
}
