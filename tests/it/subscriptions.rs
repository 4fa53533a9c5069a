//! Subscriptions that the NATS server refuses: the client gets an error reply instead of a part of its events, and nobody
//! else notices.

use async_nats::{
    HeaderMap,
    jetstream::{
        self,
        stream::{self, Republish},
    },
};
use blackhole_common::wire;
use blackhole_dev::{brokers::Nats, http, ports, services::Service, workspace::RunDir};
use blackhole_tests::{
    accounts::{self, Account},
    client::Client,
    eventually,
    stack::{self, Stack},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const REFUSED: &str = "the server of the events refuses this subscription";

/// auth-svc and an edge on a NATS server of its own.
struct Deployment {
    dir: RunDir,
    nats: Nats,
    auth_svc: Service,
    edge: Service,
    url: String,
}

impl Deployment {
    async fn start(name: &str, nats_config: &str) -> Deployment {
        let dir = RunDir::create(name).unwrap();
        std::fs::write(dir.path().join("accounts.toml"), accounts::file()).unwrap();
        let nats = Nats::with_config(&dir.subdir("nats").unwrap(), nats_config).await.unwrap();
        let port = ports::free().unwrap();
        let env = [
            // A server without users lets in everyone.
            ("NATS__URL", nats.url().replace("nats://", "nats://services:secret@")),
            ("AUTH__ACCOUNTS_FILE", dir.path().join("accounts.toml").display().to_string()),
            ("AUTH__JWT__HS256_SECRET", accounts::SECRET.to_owned()),
            ("WS__LISTEN", format!("127.0.0.1:{port}")),
        ];
        let binaries = stack::binaries();
        let auth_svc = Service::start("auth-svc", &binaries.auth_svc, dir.path(), &env).await.unwrap();
        let edge = Service::start("ws-edge", &binaries.ws_edge, dir.path(), &env).await.unwrap();
        let url = format!("ws://127.0.0.1:{port}/?view=args");
        Deployment { dir, nats, auth_svc, edge, url }
    }

    /// Changes the NATS server's configuration while it runs.
    fn reload(&self, from: &str, to: &str) {
        let file = self.dir.path().join("nats/nats.conf");
        let config = std::fs::read_to_string(&file).unwrap();
        assert!(config.contains(from), "{config}");
        std::fs::write(&file, config.replace(from, to)).unwrap();
        self.nats.server().process().unwrap().signal(Signal::SIGHUP).unwrap();
    }

    async fn client(&self) -> async_nats::Client {
        let login = async_nats::ConnectOptions::with_user_and_password("services".into(), "secret".into());
        login.connect(self.nats.url()).await.unwrap()
    }

    /// Creates the stream as amqp-ingest does.
    async fn create_stream(&self) {
        let republish = Republish {
            source: "blackhole.v1.ingest.>".into(),
            destination: "blackhole.v1.event.>".into(),
            headers_only: false,
        };
        let config = stream::Config {
            name: "BLACKHOLE_V1".into(),
            subjects: vec!["blackhole.v1.ingest.>".into()],
            republish: Some(republish),
            ..stream::Config::default()
        };
        jetstream::new(self.client().await).create_stream(config).await.unwrap();
    }

    /// Publishes an event as amqp-ingest does without history.
    async fn publish(&self, account: &Account, call_id: &str) {
        self.publish_below("event", account, call_id).await;
    }

    /// Publishes an event as amqp-ingest does with history.
    async fn store(&self, account: &Account, call_id: &str) {
        self.publish_below("ingest", account, call_id).await;
    }

    async fn publish_below(&self, root: &str, account: &Account, call_id: &str) {
        let nats = self.client().await;
        let mut headers = HeaderMap::new();
        headers.insert(wire::EVENT_NAME, "CHANNEL_CREATE");
        let subject = format!("blackhole.v1.{root}.{}.call.CHANNEL_CREATE.{call_id}", account.id);
        nats.publish_with_headers(subject, headers, r#"{"Event-Name":"CHANNEL_CREATE"}"#.into())
            .await
            .unwrap();
        nats.flush().await.unwrap();
    }
}

/// Subscribes. Returns the error, if there is one.
async fn subscribe(client: &mut Client, account: &Account, bindings: &[String]) -> Option<String> {
    let data = json!({ "account_id": account.id, "bindings": bindings });
    let request = json!({ "action": "subscribe", "auth_token": account.token(), "data": data });
    let reply: Value = client.request(request).await;
    reply["data"]["errors"][0].as_str().map(str::to_owned)
}

fn calls(ids: std::ops::Range<u32>) -> Vec<String> {
    ids.map(|id| format!("call.*.{id}")).collect()
}

#[tokio::test]
async fn a_subscription_that_is_not_permitted_is_an_error_reply() {
    let [one, other] = [(); 2].map(|()| Account::fresh());
    let permissions = format!(r#"{{ subscribe: {{ deny: ["blackhole.v1.event.{}.>"] }} }}"#, one.id);
    let config = format!(
        "authorization {{ users: [ {{ user: services, password: secret, permissions: {permissions} }} ] }}"
    );
    let deployment = Deployment::start("not-permitted", &config).await;
    let mut refused = Client::connect(&deployment.url).await;
    let mut served = Client::connect(&deployment.url).await;
    let all = ["call.*.*".to_owned()];
    // At the same time: one answer of the server is for both.
    let (error, none) =
        tokio::join!(subscribe(&mut refused, &one, &all), subscribe(&mut served, &other, &all));
    assert_eq!((error.as_deref(), none), (Some(REFUSED), None));
    deployment.publish(&other, "x").await;
    assert!(served.event().await["routing_key"].as_str().unwrap().ends_with(".CHANNEL_CREATE.x"));
    let listed = refused.request(json!({ "action": "unsubscribe" })).await;
    assert_eq!(listed["data"]["unsubscribed"], json!([]), "nothing of it is left");
}

#[tokio::test]
async fn permissions_that_are_withdrawn_close_the_sessions_that_need_them_and_the_edge_is_not_ready_without_the_stream()
 {
    let [one, other] = [(); 2].map(|()| Account::fresh());
    let denied = |subject: &str, api: &str| {
        format!(r#"subscribe: {{ deny: ["{subject}"] }}, publish: {{ deny: ["{api}"] }}"#)
    };
    let before = denied("x", "y");
    let config = format!(
        "authorization {{ users: [ {{ user: services, password: secret, permissions: {{ {before} }} }} ] }}"
    );
    let deployment = Deployment::start("withdrawn", &config).await;
    let mut withdrawn = Client::connect(&deployment.url).await;
    let mut served = Client::connect(&deployment.url).await;
    let all = ["call.*.*".to_owned()];
    assert_eq!(subscribe(&mut withdrawn, &one, &all).await, None);
    assert_eq!(subscribe(&mut served, &other, &all).await, None);

    let after = denied(&format!("blackhole.v1.event.{}.>", one.id), "y");
    deployment.reload(&before, &after);
    assert_eq!(withdrawn.closed().await, Some(1013), "it would get no events");
    let mut refused = Client::connect(&deployment.url).await;
    assert_eq!(subscribe(&mut refused, &one, &all).await.as_deref(), Some(REFUSED));
    deployment.publish(&other, "x").await;
    assert!(served.event().await["routing_key"].as_str().unwrap().ends_with(".CHANNEL_CREATE.x"));

    deployment.reload(&after, &denied("x", "$JS.API.STREAM.INFO.>"));
    Stack::until_ready(&deployment.edge, false).await;
    deployment.reload("$JS.API.STREAM.INFO.>", "y");
    Stack::until_ready(&deployment.edge, true).await;
    deployment.publish(&other, "y").await;
    assert!(served.event().await["routing_key"].as_str().unwrap().ends_with(".CHANNEL_CREATE.y"));
}

#[tokio::test]
async fn an_edge_that_may_not_read_the_history_tells_it_and_goes_on_when_it_may_again() {
    let account = Account::fresh();
    let denied = |api: &str| format!(r#"{{ publish: {{ deny: ["{api}"] }} }}"#);
    let (before, after) = (denied("x"), denied("$JS.API.CONSUMER.CREATE.>"));
    let config = format!(
        "authorization {{ users: [ {{ user: services, password: secret, permissions: {before} }} ] }}"
    );
    let deployment = Deployment::start("may-not-read", &config).await;
    deployment.create_stream().await;
    let mut first = Client::connect(&deployment.url).await;
    assert_eq!(subscribe(&mut first, &account, &["call.*.*".to_owned()]).await, None);
    deployment.store(&account, "one").await;
    let cursor = first.event().await["cursor"].clone();
    deployment.store(&account, "two").await;

    deployment.reload(&before, &after);
    let mut resumed = Client::connect(&deployment.url).await;
    let data = json!({ "account_id": account.id, "binding": "call.*.*", "since": cursor });
    let request = json!({ "action": "subscribe", "auth_token": account.token(), "data": data });
    assert_eq!(resumed.request(request).await["data"]["recovered"], true);
    let is_told = async || {
        let health = http::get(deployment.edge.admin(), "/health/ready").await.unwrap();
        health.body.starts_with("without ") && health.body.contains("history")
    };
    eventually("the missing history", || async { is_told().await }).await;
    assert_eq!(Stack::metric(&deployment.edge, r#"blackhole_part_ready{part="history"}"#).await, 0.0);
    assert_eq!(
        Stack::metric(&deployment.edge, r#"blackhole_part_ready{part="nats permissions"}"#).await,
        0.0
    );
    deployment.reload(&after, &before);
    assert!(resumed.event().await["routing_key"].as_str().unwrap().ends_with(".two"));
    eventually("the history", || async { !is_told().await }).await;
}

#[tokio::test]
async fn services_that_may_not_subscribe_any_more_are_not_ready_until_they_may_again() {
    let account = Account::fresh();
    let denied = |subjects: &str| format!("{{ subscribe: {{ deny: [{subjects}] }} }}");
    let before = denied(r#""x""#);
    let config = format!(
        "authorization {{ users: [ {{ user: services, password: secret, permissions: {before} }} ] }}"
    );
    let deployment = Deployment::start("may-not-subscribe", &config).await;
    // The edge's inboxes are for the answers about the stream, too.
    for subjects in [r#""blackhole.v1.auth.check", "blackhole.v1.families""#, r#""_INBOX.>""#] {
        let after = denied(subjects);
        deployment.reload(&before, &after);
        Stack::until_ready(&deployment.auth_svc, false).await;
        Stack::until_ready(&deployment.edge, false).await;
        deployment.reload(&after, &before);
        Stack::until_ready(&deployment.auth_svc, true).await;
        Stack::until_ready(&deployment.edge, true).await;
    }
    let mut client = Client::connect(&deployment.url).await;
    assert_eq!(subscribe(&mut client, &account, &["call.*.*".to_owned()]).await, None);
}

#[tokio::test]
async fn beyond_the_servers_limit_of_subscriptions_is_an_error_reply() {
    // Each binding has a subject for the account and one for its realm.
    let deployment = Deployment::start("too-many", "max_subscriptions: 60").await;
    let [one, other] = [(); 2].map(|()| Account::fresh());
    let mut served = Client::connect(&deployment.url).await;
    assert_eq!(subscribe(&mut served, &one, &calls(0..20)).await, None);
    let mut refused = Client::connect(&deployment.url).await;
    assert_eq!(subscribe(&mut refused, &other, &calls(0..50)).await.as_deref(), Some(REFUSED));
    assert_eq!(subscribe(&mut refused, &other, &calls(0..5)).await, None, "these fit");
    for (client, account) in [(&mut served, &one), (&mut refused, &other)] {
        deployment.publish(account, "4").await;
        assert!(client.event().await["routing_key"].as_str().unwrap().ends_with(".CHANNEL_CREATE.4"));
    }
}
