//! Tokens that others sign or verify: sessions with tokens of an issuer whose keys are read over HTTP, and with tokens that
//! Crossbar verifies.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use blackhole_couchdb::{
    crossbar::Crossbar,
    issuer::{Issuer, Key},
    kazoo::{self, ACME, FOREVER},
};
use blackhole_dev::{http, ports, services::Service, workspace::RunDir};
use blackhole_tests::{
    accounts::{self, Account, AccountPair},
    client::{Client, Incoming},
    events, eventually,
    stack::{self, Stack},
};
use serde_json::json;

/// How long Crossbar's answers are remembered here, how often an issuer's keys are read, and how often edges ask again.
const INTERVAL: &str = "1s";
/// What is taken away has ended in open sessions after these, and 5 s.
const LIMIT: Duration = Duration::from_secs(8);
const BINDING: &str = "call.*.*";

/// auth-svc with these settings, an edge and an ingest, on the brokers that all tests share.
struct Deployment {
    auth_svc: Service,
    url: String,
    _dir: RunDir,
    _services: [Service; 2],
}

impl Deployment {
    async fn start(name: &str, settings: &[(&'static str, String)]) -> Deployment {
        let dir = RunDir::create(&format!("elsewhere-{name}")).unwrap();
        let (port, prefix) = (ports::free().unwrap(), format!("elsewhere-{name}.v1"));
        let mut env = vec![
            ("NATS__URL", Stack::shared().nats.url()),
            ("NATS__PREFIX", prefix.clone()),
            ("WS__LISTEN", format!("127.0.0.1:{port}")),
            ("WS__AUTH_CACHE", "1ms".to_owned()),
            ("WS__RECHECK_INTERVAL", INTERVAL.to_owned()),
            ("LOG__FILTER", "debug,async_nats=info,hyper=info".to_owned()),
        ];
        env.extend_from_slice(settings);
        let binaries = stack::binaries();
        let auth_svc = Service::start("auth-svc", &binaries.auth_svc, dir.path(), &env).await.unwrap();
        let edge = Service::start("ws-edge", &binaries.ws_edge, dir.path(), &env).await.unwrap();
        let queue = format!("elsewhere-{name}");
        let settings = [
            ("NATS__PREFIX", prefix.as_str()),
            ("AMQP__QUEUE", &queue),
            ("AMQP__DEAD_LETTER_EXCHANGE", &format!("{queue}-dead")),
        ];
        let ingest = Stack::shared().another_ingest(&queue, &settings).await;
        let url = format!("ws://127.0.0.1:{port}/?view=args");
        Deployment { auth_svc, url, _dir: dir, _services: [edge, ingest] }
    }

    async fn session(&self, token: &str, account_id: &str) -> Client {
        let mut client = Client::connect(&self.url).await;
        client.subscribe_with(token, account_id, &[BINDING]).await;
        client
    }

    /// What the edge answers to a subscription to an account with this token.
    async fn error(&self, token: &str, account_id: &str) -> Option<String> {
        let mut client = Client::connect(&self.url).await;
        let data = json!({ "account_id": account_id, "binding": BINDING });
        let reply = client.request(json!({ "action": "subscribe", "auth_token": token, "data": data })).await;
        reply["data"]["errors"][0].as_str().map(str::to_owned)
    }

    async fn ready(&self) -> String {
        http::get(self.auth_svc.admin(), "/health/ready").await.unwrap().body
    }
}

/// The session gets an event of the account.
async fn gets_events(client: &mut Client, account_id: &str) {
    let account = Account { id: account_id.to_owned(), realm: "unused.example.com".to_owned() };
    events::call(&account, "CHANNEL_CREATE", "elsewhere").publish(&Stack::shared().publisher().await).await;
    assert_eq!(client.event().await["args"]["Call-ID"], "elsewhere");
}

/// The session is told why it ends, and is closed, in time.
async fn ended(mut client: Client, since: Instant, account_id: &str, reason: &str) {
    let revoked = client.frame().await["data"]["revoked"].clone();
    let reason = format!("failed to authenticate token : {reason}");
    assert_eq!(revoked, json!([{ "account_id": account_id, "binding": BINDING, "reason": reason }]));
    assert_eq!(client.incoming().await, Incoming::Closed(Some(4401)));
    assert!(since.elapsed() < LIMIT, "{:?}", since.elapsed());
}

fn auth_svc(settings: &[(&str, String)], arguments: &[&str], input: &str) -> (bool, String) {
    let mut command = Command::new(stack::binaries().auth_svc);
    command.args(arguments);
    for (name, value) in settings {
        command.env(format!("BLACKHOLE_{name}"), value);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_an_issuers_tokens_end_with_its_key() {
    let (key, next) = (Key::ed25519("1"), Key::p256("2"));
    let issuer = Issuer::start(&[&key]).await;
    let (pair, stranger) = (AccountPair::fresh(), Account::fresh());
    let dir = RunDir::create("elsewhere-accounts").unwrap();
    let file = dir.path().join("accounts.toml");
    std::fs::write(&file, accounts::file()).unwrap();
    let listed = format!(
        "[{{iss=\"{}\",discovery_url=\"{}\",accounts=[\"{}\"],audience=\"blackhole\",refresh_interval=\"{INTERVAL}\"}}]",
        issuer.iss(),
        issuer.configuration_url(),
        pair.parent.id,
    );
    let settings = [("AUTH__ISSUERS", listed), ("AUTH__ACCOUNTS_FILE", file.display().to_string())];
    let deployment = Deployment::start("issuer", &settings).await;
    let claims = |account: &Account| json!({ "iss": issuer.iss(), "aud": "blackhole", "account_id": account.id, "exp": FOREVER });
    let token = key.token(&claims(&pair.parent));
    let mut session = deployment.session(&token, &pair.parent.id).await;
    gets_events(&mut session, &pair.parent.id).await;
    // Not more than its account: neither one below, nor another, nor all.
    for account in [&pair.child.id, &stranger.id, "*"] {
        assert!(deployment.error(&token, account).await.unwrap().starts_with("unauthorized"), "{account}");
    }
    for account in [&pair.child, &stranger] {
        let error = deployment.error(&key.token(&claims(account)), &account.id).await;
        assert!(error.unwrap().ends_with("issuer may not name this account"));
    }
    let stray = Key::ed25519("1").token(&claims(&pair.parent));
    assert!(deployment.error(&stray, &pair.parent.id).await.unwrap().ends_with("bad signature"));

    let (is_good, text) = auth_svc(&settings, &["check-sources"], "");
    assert!(is_good && text.contains(&format!("issuer {}: 1 keys", issuer.iss())), "{text}");
    let (is_good, text) = auth_svc(&settings, &["check-token"], &token);
    assert!(is_good && text.contains(&format!("EdDSA with 1 of {}, over HTTP", issuer.iss())), "{text}");
    assert!(text.ends_with(&format!("it may see\n  {}  test ({})\n", pair.parent.id, pair.parent.realm)));

    let began = Instant::now();
    issuer.publish(&[&next]);
    ended(session, began, &pair.parent.id, "unknown key id").await;
    let token = next.token(&claims(&pair.parent));
    eventually("the new key", || async { deployment.error(&token, &pair.parent.id).await.is_none() }).await;

    // While the issuer is away its keys go on, and readiness tells.
    let mut session = deployment.session(&token, &pair.parent.id).await;
    issuer.web.stop();
    eventually("the loss", || async { deployment.ready().await.contains("keys of issuer") }).await;
    gets_events(&mut session, &pair.parent.id).await;
    let fetches = deployment.auth_svc.metrics().await.unwrap();
    assert!(fetches.contains("blackhole_auth_issuer_fetches_total{issuer="), "{fetches}");
    let (is_good, text) = auth_svc(&settings, &["check-sources"], "");
    assert!(!is_good && text.contains("FAILED  issuer"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_tokens_that_crossbar_no_longer_accepts_end() {
    let crossbar = Crossbar::start().await;
    let settings = [
        ("AUTH__CROSSBAR__URL", crossbar.web.url()),
        ("AUTH__CROSSBAR__KEY_IDS", format!("[\"{}\"]", kazoo::kid())),
        ("AUTH__CROSSBAR__CACHE", INTERVAL.to_owned()),
    ];
    let deployment = Deployment::start("crossbar", &settings).await;
    let token = kazoo::token("user");
    let mut session = deployment.session(token, ACME).await;
    gets_events(&mut session, ACME).await;
    assert_eq!(deployment.error(token, "*").await.as_deref(), Some("unauthorized wildcard account id"));
    assert_eq!(deployment.error(token, kazoo::MASTER).await.as_deref(), Some("unauthorized account id"));

    let (is_good, text) = auth_svc(&settings, &["check-sources"], "");
    assert!(is_good && text.contains(&format!("{}: answers", crossbar.web.url())), "{text}");
    let (is_good, text) = auth_svc(&settings, &["check-token"], token);
    assert!(
        is_good && text.contains(&format!("crossbar   ok      {} accepts it", crossbar.web.url())),
        "{text}"
    );
    assert!(text.contains(&format!("it may see\n  {ACME}")), "{text}");

    let began = Instant::now();
    crossbar.refuse(token, 401, "invalid_identity_signature");
    ended(session, began, ACME, "bad identity signature").await;
    let (is_good, text) = auth_svc(&settings, &["check-token"], token);
    assert!(!is_good && text.contains("crossbar   FAILED  bad identity signature"), "{text}");

    // While Crossbar is away sessions go on, and new ones are told.
    let token = kazoo::token("account");
    let mut session = deployment.session(token, ACME).await;
    crossbar.web.stop();
    eventually("the loss", || async { deployment.ready().await.contains("crossbar") }).await;
    let error = deployment.error(kazoo::token("device"), ACME).await.unwrap();
    assert!(error.contains("the authentication service did not answer"), "{error}");
    gets_events(&mut session, ACME).await;
    let metrics = deployment.auth_svc.metrics().await.unwrap();
    assert!(
        metrics.contains("blackhole_auth_crossbar_questions_total{what=\"token\",result=\"ok\"}"),
        "{metrics}"
    );
}
