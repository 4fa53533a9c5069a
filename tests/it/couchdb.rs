//! auth-svc with keys, accounts and secrets in a CouchDB that is a stand-in: what is taken away there ends in open sessions.

use std::{
    ops::Deref,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use blackhole_couchdb::{
    CouchDb,
    kazoo::{self, ACME, ACME_DATABASE, ACME_ENCODED, MASTER, USER, USER_SECRET, identity_sig},
};
use blackhole_dev::simulator::Publisher;
use blackhole_tests::{
    accounts::Account,
    client::{Client, Incoming},
    couchdb_stack::CouchDbStack,
    events, eventually,
    stack::{self, Stack},
};
use serde_json::{Value, json};

/// Within this time, what is taken away has ended in open sessions.
const LIMIT: Duration = Duration::from_secs(5);
const BINDING: &str = "relay.*";
/// A user in the account of [`USER`].
const OTHER_USER: &str = "0123456789abcdef0123456789abcdef";

/// The services, with another user.
struct Deployment(CouchDbStack);

impl Deref for Deployment {
    type Target = CouchDbStack;

    fn deref(&self) -> &CouchDbStack {
        &self.0
    }
}

impl Deployment {
    async fn start(name: &str) -> Deployment {
        Deployment::start_with(name, "account").await
    }

    /// With `auth.users`.
    async fn start_with(name: &str, users: &str) -> Deployment {
        let stack = CouchDbStack::start(&format!("couchdb-{name}"), &[("AUTH__USERS", users)]).await;
        let user = json!({ "_id": OTHER_USER, "pvt_type": "user", "pvt_signature_secret": "other" });
        stack.couchdb.put(ACME_DATABASE, &user);
        Deployment(stack)
    }

    async fn session(&self, token: &str, account_id: &str) -> Client {
        let mut client = Client::connect(&self.url).await;
        client.subscribe_with(token, account_id, &[BINDING]).await;
        client
    }

    /// Why a token is refused, if it is.
    async fn refusal(&self, token: &str) -> Option<String> {
        let mut client = Client::connect(&self.url).await;
        let reply = client.request(json!({ "action": "ping", "auth_token": token })).await;
        reply["data"]["errors"][0].as_str().map(str::to_owned)
    }
}

fn user_token(user: &str, secret: &str) -> String {
    let mut claims = kazoo::user_claims(secret);
    claims["owner_id"] = user.into();
    claims["identity_sig"] = identity_sig(user, secret, kazoo::SERVER_SECRET).into();
    kazoo::signed(&claims)
}

/// The session is told why it ends, and is closed, in time.
async fn ended(mut client: Client, since: Instant, reason: &str) {
    let revoked = client.frame().await["data"]["revoked"].clone();
    let reason = format!("failed to authenticate token : {reason}");
    assert_eq!(revoked, json!([{ "account_id": ACME, "binding": BINDING, "reason": reason }]));
    assert_eq!(client.incoming().await, Incoming::Closed(Some(4401)));
    assert!(since.elapsed() < LIMIT, "{:?}", since.elapsed());
}

#[tokio::test]
async fn the_sessions_of_a_disabled_account_end() {
    let deployment = Deployment::start("disabled").await;
    let session = deployment.session(kazoo::token("user"), ACME).await;
    let began = Instant::now();
    deployment.couchdb.edit("accounts", ACME, &json!({ "pvt_enabled": false }));
    ended(session, began, "account is disabled").await;
}

#[tokio::test]
async fn the_sessions_of_a_rotated_key_end_and_new_tokens_are_accepted() {
    let deployment = Deployment::start("rotated").await;
    let session = deployment.session(kazoo::token("user"), ACME).await;
    let began = Instant::now();
    deployment.couchdb.delete("system_auth", kazoo::kid());
    ended(session, began, "unknown key id").await;
    deployment.couchdb.put("system_auth", &json!({ "_id": kazoo::kid(), "pvt_type": "system_key" }));
    deployment.couchdb.attach(
        "system_auth",
        kazoo::kid(),
        "private_key.pem",
        kazoo::private_key().as_bytes(),
    );
    let token = user_token(OTHER_USER, "other");
    eventually("the new key", || async { deployment.refusal(&token).await.is_none() }).await;
}

#[tokio::test]
async fn the_sessions_of_changed_secrets_and_deleted_users_end() {
    let deployment = Deployment::start("secrets").await;
    let _ingest = deployment.ingest().await;
    let publisher = Stack::shared().publisher().await;
    let changed = deployment.session(kazoo::token("user"), ACME).await;
    let deleted = deployment.session(&user_token(OTHER_USER, "other"), ACME).await;
    let mut stays = deployment.session(kazoo::token("account"), ACME).await;

    // A changed password.
    let began = Instant::now();
    deployment.couchdb.edit(ACME_DATABASE, USER, &json!({ "pvt_signature_secret": "new" }));
    events::document_in(ACME_ENCODED, "doc_edited", "user", USER).publish(&publisher).await;
    ended(changed, began, "bad identity signature").await;
    assert_eq!(deployment.refusal(&user_token(USER, "new")).await, None);

    let began = Instant::now();
    deployment.couchdb.edit(ACME_DATABASE, OTHER_USER, &json!({ "pvt_deleted": true }));
    events::document_in(ACME_ENCODED, "doc_deleted", "user", OTHER_USER).publish(&publisher).await;
    ended(deleted, began, "identity is gone").await;
    assert_eq!(stays.request(json!({ "action": "ping" })).await["status"], "success");

    let session = deployment.session(kazoo::token("account"), ACME).await;
    drop(stays);
    let began = Instant::now();
    let secret = json!({ "default": { "secret_for_user_signature": "new", "system_key": kazoo::kid() } });
    deployment.couchdb.edit("system_config", "auth", &secret);
    ended(session, began, "bad identity signature").await;
}

#[tokio::test]
async fn the_bindings_on_an_account_that_is_moved_away_end() {
    let deployment = Deployment::start("moved").await;
    let claims = json!({ "iss": "kazoo", "account_id": MASTER, "exp": kazoo::FOREVER });
    let mut session = deployment.session(&kazoo::signed(&claims), ACME).await;
    let began = Instant::now();
    deployment.couchdb.edit("accounts", ACME, &json!({ "pvt_tree": ["another"] }));
    let revoked = json!([{ "account_id": ACME, "binding": BINDING, "reason": "unauthorized account id" }]);
    assert_eq!(session.frame().await["data"]["revoked"], revoked);
    assert!(began.elapsed() < LIMIT);
    assert_eq!(session.request(json!({ "action": "ping" })).await["status"], "success");
}

#[tokio::test]
async fn sessions_go_on_while_couchdb_is_away_and_learn_what_has_changed() {
    let deployment = Deployment::start("away").await;
    let known = kazoo::token("user");
    let mut session = deployment.session(known, ACME).await;
    deployment.couchdb.stop();
    let degraded = || async {
        let ready = blackhole_dev::http::get(deployment.auth_svc.admin(), "/health/ready").await.unwrap();
        ready.body
    };
    eventually("the loss", || async { degraded().await.contains("couchdb changes of accounts") }).await;
    assert_eq!(session.request(json!({ "action": "ping" })).await["status"], "success");
    // Asked again, not from the edge's cache.
    let mut claims = kazoo::user_claims(USER_SECRET);
    claims["method"] = "another token".into();
    assert_eq!(deployment.refusal(&kazoo::signed(&claims)).await, None);
    let unknown = deployment.refusal(&user_token(OTHER_USER, "other")).await.unwrap();
    assert!(unknown.contains("the authentication service did not answer"), "{unknown}");

    deployment.couchdb.edit("accounts", ACME, &json!({ "pvt_enabled": false }));
    deployment.couchdb.go_on();
    let revoked: Value = session.frame().await["data"]["revoked"][0]["reason"].clone();
    assert_eq!(revoked, "failed to authenticate token : account is disabled");
    eventually("the changes", || async { !degraded().await.contains("couchdb") }).await;
}

#[tokio::test]
async fn a_slow_couchdb_delays_only_those_whose_secrets_are_not_known() {
    let deployment = Deployment::start("slow").await;
    assert_eq!(deployment.refusal(kazoo::token("user")).await, None);
    // More than auth-svc decides about at once.
    let users: Vec<String> = (0..200).map(kazoo::user_id).collect();
    for user in &users {
        let document = json!({ "_id": user, "pvt_type": "user", "pvt_signature_secret": "s" });
        deployment.couchdb.put(ACME_DATABASE, &document);
    }
    deployment.couchdb.delay(Duration::from_secs(3));
    let tokens: Vec<String> = users.iter().map(|user| user_token(user, "s")).collect();
    let slow = futures_util::future::join_all(tokens.iter().map(|token| deployment.refusal(token)));
    let fast = async {
        eventually("all questions", || async { deployment.couchdb.waiting() > 100 }).await;
        let mut claims = kazoo::user_claims(USER_SECRET);
        claims["method"] = "another token".into();
        assert_eq!(deployment.refusal(&kazoo::signed(&claims)).await, None);
        assert!(deployment.couchdb.waiting() > 0, "it has waited for the others");
    };
    let (slow, ()) = tokio::join!(slow, fast);
    assert_eq!(slow, vec![None; users.len()]);
}

fn auth_svc(couchdb: &CouchDb, arguments: &[&str], input: &str) -> (bool, String) {
    let mut command = Command::new(stack::binaries().auth_svc);
    command.args(arguments).env("BLACKHOLE_AUTH__COUCHDB__URL", couchdb.url());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    (status.success(), String::from_utf8([stdout, stderr].concat()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_ask_couchdb() {
    let couchdb = kazoo::start().await;
    let (is_good, text) = auth_svc(&couchdb, &["check-sources"], "");
    assert!(is_good && !text.contains("FAILED") && text.contains("documents: 2 accounts"), "{text}");
    let (is_good, text) = auth_svc(&couchdb, &["check-token"], kazoo::token("device"));
    assert!(is_good, "{text}");
    for expected in
        ["identity   ok      signed by d0d0beef", "it may see\n  4b31dd1d32ce6d249897c06332375d65  acme"]
    {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    couchdb.edit(ACME_DATABASE, USER, &json!({ "pvt_signature_secret": "new" }));
    let (is_good, text) = auth_svc(&couchdb, &["check-token"], kazoo::token("user"));
    assert!(!is_good && text.contains("identity   FAILED  bad identity signature"), "{text}");
    couchdb.forbid("system_auth");
    let (is_good, text) = auth_svc(&couchdb, &["check-sources"], "");
    assert!(!is_good && text.contains("must be a member of this database"), "{text}");
}

/// Publishes events of the device until the user's session gets them, or does not get them any more.
async fn until_it_gets(session: &mut Client, user: &str, gets: bool, publisher: &Publisher) {
    let account = Account { id: ACME.to_owned(), realm: "acme.sip.example.com".to_owned() };
    let began = Instant::now();
    for number in 0.. {
        for (call_id, member, value) in
            [("phone", "Authorizing-ID", kazoo::DEVICE), (&format!("own {number}"), "Owner-ID", user)]
        {
            let mut event = events::call(&account, "CHANNEL_ANSWER", call_id);
            event.body["Custom-Channel-Vars"][member] = value.into();
            event.publish(publisher).await;
        }
        let mut seen = Vec::new();
        while seen.last() != Some(&format!("own {number}")) {
            seen.push(session.event().await["args"]["Call-ID"].as_str().unwrap().to_owned());
        }
        if seen.contains(&"phone".to_owned()) == gets {
            return;
        }
        assert!(began.elapsed() < LIMIT, "{user}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn users_get_the_events_of_the_devices_that_are_theirs_now() {
    let deployment = Deployment::start_with("users", "own").await;
    let _ingest = deployment.ingest().await;
    let publisher = Stack::shared().publisher().await;
    let session = async |token: &str| {
        let mut client = Client::connect(&format!("{}/?view=args", deployment.url)).await;
        client.subscribe_with(token, ACME, &["call.*.*"]).await;
        client
    };
    let mut one = session(kazoo::token("user")).await;
    let mut other = session(&user_token(OTHER_USER, "other")).await;
    until_it_gets(&mut one, USER, true, &publisher).await;
    until_it_gets(&mut other, OTHER_USER, false, &publisher).await;

    // The device passes to the other user.
    deployment.couchdb.edit(ACME_DATABASE, kazoo::DEVICE, &json!({ "owner_id": OTHER_USER }));
    events::document_in(ACME_ENCODED, "doc_edited", "device", kazoo::DEVICE).publish(&publisher).await;
    until_it_gets(&mut other, OTHER_USER, true, &publisher).await;
    until_it_gets(&mut one, USER, false, &publisher).await;

    // An admin gets all.
    deployment.couchdb.edit(ACME_DATABASE, USER, &json!({ "priv_level": "admin" }));
    events::document_in(ACME_ENCODED, "doc_edited", "user", USER).publish(&publisher).await;
    until_it_gets(&mut one, USER, true, &publisher).await;
    deployment.couchdb.edit(ACME_DATABASE, USER, &json!({ "priv_level": "user" }));
    events::document_in(ACME_ENCODED, "doc_edited", "user", USER).publish(&publisher).await;
    until_it_gets(&mut one, USER, false, &publisher).await;
}
