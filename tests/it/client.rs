//! The client in JavaScript, in a real Chromium and in Node, and the one in Python: they reconnect and resume, and each
//! binding's events arrive in order, without loss or duplicates.

mod packages;
mod recipes;
mod revoked;
mod watch;
mod watcher;

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use blackhole_dev::{
    install,
    process::{Process, Spec},
    workspace::RunDir,
};
use blackhole_tests::{
    accounts::{Account, AccountPair},
    browser::Browser,
    events::{self, Event},
    eventually,
    proxy::{Network, Proxy},
    soon,
    stack::{Edge, Stack},
    tools,
};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
use tokio_util::sync::CancellationToken;

use crate::state::until_kept;
use watcher::{Language, OWN_WEBSOCKET, RunsIn, WATCH, Watcher, config, given, node, package};

/// Makes each of these scenarios a test of each language.
macro_rules! in_each_language {
    ($($name:ident),* $(,)?) => {
        mod javascript { $(#[tokio::test] async fn $name() { super::$name(super::Language::JavaScript).await; })* }
        mod python { $(#[tokio::test] async fn $name() { super::$name(super::Language::Python).await; })* }
    };
}
use in_each_language;

in_each_language!(
    it_begins_with_what_lives,
    every_event_comes_once_and_in_order_when_edges_die,
    every_event_comes_once_and_in_order_over_many_disconnects,
    a_gap_is_reported_when_the_stream_was_replaced,
    a_connection_without_answers_is_abandoned,
    it_reconnects_after_every_close_code_except_final_ones,
    a_refused_token_ends_the_client,
);

fn event(account: &Account, number: u64) -> Event {
    let name = ["CHANNEL_CREATE", "CHANNEL_DESTROY"][(number % 2) as usize];
    let mut event = events::call(account, name, "one-call");
    event.body["Number"] = number.into();
    event
}

/// Publishes numbered events of two accounts steadily. The quiet account has one for every fifty of the busy one.
struct Traffic {
    busy: Account,
    quiet: Account,
    last: [Arc<AtomicU64>; 2],
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Traffic {
    fn of(busy: &Account, quiet: &Account) -> Traffic {
        let (stop, last) = (CancellationToken::new(), [Arc::default(), Arc::default()]);
        let [of_busy, of_quiet]: [Arc<AtomicU64>; 2] = last.clone();
        let (mine, other, until) = (busy.clone(), quiet.clone(), stop.clone());
        let task = tokio::spawn(async move {
            let publisher = Stack::shared().publisher().await;
            while !until.is_cancelled() {
                let number = of_busy.load(Ordering::Relaxed) + 1;
                event(&mine, number).publish(&publisher).await;
                of_busy.store(number, Ordering::Relaxed);
                if number.is_multiple_of(50) {
                    event(&other, number / 50).publish(&publisher).await;
                    of_quiet.store(number / 50, Ordering::Relaxed);
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        Traffic { busy: busy.clone(), quiet: quiet.clone(), last, stop, task }
    }

    fn sent(&self) -> u64 {
        self.last[0].load(Ordering::Relaxed)
    }

    /// Waits until more events were published.
    async fn more(&self) {
        let until = self.sent() + 100;
        eventually("more events", async || self.sent() >= until).await;
    }

    /// Stops, and asserts that each binding of the watcher received its events, once and in order.
    async fn assert_complete(self, watcher: &Watcher) {
        self.stop.cancel();
        self.task.await.unwrap();
        let last = self.last.map(|last| last.load(Ordering::Relaxed));
        watcher.until_number(&self.busy, last[0]).await;
        watcher.until_number(&self.quiet, last[1]).await;
        // An event's frame for one binding may arrive before that for another.
        let whole: Vec<u64> = (1..=last[0]).collect();
        let even: Vec<u64> = (1..=last[0]).filter(|number| number % 2 == 0).collect();
        for (binding, last) in [("call.*.*", whole.last()), ("call.CHANNEL_CREATE.*", even.last())] {
            let has_last = async || watcher.numbers(&self.busy, binding).await.last() == last;
            eventually("the last frame", has_last).await;
        }
        assert_eq!(watcher.numbers(&self.busy, "call.CHANNEL_CREATE.*").await, even);
        assert_eq!(watcher.numbers(&self.busy, "call.*.*").await, whole);
        assert_eq!(watcher.numbers(&self.quiet, "call.*.*").await, (1..=last[1]).collect::<Vec<_>>());
        let seen = watcher.seen().await;
        assert!(seen.iter().all(|one| one["gap"].is_null() && one["error"].is_null()), "{seen:?}");
    }
}

/// Kills and restarts the watcher's edge while events flow, and asserts that no event is lost: neither before the first
/// one nor for an account that rarely has one.
async fn loses_no_event_when_the_edge_dies(edge: &Edge, family: &AccountPair, watcher: &Watcher) {
    watcher.until_subscribed(2).await;
    edge.service.server().kill().await.unwrap();
    let traffic = Traffic::of(&family.child, &family.parent);
    traffic.more().await;
    edge.service.server().start_again().await.unwrap();
    watcher.until_open(2).await;
    traffic.more().await;
    edge.service.server().kill().await.unwrap();
    traffic.more().await;
    edge.service.server().start_again().await.unwrap();
    watcher.until_open(3).await;
    edge.service.server().stop().await.unwrap();
    traffic.more().await;
    edge.service.server().start_again().await.unwrap();
    watcher.until_open(4).await;
    traffic.more().await;
    traffic.assert_complete(watcher).await;

    let seen = watcher.seen().await;
    let closed = seen.iter().filter(|one| one["state"] == "waiting").map(|one| one["code"].as_u64());
    assert!(closed.collect::<Vec<_>>().contains(&Some(1012)), "a stopped edge closes with 1012: {seen:?}");
    let count = |is: &dyn Fn(&&Value) -> bool| seen.iter().filter(is).count();
    let attempts = count(&|one| one["state"] == "connecting");
    assert_eq!(
        count(&|one| one["token"] == "asked for"),
        attempts,
        "a token is requested for each connection"
    );
}

fn of_family(edge: &Edge, family: &AccountPair) -> Value {
    let subscriptions: [(&Account, &[&str]); 2] =
        [(&family.child, &["call.*.*", "call.CHANNEL_CREATE.*"]), (&family.parent, &["call.*.*"])];
    config(&edge.url("view=args"), given(&family.parent), &subscriptions)
}

async fn it_begins_with_what_lives(language: Language) {
    let stack = Stack::shared();
    let account = Account::fresh();
    event(&account, 2).publish(&stack.publisher().await).await;
    let mut config =
        config(&stack.edge.url("view=args"), json!(account.token()), &[(&account, &["call.*.*"])]);
    config["state"] = true.into();
    let watcher = Watcher::start(language, &config);
    watcher.until_number(&account, 2).await;
    event(&account, 3).publish(&stack.publisher().await).await;
    watcher.until_number(&account, 3).await;
    let seen = watcher.seen().await;
    let present: Vec<&Value> = seen.iter().filter(|one| one["present"].is_array()).collect();
    assert_eq!(
        present,
        [
            &json!({ "present": ["call.*.*"], "complete": false }),
            &json!({ "present": ["call.*.*"], "complete": true })
        ]
    );
    assert_eq!(watcher.numbers(&account, "call.*.*").await, [2, 3]);
    assert!(seen.iter().all(|one| one["error"].is_null() && one["gap"].is_null()), "{seen:?}");
    watcher.close().await;
}

#[tokio::test]
async fn a_browser_client_gets_every_event_once_and_in_order_when_edges_die() {
    let (edge, family) = (Stack::shared().another_edge("edge-client-page", &[]).await, AccountPair::fresh());
    let watcher = Watcher::in_page(&edge, &of_family(&edge, &family)).await;
    loses_no_event_when_the_edge_dies(&edge, &family, &watcher).await;
    watcher.close().await;
}

async fn every_event_comes_once_and_in_order_when_edges_die(language: Language) {
    let name = ["edge-client-node", "edge-client-python"][language as usize];
    let (edge, family) = (Stack::shared().another_edge(name, &[]).await, AccountPair::fresh());
    let watcher = Watcher::start(language, &of_family(&edge, &family));
    loses_no_event_when_the_edge_dies(&edge, &family, &watcher).await;
    watcher.close().await;
}

#[tokio::test]
async fn nodes_own_websocket_does_as_well() {
    let tried = Command::new(node()).args(OWN_WEBSOCKET).args(["-e", "WebSocket"]).output().unwrap();
    if !tried.status.success() {
        println!("skipped: this Node has no WebSocket, it is older than 20.10");
        return;
    }
    let (edge, family) = (Stack::shared().another_edge("edge-client-own", &[]).await, AccountPair::fresh());
    let watcher = Watcher::script_in_node(&of_family(&edge, &family), WATCH, &OWN_WEBSOCKET);
    loses_no_event_when_the_edge_dies(&edge, &family, &watcher).await;
    watcher.close().await;
}

async fn every_event_comes_once_and_in_order_over_many_disconnects(language: Language) {
    let (edge, family) = (&Stack::shared().edge, AccountPair::fresh());
    let proxy = Proxy::start(edge.port).await;
    let mut config = of_family(edge, &family);
    config["url"] = json!(format!("ws://127.0.0.1:{}/?view=args", proxy.port()));
    // Otherwise the backoff would grow.
    config["retryEvery"] = json!(10);
    let watcher = Watcher::start(language, &config);
    watcher.until_subscribed(2).await;
    let traffic = Traffic::of(&family.child, &family.parent);
    for cut in 0..40 {
        // Before it is connected, while it catches up, or when it is live.
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..20 * (cut % 10 + 1)))).await;
        proxy.set(Network::Cut);
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..50))).await;
        proxy.set(Network::Up);
    }
    traffic.assert_complete(&watcher).await;
    watcher.close().await;
}

#[tokio::test]
async fn the_console_shows_events_from_while_it_was_disconnected() {
    let (edge, account) = (Stack::shared().another_edge("edge-client-console", &[]).await, Account::fresh());
    let publisher = Stack::shared().publisher().await;
    let browser = Browser::open().await;
    let (port, token) = (edge.port, account.token());
    browser.goto(&format!("http://127.0.0.1:{port}/#token={token}&binding=call.*.*")).await;
    let is_active = "document.querySelector('.subscription[data-state=active]') !== null";
    browser.until(is_active).await;
    edge.service.server().kill().await.unwrap();
    browser.until("document.getElementById('status').textContent === 'disconnected'").await;
    browser.until("document.querySelector('.subscription[data-state=waiting]') !== null").await;
    events::call(&account, "CHANNEL_CREATE", "meanwhile").publish(&publisher).await;
    edge.service.server().start_again().await.unwrap();
    browser.until("document.getElementById('status').textContent === 'connected'").await;
    browser.until(is_active).await;
    browser.until("document.getElementById('events').textContent.includes('meanwhile')").await;
    browser.close().await;
}

#[tokio::test]
async fn subscriptions_changed_while_disconnected_apply_at_the_next_connection() {
    let (edge, account) = (Stack::shared().another_edge("edge-client-away", &[]).await, Account::fresh());
    let publisher = Stack::shared().publisher().await;
    let config = config(&edge.url("view=args"), given(&account), &[(&account, &["call.*.*"])]);
    let watcher = Watcher::in_page(&edge, &config).await;
    watcher.until_subscribed(1).await;
    edge.service.server().kill().await.unwrap();
    watcher.until("the wait", 1, |one| one["state"] == "waiting").await;
    let id = json!(account.id);
    watcher
        .run(&format!("client.unsubscribe({id}, 'call.*.*'); subscribe({id}, ['call.CHANNEL_CREATE.*'])"))
        .await;
    edge.service.server().start_again().await.unwrap();
    watcher.until_subscribed(2).await;
    for number in 1..=4 {
        event(&account, number).publish(&publisher).await;
    }
    watcher.until_number(&account, 4).await;
    assert_eq!(watcher.numbers(&account, "call.CHANNEL_CREATE.*").await, [2, 4]);
    assert_eq!(watcher.numbers(&account, "call.*.*").await, [0; 0]);
    // A binding that the edge refuses is reported.
    watcher.run(&format!("subscribe({id}, ['no.such.family'])")).await;
    let refused = watcher.until("the refusal", 1, |one| !one["refused"].is_null()).await;
    assert_eq!(refused[0]["refused"], "no available subscriptions to requested binding");
    watcher.close().await;
}

async fn a_gap_is_reported_when_the_stream_was_replaced(language: Language) {
    let stack = Stack::start(["client-gap-node", "client-gap-python"][language as usize]).await;
    let account = Account::fresh();
    let publisher = stack.publisher().await;
    let config = config(&stack.edge.url("view=args"), given(&account), &[(&account, &["call.*.*"])]);
    let watcher = Watcher::start(language, &config);
    watcher.until_subscribed(1).await;
    event(&account, 1).publish(&publisher).await;
    watcher.until_number(&account, 1).await;
    stack.edge.service.server().kill().await.unwrap();
    let nats = async_nats::connect(stack.nats.url()).await.unwrap();
    let jetstream = async_nats::jetstream::new(nats);
    jetstream.delete_stream("BLACKHOLE_V1").await.unwrap();
    // The ingest creates the stream again for the first event that is not stored.
    event(&account, 2).publish(&publisher).await;
    eventually("the new stream", async || jetstream.get_stream("BLACKHOLE_V1").await.is_ok()).await;
    stack.edge.service.server().start_again().await.unwrap();
    let gaps = watcher.until("the gap", 1, |one| !one["gap"].is_null()).await;
    let expected = json!({ "account": account.id, "bindings": ["call.*.*"], "reason": "unknown stream" });
    assert_eq!(gaps, [json!({ "gap": expected })]);
    // From there on it resumes again.
    event(&account, 3).publish(&publisher).await;
    watcher.until_number(&account, 3).await;
    stack.edge.service.server().kill().await.unwrap();
    event(&account, 4).publish(&publisher).await;
    stack.edge.service.server().start_again().await.unwrap();
    watcher.until_number(&account, 4).await;
    assert_eq!(watcher.numbers(&account, "call.*.*").await, [1, 3, 4]);
    watcher.close().await;
}

async fn a_connection_without_answers_is_abandoned(language: Language) {
    let (stack, account) = (Stack::shared(), Account::fresh());
    let proxy = Proxy::start(stack.edge.port).await;
    let url = format!("ws://127.0.0.1:{}/?view=args", proxy.port());
    let watcher = Watcher::start(language, &config(&url, given(&account), &[(&account, &["call.*.*"])]));
    watcher.until_subscribed(1).await;
    proxy.set(Network::Dropping);
    let waiting = watcher.until("the wait", 1, |one| one["state"] == "waiting").await;
    assert_eq!((&waiting[0]["code"], &waiting[0]["reason"]), (&json!(1006), &json!("no answer in time")));
    event(&account, 1).publish(&stack.publisher().await).await;
    proxy.set(Network::Up);
    watcher.until_number(&account, 1).await;
    watcher.close().await;
}

/// A server that closes its connections with these codes, one after the other.
async fn closing_with(codes: &'static [u16]) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        for code in codes {
            let (stream, _) = listener.accept().await.unwrap();
            let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
            let _ = socket.next().await;
            let frame = CloseFrame { code: CloseCode::from(*code), reason: "as told".into() };
            let _ = socket.close(Some(frame)).await;
            while let Some(Ok(_)) = socket.next().await {}
        }
        let _ = futures_util::future::pending::<()>().await;
    });
    port
}

async fn it_reconnects_after_every_close_code_except_final_ones(language: Language) {
    let url = format!("ws://127.0.0.1:{}/", closing_with(&[1001, 1012, 1013, 4000, 4401, 4499, 4500]).await);
    let watcher = Watcher::start(language, &config(&url, json!({ "given": "any" }), &[]));
    let ended = watcher.until("the end", 1, |one| one["state"] == "ended").await;
    assert_eq!(ended, [json!({ "state": "ended", "code": 4500, "reason": "as told" })]);
    let waited = watcher.until("the waits", 6, |one| one["state"] == "waiting").await;
    let codes: Vec<&Value> = waited.iter().map(|one| &one["code"]).collect();
    assert_eq!(codes, [1001, 1012, 1013, 4000, 4401, 4499]);
    let waits: Vec<f64> = waited.iter().map(|one| one["wait"].as_f64().unwrap()).collect();
    for (attempt, wait) in waits.iter().enumerate() {
        assert!((0.0..=250.0 * 2f64.powi(attempt as i32)).contains(wait), "{wait} before attempt {attempt}");
    }
    assert!(waits.iter().any(|wait| *wait > 0.0), "{waits:?}");
    // The client does not keep the program running.
    if let RunsIn::Program(process, _) = &watcher.runs_in {
        assert!(soon("the program's end", process.exited()).await.unwrap().success());
    }
    watcher.close().await;
}

const REFUSAL: &str = "failed to authenticate token : token is malformed";

async fn a_refused_token_ends_the_client(language: Language) {
    let (edge, account) = (&Stack::shared().edge, Account::fresh());
    let config = config(&edge.url("view=args"), json!("nonsense"), &[(&account, &["call.*.*"])]);
    let fixed = Watcher::start(language, &config);
    let ended = fixed.until("the end", 1, |one| one["state"] == "ended").await;
    assert_eq!(ended[0]["reason"], REFUSAL);
    fixed.until("the subscription's end", 1, |one| one["refused"] == REFUSAL).await;
}

#[tokio::test]
async fn a_function_is_asked_for_another_token_if_one_is_refused() {
    let (edge, account) = (&Stack::shared().edge, Account::fresh());
    let config = config(&edge.url("view=args"), json!({ "given": "nonsense" }), &[(&account, &["call.*.*"])]);
    let given = Watcher::in_page(edge, &config).await;
    given.until("the error", 1, |one| one["error"] == REFUSAL).await;
    given.run(&format!("config.tokens = {}", json!(account.token()))).await;
    given.until_subscribed(1).await;
    given.close().await;
}
