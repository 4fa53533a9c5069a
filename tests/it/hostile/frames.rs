//! Invalid requests get an error reply; violations of the WebSocket protocol get a close code.

use blackhole_dev::websocket::{
    CLOSE, CONTINUATION, LAST_FRAGMENT, PING, PONG, TEXT, TEXT_START, client_frame,
};
use blackhole_tests::{
    accounts::Account,
    client::Client,
    eventually,
    raw::RawClient,
    stack::{Edge, Stack},
};
use serde_json::{Value, json};

use super::Neighbour;

/// The default of `ws.max_frame`.
const MAX_FRAME: usize = 64 * 1024;

fn edge() -> &'static Edge {
    &Stack::shared().edge
}

/// An authenticated session: only its requests are validated.
async fn authenticated(edge: &Edge) -> Client {
    let mut client = Client::connect(&edge.url("")).await;
    let token = Account::fresh().token();
    assert_eq!(client.request(json!({ "action": "ping", "auth_token": token })).await["status"], "success");
    client
}

async fn error_to(client: &mut Client, text: impl Into<String>) -> String {
    client.send_text(text).await;
    error_of(&client.reply().await)
}

fn error_of(reply: &Value) -> String {
    assert_eq!(reply["status"], "error", "{reply}");
    assert!(reply["request_id"].as_str().is_some_and(|id| !id.is_empty()), "{reply}");
    reply["data"]["errors"][0].as_str().unwrap().to_owned()
}

/// A ping of exactly this many bytes.
fn ping_of(bytes: usize) -> String {
    let ping = r#"{"action":"ping"}"#;
    ping.to_owned() + &" ".repeat(bytes - ping.len())
}

#[tokio::test]
async fn text_that_is_not_a_json_object_gets_an_error_reply_and_the_session_continues() {
    let edge = edge();
    let mut neighbour = Neighbour::on(edge).await;
    let mut client = authenticated(edge).await;
    for text in [
        "",
        " ",
        "{",
        "}",
        "{\"action\":}",
        "{'action':'ping'}",
        "ping",
        "\u{feff}{}",
        "{} {}",
        "{\"a\":\"\\ud800\"}",
        "[1e999]",
    ] {
        let error = error_to(&mut client, text).await;
        assert!(error.starts_with("malformed JSON : "), "{text}: {error}");
    }
    for text in ["[]", "[{\"action\":\"ping\"}]", "\"ping\"", "42", "null", "true"] {
        assert_eq!(error_to(&mut client, text).await, "a request is one JSON object", "{text}");
    }
    assert_eq!(client.request(json!({ "action": "ping" })).await["status"], "success");
    neighbour.still_gets_events().await;
}

#[tokio::test]
async fn errors_name_the_wrong_or_missing_member() {
    let mut client = authenticated(edge()).await;
    for (request, expected) in [
        (json!({}), "missing required keys : action"),
        (json!({ "action": 5 }), "invalid action : must be a string"),
        (json!({ "action": null }), "invalid action : must be a string"),
        (json!({ "action": { "action": "ping" } }), "invalid action : must be a string"),
        (json!({ "action": "" }), "unknown action : "),
        (json!({ "action": "Subscribe" }), "unknown action : Subscribe"),
        (json!({ "action": "subscribe" }), "missing required keys : data"),
        (json!({ "action": "subscribe", "data": {} }), "missing required keys : binding"),
        (json!({ "action": "subscribe", "data": "call.*.*" }), "invalid data : must be an object"),
        (
            json!({ "action": "subscribe", "data": { "binding": ["call.*.*"] } }),
            "invalid binding : must be a string",
        ),
        (
            json!({ "action": "subscribe", "data": { "bindings": "call.*.*" } }),
            "invalid bindings : must be a list of strings",
        ),
        (
            json!({ "action": "subscribe", "data": { "bindings": ["call.*.*", 1] } }),
            "invalid bindings : must be a string",
        ),
        (json!({ "action": "subscribe", "data": { "bindings": [] } }), "empty subscription"),
        (
            json!({ "action": "unsubscribe", "data": { "bindings": {} } }),
            "invalid bindings : must be a list of strings",
        ),
        (json!({ "action": "ping", "auth_token": {} }), "invalid auth_token : must be a string"),
        (json!({ "action": "ping", "request_id": [1] }), "invalid request_id : must be a string or a number"),
        (
            json!({ "action": "ping", "request_id": "x".repeat(257) }),
            "invalid request_id : longer than 256 bytes",
        ),
    ] {
        assert_eq!(error_to(&mut client, request.to_string()).await, expected, "{request}");
    }
}

#[tokio::test]
async fn an_unknown_action_and_a_disabled_action_have_different_errors() {
    let mut client = authenticated(edge()).await;
    for action in ["API", "relay", "relay.subscribe", "dialog"] {
        let error = error_to(&mut client, json!({ "action": action, "data": {} }).to_string()).await;
        assert_eq!(error, format!("unknown action : {action}"));
    }
    for (action, missing) in
        [("api", "endpoint"), ("relay.publish", "Server-ID"), ("dialog.push", "Server-ID")]
    {
        let error = error_to(&mut client, json!({ "action": action, "data": {} }).to_string()).await;
        assert_eq!(error, format!("missing required keys : {missing}"));
    }
    let request = json!({ "action": "api", "data": { "endpoint": "/v2/accounts" } }).to_string();
    let error = error_to(&mut client, request).await;
    assert_eq!(error, "api is not available here : the operator has not set ws.crossbar_url");
}

#[tokio::test]
async fn deeply_nested_json_is_malformed() {
    let edge = edge();
    let mut neighbour = Neighbour::on(edge).await;
    let mut client = authenticated(edge).await;
    let (open, close) = ("[".repeat(25_000), "]".repeat(25_000));
    for text in [
        "[".repeat(50_000),
        "{\"a\":".repeat(10_000),
        format!("{{\"action\":\"ping\",\"data\":{open}{close}}}"),
    ] {
        assert!(error_to(&mut client, text).await.starts_with("malformed JSON : recursion limit"));
    }
    neighbour.still_gets_events().await;
}

#[tokio::test]
async fn a_binary_frame_gets_an_error_reply() {
    let mut client = authenticated(edge()).await;
    for bytes in [Vec::new(), vec![0xFF, 0xFE, 0x00], br#"{"action":"ping"}"#.to_vec()] {
        client.send_binary(bytes).await;
        assert_eq!(error_of(&client.reply().await), "binary frames are not understood, send text");
    }
    assert_eq!(client.request(json!({ "action": "ping" })).await["status"], "success");
}

#[tokio::test]
async fn a_request_with_too_many_bindings_is_refused_as_a_whole() {
    let edge = edge();
    let mut neighbour = Neighbour::on(edge).await;
    let mut client = authenticated(edge).await;
    let bindings: Vec<String> = (0..4000).map(|number| format!("call.*.{number}")).collect();
    let request = json!({ "action": "subscribe", "data": { "bindings": bindings } }).to_string();
    assert_eq!(error_to(&mut client, request).await, "too many bindings : at most 1000 per session");
    let reply = client.request(json!({ "action": "unsubscribe" })).await;
    assert_eq!(reply["data"]["unsubscribed"], json!([]));
    neighbour.still_gets_events().await;
}

#[tokio::test]
async fn the_largest_frame_is_answered_and_one_byte_more_closes_with_1009() {
    let edge = edge();
    let mut neighbour = Neighbour::on(edge).await;
    let mut raw = RawClient::session(edge.port, "").await;
    raw.send_frame(TEXT, ping_of(MAX_FRAME)).await;
    assert!(raw.text().await.contains("authentication token required"));
    raw.send_frame(TEXT, ping_of(MAX_FRAME + 1)).await;
    assert_eq!(raw.closed().await, Some(1009));
    neighbour.still_gets_events().await;
}

#[tokio::test]
async fn a_frame_with_too_large_a_length_closes_with_1009_before_its_payload_arrives() {
    for length in [MAX_FRAME as u64 + 1, 1 << 40] {
        let mut raw = RawClient::session(edge().port, "").await;
        raw.send([[TEXT, 0xFF].as_slice(), &length.to_be_bytes(), &[0; 4]].concat()).await;
        assert_eq!(raw.closed().await, Some(1009), "{length}");
    }
}

#[tokio::test]
async fn a_fragmented_message_has_the_same_size_limit() {
    let edge = edge();
    let mut raw = RawClient::session(edge.port, "").await;
    let text = ping_of(MAX_FRAME);
    raw.send_frame(TEXT_START, &text[..20_000]).await;
    raw.send_frame(PING, "between").await;
    raw.send_frame(CONTINUATION, &text[20_000..50_000]).await;
    raw.send_frame(LAST_FRAGMENT, &text[50_000..]).await;
    assert_eq!(raw.frame().await, Some((PONG, b"between".to_vec())));
    assert!(raw.text().await.contains("authentication token required"));

    raw.send_frame(TEXT_START, &text[..40_000]).await;
    raw.send_frame(CONTINUATION, &text[..40_000]).await;
    assert_eq!(raw.closed().await, Some(1009), "closed before the last fragment");
}

#[tokio::test]
async fn a_text_that_is_not_utf8_closes_with_1007() {
    let edge = edge();
    let mut neighbour = Neighbour::on(edge).await;
    for text in [b"\xFF".as_slice(), b"{\"action\":\"p\xC3\"}", b"\xED\xA0\x80", b"\xF5\x80\x80\x80"] {
        let mut raw = RawClient::session(edge.port, "").await;
        raw.send_frame(TEXT, text).await;
        assert_eq!(raw.closed().await, Some(1007), "{text:x?}");
    }
    let mut raw = RawClient::session(edge.port, "").await;
    raw.send_frame(TEXT_START, b"\xC3").await;
    raw.send_frame(LAST_FRAGMENT, b"(").await;
    assert_eq!(raw.closed().await, Some(1007), "half a character");
    neighbour.still_gets_events().await;
}

#[tokio::test]
async fn a_frame_that_breaks_the_websocket_protocol_closes_with_1002() {
    let edge = edge();
    let mut neighbour = Neighbour::on(edge).await;
    let masked = client_frame;
    for (what, bytes) in [
        ("unmasked", [&[TEXT, 17], br#"{"action":"ping"}"#.as_slice()].concat()),
        ("first reserved bit", masked(TEXT | 0x40, b"{}")),
        ("second reserved bit", masked(TEXT | 0x20, b"{}")),
        ("third reserved bit", masked(TEXT | 0x10, b"{}")),
        ("reserved data opcode", masked(0x83, b"{}")),
        ("reserved control opcode", masked(0x8B, b"")),
        ("continuation of nothing", masked(LAST_FRAGMENT, b"{}")),
        ("text within a text", [masked(TEXT_START, b"{"), masked(TEXT, b"}")].concat()),
        ("ping in fragments", masked(PING & 0x7F, b"x")),
        ("ping over 125 bytes", masked(PING, &[b'x'; 126])),
        ("close with half a code", masked(CLOSE, &[3])),
        ("close with a code that must not be sent", masked(CLOSE, &1005_u16.to_be_bytes())),
    ] {
        let mut raw = RawClient::session(edge.port, "").await;
        raw.send(bytes).await;
        assert_eq!(raw.closed().await, Some(1002), "{what}");
    }
    neighbour.still_gets_events().await;
}

#[tokio::test]
async fn a_client_that_disconnects_within_a_frame_leaves_no_session_behind() {
    let edge = Stack::shared().another_edge("edge-leavers", &[]).await;
    let mut neighbour = Neighbour::on(&edge).await;
    for sent in [1, 5, 12] {
        let mut raw = RawClient::session(edge.port, "").await;
        raw.send(&client_frame(TEXT, br#"{"action":"ping"}"#)[..sent]).await;
    }
    eventually("the end of the three sessions", || async {
        Stack::metric(&edge.service, "blackhole_edge_sessions").await == 1.0
            && Stack::metric(&edge.service, "blackhole_edge_connections").await == 1.0
            && Stack::metric(&edge.service, "blackhole_edge_sessions_closed_total").await == 3.0
    })
    .await;
    neighbour.still_gets_events().await;
}
