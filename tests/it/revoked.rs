//! What is no longer granted ends in sessions that are open, and the client is told.

use std::{
    fs,
    path::PathBuf,
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
};

use blackhole_dev::{http, ports, services::Service, simulator::Publisher, workspace::RunDir};
use blackhole_tests::{
    accounts::{self, Account, AccountPair},
    client::{Client, Incoming},
    events,
    stack::{self, Edge, Stack},
};
use parking_lot::Mutex;
use serde_json::{Value, json};

/// A stack whose accounts file the tests here change.
pub(crate) fn stack() -> &'static Stack {
    static STACK: LazyLock<Stack> = LazyLock::new(|| {
        let start = || tokio::runtime::Runtime::new().unwrap().block_on(Stack::start("revoked"));
        std::thread::scope(|scope| scope.spawn(start).join().unwrap())
    });
    &STACK
}

/// The lines of an account in the accounts file, from its id on.
pub(crate) fn entry(account: &Account, parent: &str) -> String {
    let Account { id, realm } = account;
    format!("id = \"{id}\"\nname = \"test\"\nrealm = \"{realm}\"\nparent = \"{parent}\"\n")
}

/// Changes the accounts file of [`stack`].
pub(crate) fn change(changes: &[(String, String)]) {
    static FILE: LazyLock<Mutex<PathBuf>> =
        LazyLock::new(|| Mutex::new(stack().dir.path().join("accounts.toml")));
    let file = FILE.lock();
    let mut text = fs::read_to_string(&*file).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    fs::write(&*file, text).unwrap();
}

async fn subscribed(edge: &Edge, account: &Account, bindings: &[&str]) -> Client {
    let mut client = Client::connect(&edge.url("view=args")).await;
    client.subscribe(account, bindings).await;
    client
}

fn revoked(account: &Account, binding: &str, reason: &str) -> Value {
    json!({ "account_id": account.id, "binding": binding, "reason": reason })
}

#[tokio::test]
async fn the_bindings_on_an_account_that_moves_away_end_and_the_session_stays() {
    let stack = stack();
    let AccountPair { parent, child } = AccountPair::fresh();
    let publisher = stack.publisher().await;
    let mut client = subscribed(&stack.edge, &parent, &["call.*.*"]).await;
    client.subscribe_with(&parent.token(), &child.id, &["call.*.*", "fax.status.*"]).await;
    events::call(&child, "CHANNEL_CREATE", "before").publish(&publisher).await;
    assert_eq!(client.event().await["args"]["Call-ID"], "before");

    change(&[(entry(&child, &parent.id), entry(&child, accounts::TOP))]);
    let expected = json!({
        "action": "revoked",
        "data": {
            "revoked": [
                revoked(&child, "call.*.*", "unauthorized account id"),
                revoked(&child, "fax.status.*", "unauthorized account id"),
            ],
            "subscriptions": ["call.*.*"],
        },
    });
    assert_eq!(client.frame().await, expected);
    events::call(&child, "CHANNEL_CREATE", "after").publish(&publisher).await;
    events::call(&parent, "CHANNEL_CREATE", "own").publish(&publisher).await;
    assert_eq!(client.event().await["args"]["Call-ID"], "own");
    let list = format!("/sessions?account_id={}", parent.id);
    let list: Value =
        serde_json::from_str(&http::get(stack.edge.service.admin(), &list).await.unwrap().body).unwrap();
    assert_eq!(list["sessions"][0]["bindings"], json!(["call.*.*"]));
    assert!(Stack::metric(&stack.edge.service, "blackhole_edge_bindings_revoked_total").await >= 2.0);
}

#[tokio::test]
async fn the_sessions_of_a_disabled_account_are_closed() {
    let stack = stack();
    let AccountPair { parent, child } = AccountPair::fresh();
    let mut disabled = subscribed(&stack.edge, &child, &["call.*.*"]).await;
    let mut idle = Client::connect(&stack.edge.url("")).await;
    idle.request(json!({ "action": "ping", "auth_token": child.token() })).await;
    let mut other = subscribed(&stack.edge, &parent, &["call.*.*"]).await;
    change(&[(entry(&child, &parent.id), entry(&child, &parent.id) + "enabled = false\n")]);
    let reason = "failed to authenticate token : account is disabled";
    assert_eq!(disabled.frame().await["data"]["revoked"], json!([revoked(&child, "call.*.*", reason)]));
    assert_eq!(disabled.closed().await, Some(4401));
    assert_eq!(idle.closed().await, Some(4401));
    events::call(&parent, "CHANNEL_CREATE", "x").publish(&stack.publisher().await).await;
    assert_eq!(other.event().await["args"]["Call-ID"], "x");
}

#[tokio::test]
async fn a_realm_that_passes_to_another_account_takes_its_events_along_but_not_its_past() {
    let stack = stack();
    let [one, other] = [AccountPair::fresh(), AccountPair::fresh()].map(|pair| pair.parent);
    let publisher = stack.publisher().await;
    let mut before = subscribed(&stack.edge, &one, &["call.*.*"]).await;
    let mut after = subscribed(&stack.edge, &other, &["call.*.*"]).await;
    events::call(&other, "CHANNEL_CREATE", "first").publish(&publisher).await;
    let beginning = after.event().await["cursor"].clone();
    events::call_of_realm(&one.realm, "CHANNEL_CREATE", "past").publish(&publisher).await;
    assert_eq!(before.event().await["args"]["Call-ID"], "past");

    let passed = |account: &Account, realm: &str| {
        let new = Account { realm: realm.to_owned(), ..account.clone() };
        (entry(account, accounts::TOP), entry(&new, accounts::TOP))
    };
    change(&[passed(&one, "fresh.example.net"), passed(&other, &one.realm)]);
    until_it_gets_events_of(&one.realm, &mut after, &other, &publisher).await;
    until_it_gets_events_of("fresh.example.net", &mut before, &one, &publisher).await;
    events::call_of_realm(&one.realm, "CHANNEL_CREATE", "not yours").publish(&publisher).await;
    assert_eq!(events_until_own(&mut before, &one, &publisher).await, [""; 0]);

    let mut resumed = Client::connect(&stack.edge.url("view=args")).await;
    let data = json!({ "account_id": other.id, "binding": "call.*.*", "since": beginning });
    let request = json!({ "action": "subscribe", "auth_token": other.token(), "data": data });
    assert_eq!(resumed.request(request).await["data"]["recovered"], true);
    let call_ids: Vec<String> = events_until_own(&mut resumed, &other, &publisher).await;
    assert!(call_ids.contains(&"not yours".to_owned()), "{call_ids:?}");
    assert!(!call_ids.contains(&"past".to_owned()), "{call_ids:?}");
}

/// Publishes events of a realm until a session of `account` gets one.
async fn until_it_gets_events_of(realm: &str, client: &mut Client, account: &Account, publisher: &Publisher) {
    loop {
        events::call_of_realm(realm, "CHANNEL_CREATE", "of the realm").publish(publisher).await;
        if events_until_own(client, account, publisher).await.contains(&"of the realm".to_owned()) {
            return;
        }
    }
}

/// Publishes an event of the account itself, and returns the Call-IDs of those that the session got before it.
async fn events_until_own(client: &mut Client, account: &Account, publisher: &Publisher) -> Vec<String> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let own = format!("own {}", NEXT.fetch_add(1, Ordering::Relaxed));
    events::call(account, "CHANNEL_CREATE", &own).publish(publisher).await;
    let mut call_ids = Vec::new();
    loop {
        let call_id = client.event().await["args"]["Call-ID"].as_str().unwrap().to_owned();
        if call_id == own {
            return call_ids;
        }
        if !call_id.starts_with("own ") {
            call_ids.push(call_id);
        }
    }
}

/// A separate deployment on the shared NATS server, with one short-lived auth-svc.
pub(crate) struct Deployment {
    _dir: RunDir,
    pub(crate) auth_svc: Service,
    edge: Service,
    pub(crate) url: String,
}

impl Deployment {
    pub(crate) async fn start(prefix: &str, settings: &[(&'static str, &str)]) -> Deployment {
        let dir = RunDir::create(prefix).unwrap();
        let file = dir.path().join("accounts.toml");
        fs::write(&file, accounts::file()).unwrap();
        let port = ports::free().unwrap();
        let mut env = vec![
            ("NATS__URL", Stack::shared().nats.url()),
            ("NATS__PREFIX", format!("{prefix}.v1")),
            ("AUTH__ACCOUNTS_FILE", file.display().to_string()),
            ("AUTH__JWT__HS256_SECRET", accounts::SECRET.to_owned()),
            ("WS__LISTEN", format!("127.0.0.1:{port}")),
        ];
        env.extend(settings.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let binaries = stack::binaries();
        let auth_svc = Service::start("auth-svc", &binaries.auth_svc, dir.path(), &env).await.unwrap();
        let edge = Service::start("ws-edge", &binaries.ws_edge, dir.path(), &env).await.unwrap();
        Deployment { _dir: dir, auth_svc, edge, url: format!("ws://127.0.0.1:{port}") }
    }
}

#[tokio::test]
async fn without_auth_svc_sessions_end_after_the_lifetime_of_their_grants() {
    let settings =
        [("WS__GRANT_LIFETIME", "1s"), ("WS__RECHECK_INTERVAL", "500ms"), ("WS__AUTH_CACHE", "1ms")];
    let deployment = Deployment::start("unconfirmed", &settings).await;
    let mut client = Client::connect(&deployment.url).await;
    let account = Account::fresh();
    let data = json!({ "binding": "relay.*" });
    let subscribe = json!({ "action": "subscribe", "auth_token": account.token(), "data": data });
    assert_eq!(client.request(subscribe).await["status"], "success");
    deployment.auth_svc.server().kill().await.unwrap();
    let reason = "the authentication service is not available";
    assert_eq!(client.frame().await["data"]["revoked"], json!([revoked(&account, "relay.*", reason)]));
    assert_eq!(client.incoming().await, Incoming::Closed(Some(1013)));
    let closed =
        Stack::metric(&deployment.edge, r#"blackhole_edge_sessions_closed_total{reason="unconfirmed"}"#);
    assert_eq!(closed.await, 1.0);
}
