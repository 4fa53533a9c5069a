//! Compression (permessage-deflate, RFC 7692) with clients that offer it: bytes of our own, Python's `websockets`, Chromium.

use std::{io::Write as _, process::Stdio};

use blackhole_dev::websocket::{TEXT, upgrade_request};
use blackhole_tests::{
    accounts::Account,
    browser::Browser,
    events::{self, Event},
    eventually,
    raw::RawClient,
    stack::{Edge, Stack},
    tools,
};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use serde_json::{Value, json};

const OFFER: &str = "permessage-deflate; client_max_window_bits";
const ANSWER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
/// The first byte of a compressed text frame.
const COMPRESSED: u8 = 0xc1;
/// Prints what it was answered, and the events; resumes once in the middle.
const CLIENT: &str = include_str!("compression/client.py");

/// A session with this offer, and the answer to it.
async fn session(edge: &Edge, offer: Option<&str>) -> (RawClient, Option<String>) {
    let mut client = RawClient::connect(edge.port).await;
    client.send(upgrade_request("/?view=args", &[("Sec-WebSocket-Extensions", offer)])).await;
    let response = client.response().await;
    assert_eq!(response.status, 101, "{response:?}");
    let answer = response.header("sec-websocket-extensions").map(str::to_owned);
    (client, answer)
}

fn subscription(account: &Account) -> String {
    let data = json!({ "account_id": account.id, "bindings": ["call.*.*"] });
    json!({ "action": "subscribe", "auth_token": account.token(), "data": data, "request_id": "r" })
        .to_string()
}

/// A client's payload.
fn compress(content: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(content.len() + 100);
    Compress::new(Compression::best(), false)
        .compress_vec(content, &mut payload, FlushCompress::Sync)
        .unwrap();
    payload.strip_suffix(&[0, 0, 0xff, 0xff]).unwrap().to_vec()
}

/// The event in a compressed payload.
fn decompress(payload: &[u8]) -> Value {
    let mut text = Vec::with_capacity(1 << 20);
    let whole = [payload, &[0, 0, 0xff, 0xff]].concat();
    Decompress::new(false).decompress_vec(&whole, &mut text, FlushDecompress::Sync).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// An event as long as most.
fn call(account: &Account, number: u64) -> Event {
    let mut event = events::call(account, "CHANNEL_CREATE", "a-call");
    event.body["Number"] = number.into();
    for header in 0..20 {
        event.body[format!("Custom-SIP-Header-{header}")] = json!(format!("value {header} of {number}"));
    }
    event
}

async fn metric(edge: &Edge, name: &str) -> f64 {
    Stack::metric(&edge.service, name).await
}

#[tokio::test]
async fn who_offers_compression_gets_each_event_compressed_once_for_all() {
    let (stack, account) = (Stack::shared(), Account::fresh());
    let edge = stack.another_edge("edge-compression", &[]).await;
    let mut sessions = Vec::new();
    for offer in [Some(OFFER), Some(OFFER), None, Some("permessage-deflate; server_max_window_bits=9")] {
        let (mut client, answer) = session(&edge, offer).await;
        let is_compressed = offer == Some(OFFER);
        assert_eq!(answer.as_deref(), is_compressed.then_some(ANSWER));
        if is_compressed {
            client.send_frame(COMPRESSED, compress(subscription(&account).as_bytes())).await;
        } else {
            client.send_frame(TEXT, subscription(&account)).await;
        }
        // A short frame is not compressed.
        let reply: Value = serde_json::from_str(&client.text().await).unwrap();
        assert_eq!(reply["status"], "success", "{reply}");
        sessions.push((client, is_compressed));
    }
    assert_eq!(metric(&edge, "blackhole_edge_compressed_sessions").await, 2.0);
    let event = call(&account, 1);
    event.publish(&stack.publisher().await).await;
    let (mut plain, mut compressed) = (Vec::new(), Vec::new());
    for (client, is_compressed) in &mut sessions {
        let (first, payload) = client.frame().await.unwrap();
        if *is_compressed {
            assert_eq!(first, COMPRESSED);
            assert_eq!(decompress(&payload)["args"], event.body);
            compressed.push(payload);
        } else {
            assert_eq!(first, TEXT);
            assert_eq!(serde_json::from_slice::<Value>(&payload).unwrap()["args"], event.body);
            plain.push(payload);
        }
    }
    assert!(plain[0] == plain[1] && compressed[0] == compressed[1]);
    assert!(compressed[0].len() * 2 < plain[0].len(), "{} of {}", compressed[0].len(), plain[0].len());
    // Both have a header of four bytes.
    let input = metric(&edge, "blackhole_edge_compression_input_bytes_total").await;
    let output = metric(&edge, "blackhole_edge_compression_output_bytes_total").await;
    assert_eq!((input, output), (plain[0].len() as f64 + 4.0, compressed[0].len() as f64 + 4.0));
    drop(sessions);
    eventually("the end of the sessions", async || {
        metric(&edge, "blackhole_edge_compressed_sessions").await == 0.0
    })
    .await;
}

#[tokio::test]
async fn an_edge_without_compression_declines_it() {
    let edge = Stack::shared().another_edge("edge-plain", &[("WS__COMPRESSION", "false")]).await;
    let (mut client, answer) = session(&edge, Some(OFFER)).await;
    assert_eq!(answer, None);
    client.send_frame(COMPRESSED, compress(b"{\"action\":\"ping\"}")).await;
    assert_eq!(client.closed().await, Some(1002));
}

#[tokio::test]
async fn a_compressed_message_that_becomes_too_large_ends_the_session() {
    let edge = Stack::shared().another_edge("edge-bomb", &[]).await;
    let bomb = compress(&vec![b' '; 16 << 20]);
    assert!(bomb.len() < 32 << 10, "{}", bomb.len());
    let (half, rest) = bomb.split_at(bomb.len() / 2);
    for fragments in [&[(COMPRESSED, &bomb[..])][..], &[(0x41, half), (0x80, rest)]] {
        let (mut client, _) = session(&edge, Some(OFFER)).await;
        for (first, payload) in fragments {
            client.send_frame(*first, payload).await;
        }
        assert_eq!(client.closed().await, Some(1009));
    }
    for (first, payload, code) in [
        (COMPRESSED, &b"\xff\xff"[..], 1002),
        (COMPRESSED, &compress(b"\xff"), 1007),
        (0xc9, b"", 1002),
        (0xc0, b"", 1002),
    ] {
        let (mut client, _) = session(&edge, Some(OFFER)).await;
        client.send_frame(first, payload).await;
        assert_eq!(client.closed().await, Some(code), "{first:x} {payload:x?}");
    }
}

#[tokio::test]
async fn a_python_client_reads_compressed_events_and_resumes() {
    let (stack, account) = (Stack::shared(), Account::fresh());
    let edge = stack.another_edge("edge-python", &[]).await;
    let mut python = tools::python()
        .args(["-c", CLIENT, &edge.url("view=args"), &account.token(), &account.id])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let publisher = stack.publisher().await;
    eventually("the client's subscription", async || {
        metric(&edge, "blackhole_edge_subscriptions").await == 1.0
    })
    .await;
    let sent: Vec<Event> = (0..6).map(|number| call(&account, number)).collect();
    for event in &sent[..3] {
        event.publish(&publisher).await;
    }
    eventually("the client's end", async || metric(&edge, "blackhole_edge_sessions").await == 0.0).await;
    let mut watcher = RawClient::session(stack.edge.port, "view=args").await;
    watcher.send_frame(TEXT, subscription(&account)).await;
    watcher.text().await;
    for event in &sent[3..] {
        event.publish(&publisher).await;
    }
    // They are stored: it may come back.
    watcher.until_received(b"value 19 of 5").await;
    python.stdin.take().unwrap().write_all(b"\n").unwrap();
    let output = tokio::task::spawn_blocking(|| python.wait_with_output()).await.unwrap().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{printed}");
    let lines: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (negotiated, events): (Vec<&Value>, Vec<&Value>) =
        lines.iter().partition(|line| line.get("extensions").is_some());
    assert_eq!(negotiated, [&json!({ "extensions": ["permessage-deflate"] }); 2]);
    assert_eq!(events, sent.iter().map(|event| &event.body).collect::<Vec<_>>());
    let input = metric(&edge, "blackhole_edge_compression_input_bytes_total").await;
    let output = metric(&edge, "blackhole_edge_compression_output_bytes_total").await;
    assert!(input > 6.0 * 1000.0 && output * 2.0 < input, "{output} of {input}");
}

#[tokio::test]
async fn a_browser_reads_compressed_events() {
    let (stack, account) = (Stack::shared(), Account::fresh());
    let edge = stack.another_edge("edge-browser", &[]).await;
    let browser = Browser::open().await;
    let page = format!("http://127.0.0.1:{}/#token={}&binding=call.*.*", edge.port, account.token());
    browser.page.goto(&page).await.unwrap();
    browser.until("!!document.querySelector('.subscription[data-state=active]')").await;
    assert_eq!(metric(&edge, "blackhole_edge_compressed_sessions").await, 1.0);
    let before = metric(&edge, "blackhole_edge_frames_sent_bytes_total").await;
    let mut event = call(&account, 1);
    event.body["Call-ID"] = json!("compressed-for-a-browser");
    event.publish(&stack.publisher().await).await;
    browser.until("document.getElementById('events').textContent.includes('compressed-for-a-browser')").await;
    let sent = metric(&edge, "blackhole_edge_frames_sent_bytes_total").await - before;
    let body = event.body.to_string().len() as f64;
    assert!(sent < body, "{sent} bytes for a body of {body}");
    browser.close().await;
}
