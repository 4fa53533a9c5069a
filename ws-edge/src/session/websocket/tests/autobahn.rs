//! The Autobahn test suite against a server that echoes with a session's own socket, outbox and close codes.
//! `cargo dev autobahn` runs it.

use std::{collections::BTreeMap, env, fs, path::PathBuf, process::Command};

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tungstenite::handshake::derive_accept_key;

use super::*;
use crate::{
    http::compression,
    outbox::{
        Flushed,
        frame::{Frame, SharedText},
    },
    session::end::{End, end_of},
};

/// The largest message of the suite has 16 MiB. Edges take `ws.max_frame`; other tests check that.
const MAX_MESSAGE: usize = 16 << 20;
/// The suite's name for the server.
const AGENT: &str = "ws-edge";
/// The results that are no fault. `UNIMPLEMENTED`: the suite offers only what is declined.
const GOOD: [&str; 4] = ["OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED"];

/// Starts the suite; `addsitedir` also reads the .pth files of its packages.
const SUITE: &str =
    "import site; site.addsitedir('packages'); from autobahntestsuite import wstest; wstest.run()";

/// One case's result.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CaseResult {
    behavior: String,
    behavior_close: String,
}

#[test]
#[ignore = "needs the Autobahn test suite: cargo dev autobahn"]
fn the_autobahn_test_suite_finds_no_fault() {
    // The suite's packages are in this directory, and its report goes there.
    let directory = PathBuf::from(env::var("AUTOBAHN_DIRECTORY").expect("cargo dev autobahn names it"));
    let python = env::var("AUTOBAHN_PYTHON").unwrap();
    let chosen = env::var("AUTOBAHN_CASES").unwrap();
    let chosen: Vec<&str> = chosen.split(',').collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let port = listener.local_addr().unwrap().port();
    runtime.spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(serve(tcp));
        }
    });
    let spec = json!({
        "outdir": directory.join("report"),
        "servers": [{ "agent": AGENT, "url": format!("ws://127.0.0.1:{port}") }],
        "cases": chosen,
        "exclude-cases": [],
        "exclude-agent-cases": {},
    });
    fs::write(directory.join("spec.json"), spec.to_string()).unwrap();
    let log = fs::File::create(directory.join("suite.log")).unwrap();
    let suite = Command::new(python)
        .args(["-c", SUITE, "-m", "fuzzingclient", "-s", "spec.json"])
        .current_dir(&directory)
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .status();
    assert!(suite.unwrap().success(), "see suite.log in {}", directory.display());

    let index = fs::read_to_string(directory.join("report/index.json")).unwrap();
    let mut index: BTreeMap<String, BTreeMap<String, CaseResult>> = serde_json::from_str(&index).unwrap();
    let cases = index.remove(AGENT).unwrap();
    let mut counts: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for (id, case) in &cases {
        counts.entry((&case.behavior, &case.behavior_close)).or_default().push(id);
    }
    println!("{} cases, by behaviour and by behaviour when closing:", cases.len());
    for ((behavior, close), ids) in &counts {
        let listed =
            if *behavior == "OK" && *close == "OK" { String::new() } else { format!(": {}", ids.join(" ")) };
        println!("{behavior}, {close}: {}{listed}", ids.len());
    }
    assert!(chosen != ["*"] || cases.len() > 500, "the suite ran only {} cases", cases.len());
    assert!(!cases.is_empty(), "no case is one of {chosen:?}");
    let is_good = |text: &str| GOOD.contains(&text);
    let bad = cases.iter().filter(|(_, case)| !is_good(&case.behavior) || !is_good(&case.behavior_close));
    assert_eq!(bad.count(), 0, "{counts:#?}");
}

/// Answers the upgrade and echoes until the end, as a session reads, writes and closes.
async fn serve(mut tcp: TcpStream) {
    let Some((early, is_compressed)) = upgrade(&mut tcp).await else { return };
    let tcp = Arc::new(tcp);
    let outbox = Outbox::new(1, MAX_MESSAGE, Arc::clone(&tcp) as _, Arc::default());
    let outbox = Arc::new(outbox.compressed(is_compressed));
    let mut socket = Socket::new(tcp, Arc::clone(&outbox), early, MAX_MESSAGE);
    loop {
        let sent = match read(&mut socket, &outbox).await {
            Ok(Message::Text(text)) if is_compressed => {
                // As events are sent.
                let text = SharedText::new(Bytes::copy_from_slice(text.as_bytes()));
                outbox.push_own(Frame::compressible(Vec::new(), &Arc::new(text)));
                socket.send(None)
            }
            Ok(message @ (Message::Text(_) | Message::Binary(_))) => socket.send(Some(message)),
            Ok(_) => socket.send(None),
            Err(error) => {
                if let End::Close(close) = end_of(&error) {
                    let _ = socket.close(close.frame());
                    while outbox.flush() == Flushed::Blocked {
                        if poll_fn(|context| socket.tcp().poll_write_ready(context)).await.is_err() {
                            return;
                        }
                    }
                }
                let _ = shut_down(socket.tcp()).await;
                return;
            }
        };
        outbox.flush();
        if !matches!(sent, Ok(()) | Err(Error::ConnectionClosed)) {
            return;
        }
    }
}

/// The next message; writes meanwhile what the connection takes.
async fn read(socket: &mut Socket, outbox: &Outbox) -> Result<Message, Error> {
    poll_fn(|context| {
        outbox.register(context);
        socket.begin_poll();
        while outbox.is_blocked() && socket.tcp().poll_write_ready(context).is_ready() {
            outbox.flush();
        }
        if outbox.is_stuffed() { Poll::Pending } else { socket.poll_next(context) }
    })
    .await
}

/// Reads the upgrade request and accepts it. Returns what came after it, and whether messages may be compressed.
async fn upgrade(tcp: &mut TcpStream) -> Option<(Bytes, bool)> {
    let mut received = Vec::new();
    let end = loop {
        if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        (tcp.read_buf(&mut received).await.ok()? > 0).then_some(())?;
    };
    let head = String::from_utf8(received[..end].to_vec()).ok()?;
    let (_, key) = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"))?;
    let accept = derive_accept_key(key.as_bytes());
    let mut headers = HeaderMap::new();
    for (name, value) in head.lines().filter_map(|line| line.split_once(": ")) {
        headers.append(HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_str(value).ok()?);
    }
    let compression = compression::answer(&headers);
    let extensions =
        compression.map(|answer| format!("Sec-WebSocket-Extensions: {answer}\r\n")).unwrap_or_default();
    let response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{extensions}\r\n"
    );
    tcp.write_all(response.as_bytes()).await.ok()?;
    Some((Bytes::copy_from_slice(&received[end..]), compression.is_some()))
}
