//! Tokens as KAZOO means them.

use std::time::Duration;

use auth_svc::couchdb::{documents::Revision, identities::Identity};
use blackhole_couchdb::kazoo::{
    self, ACME, ACME_DATABASE, DEVICE, SERVER_SECRET, USER, USER_SECRET, identity_sig,
};
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::{NOW, Sources, config, eventually};

const BAD: Option<&str> = Some("bad identity signature");
const GONE: Option<&str> = Some("identity is gone");

fn with(members: Value) -> String {
    let mut claims = kazoo::user_claims(USER_SECRET);
    for (name, value) in members.as_object().unwrap() {
        claims[name] = value.clone();
    }
    kazoo::signed(&claims)
}

fn without(claim: &str) -> String {
    let mut claims = kazoo::user_claims(USER_SECRET);
    claims.as_object_mut().unwrap().remove(claim);
    kazoo::signed(&claims)
}

#[tokio::test]
async fn kazoos_tokens_are_accepted_and_others_refused() {
    let server = kazoo::start().await;
    let sources = Sources::of(&server).await;
    for of in ["user", "account", "device"] {
        assert_eq!(sources.refusal(kazoo::token(of)).await, None, "{of}");
    }
    for algorithm in [Algorithm::RS256, Algorithm::RS384, Algorithm::RS512] {
        let claims = kazoo::user_claims(USER_SECRET);
        let token = kazoo::signed_with(kazoo::private_key(), kazoo::kid(), algorithm, &claims);
        assert_eq!(sources.refusal(&token).await, None, "{algorithm:?}");
    }
    let sig = |identity: &str, secret: &str| identity_sig(identity, secret, SERVER_SECRET);
    for (token, expected) in [
        (without("identity_sig"), None),
        (
            with(json!({ "owner_id": null, "identity_sig": sig(ACME, "00112233445566778899aabbccddeeff") })),
            None,
        ),
        (
            with(
                json!({ "device_id": DEVICE, "identity_sig": sig(DEVICE, "ffeeddccbbaa99887766554433221100") }),
            ),
            None,
        ),
        (with(json!({ "device_id": DEVICE })), BAD),
        (without("owner_id"), BAD),
        (with(json!({ "identity_sig": "" })), BAD),
        (with(json!({ "identity_sig": "AAAA" })), BAD),
        (with(json!({ "identity_sig": null })), Some("claim identity_sig is invalid")),
        (with(json!({ "owner_id": 5 })), Some("claim owner_id is invalid")),
        (with(json!({ "device_id": "" })), Some("claim device_id is invalid")),
        (with(json!({ "identity_sig": sig(USER, "other") })), BAD),
        (with(json!({ "identity_sig": identity_sig(USER, USER_SECRET, "other") })), BAD),
        (with(json!({ "identity_sig": identity_sig(USER, SERVER_SECRET, USER_SECRET) })), BAD),
        (with(json!({ "owner_id": "nobody", "identity_sig": sig("nobody", USER_SECRET) })), GONE),
        (with(json!({ "owner_id": "_design/x", "identity_sig": sig("_design/x", USER_SECRET) })), GONE),
        // Another account's user.
        (with(json!({ "account_id": kazoo::MASTER })), GONE),
        (with(json!({ "account_id": "../accounts", "owner_id": "x" })), GONE),
        (with(json!({ "exp": NOW })), Some("token is expired")),
        (with(json!({ "exp": NOW - 1 })), Some("token is expired")),
        (with(json!({ "exp": NOW + 1 })), None),
        (without("exp"), Some("token has no expiry")),
        (with(json!({ "iss": "https://accounts.example.com" })), Some("issuer is not accepted")),
    ] {
        assert_eq!(sources.refusal(&token).await.as_deref(), expected);
    }
}

#[tokio::test]
async fn a_changed_secret_a_deleted_user_and_one_without_a_secret_end_their_tokens() {
    let server = kazoo::start().await;
    let sources = Sources::of(&server).await;
    let user = kazoo::token("user");
    assert_eq!(sources.refusal(user).await, None);
    server.edit(ACME_DATABASE, USER, &json!({ "pvt_signature_secret": "new" }));
    sources.told(USER).await;
    assert_eq!(sources.refusal(user).await.as_deref(), BAD);
    let new = kazoo::signed(&kazoo::user_claims("new"));
    assert_eq!(sources.refusal(&new).await, None);
    server.edit(ACME_DATABASE, USER, &json!({ "pvt_signature_secret": null }));
    sources.told(USER).await;
    assert_eq!(sources.refusal(&new).await.as_deref(), BAD);
    server.edit(ACME_DATABASE, USER, &json!({ "pvt_signature_secret": "new", "pvt_deleted": true }));
    sources.told(USER).await;
    assert_eq!(sources.refusal(&new).await.as_deref(), GONE);
    server.edit(ACME_DATABASE, USER, &json!({ "pvt_deleted": null }));
    sources.told(USER).await;
    assert_eq!(sources.refusal(&new).await, None);
    server.delete(ACME_DATABASE, USER);
    sources.told(USER).await;
    assert_eq!(sources.refusal(&new).await.as_deref(), GONE);
    // The account's copy in `accounts` is stale in KAZOO 4.3.
    server.edit("accounts", ACME, &json!({ "pvt_signature_secret": "stale" }));
    assert_eq!(sources.refusal(kazoo::token("account")).await, None);
}

#[tokio::test]
async fn a_secret_that_nobody_told_of_is_read_again() {
    let server = kazoo::start().await;
    let mut config = config(&server.url());
    config.poll_interval = Duration::ZERO;
    let sources = Sources::with(&config).await;
    assert_eq!(sources.refusal(kazoo::token("user")).await, None);
    server.edit(ACME_DATABASE, USER, &json!({ "pvt_signature_secret": "new" }));
    eventually("reading it again", async || sources.refusal(kazoo::token("user")).await.as_deref() == BAD)
        .await;
}

#[tokio::test]
async fn missed_events_have_secrets_read_again() {
    let server = kazoo::start().await;
    let sources = Sources::of(&server).await;
    assert_eq!(sources.refusal(kazoo::token("user")).await, None);
    server.edit(ACME_DATABASE, USER, &json!({ "pvt_signature_secret": "new" }));
    sources.couchdb.identities.missed();
    eventually("reading it again", async || sources.refusal(kazoo::token("user")).await.as_deref() == BAD)
        .await;
}

#[tokio::test]
async fn the_servers_secret_changes_for_all() {
    let server = kazoo::start().await;
    let sources = Sources::of(&server).await;
    assert_eq!(sources.refusal(kazoo::token("user")).await, None);
    server.edit("system_config", "auth", &json!({ "default": { "secret_for_user_signature": "new" } }));
    eventually("the change", async || sources.refusal(kazoo::token("user")).await.as_deref() == BAD).await;
    let mut claims = kazoo::user_claims(USER_SECRET);
    claims["identity_sig"] = identity_sig(USER, USER_SECRET, "new").into();
    assert_eq!(sources.refusal(&kazoo::signed(&claims)).await, None);
    server.delete("system_config", "auth");
    eventually("the deletion", async || sources.refusal(&kazoo::signed(&claims)).await.as_deref() == BAD)
        .await;
}

#[tokio::test]
async fn the_configured_zone_has_its_own_secret() {
    let server = kazoo::start().await;
    server.edit("system_config", "auth", &json!({ "west": { "secret_for_user_signature": "zone" } }));
    let mut config = config(&server.url());
    config.zone = Some("west".into());
    let sources = Sources::with(&config).await;
    assert_eq!(sources.refusal(kazoo::token("user")).await.as_deref(), BAD);
    let signature = identity_sig(USER, USER_SECRET, "zone");
    assert_eq!(sources.refusal(&with(json!({ "identity_sig": signature }))).await, None);
}

#[tokio::test]
async fn many_questions_for_one_user_are_one() {
    let server = kazoo::start().await;
    let sources = Sources::of(&server).await;
    server.delay(Duration::from_millis(300));
    server.take_requests();
    let asked = futures_util::future::join_all((0..200).map(|_| sources.refusal(kazoo::token("user")))).await;
    assert!(asked.iter().all(Option::is_none));
    assert_eq!(server.take_questions(), [format!("/{}/{USER}", kazoo::ACME_ENCODED)]);
}

#[tokio::test]
async fn what_is_known_goes_on_while_couchdb_is_away() {
    let server = kazoo::start().await;
    let sources = Sources::of(&server).await;
    assert_eq!(sources.refusal(kazoo::token("user")).await, None);
    server.stop();
    assert_eq!(sources.refusal(kazoo::token("user")).await, None);
    let error = sources.refusal(kazoo::token("device")).await.unwrap();
    assert!(error.starts_with("couchdb signature secrets unavailable: "), "{error}");
    eventually("the loss", async || sources.readiness.degraded().len() == 3).await;
    server.edit("accounts", ACME, &json!({ "pvt_enabled": false }));
    server.go_on();
    sources.until_followed().await;
    eventually("the answer", async || sources.refusal(kazoo::token("device")).await.is_none()).await;
    eventually("the change", async || !sources.account(ACME).await.unwrap().enabled).await;
}

#[tokio::test]
async fn a_secret_that_changes_while_it_is_read_is_not_kept() {
    let server = kazoo::start().await;
    let sources = Sources::of(&server).await;
    server.delay(Duration::from_millis(500));
    let (first, ()) = futures_util::join!(sources.refusal(kazoo::token("user")), async {
        eventually("the question", async || server.take_requests().iter().any(|path| path.ends_with(USER)))
            .await;
        server.edit(ACME_DATABASE, USER, &json!({ "pvt_signature_secret": "new" }));
        sources.told(USER).await;
    });
    assert_eq!(first.as_deref(), BAD);
}

#[tokio::test]
async fn a_node_that_does_not_know_of_a_changed_secret_does_not_bring_the_old_one_back() {
    let server = kazoo::start().await;
    let sources = Sources::of(&server).await;
    assert_eq!(sources.refusal(kazoo::token("user")).await, None);
    server.freeze_documents(true);
    server.edit(ACME_DATABASE, USER, &json!({ "pvt_signature_secret": "new" }));
    let identity = Identity { account_id: ACME.into(), id: USER.into() };
    sources.couchdb.identities.changed(&identity, Revision::of("2-")).await;
    let error = sources.refusal(kazoo::token("user")).await.unwrap();
    assert!(error.contains("older documents than were announced"), "{error}");
    server.freeze_documents(false);
    assert_eq!(sources.refusal(kazoo::token("user")).await.as_deref(), BAD);
}
