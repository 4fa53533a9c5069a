//! Tokens and accounts from Crossbar.

use std::{sync::Arc, time::Duration};

use auth_svc::config::Source;
use auth_svc::{
    authority::Authority,
    crossbar::{Crossbar, config::CrossbarConfig, verifier::CrossbarVerifier},
    error::Error,
    issuers::Reports,
    jwt_verifier::JwtVerifier,
    realms::Realms,
};
use blackhole_common::wire::{Access, AuthReply, AuthRequest};
use blackhole_couchdb::{
    crossbar::Crossbar as StandIn,
    kazoo::{self, ACME, FOREVER, MASTER},
    web::Answer,
};
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::eventually;

const RSA: &str = include_str!("../../src/testdata/rsa-private-pkcs1.pem");
const SHOP: &str = "0123456789abcdef0123456789abcdef";
const OTHER: &str = "fedcba9876543210fedcba9876543210";

/// auth-svc's decisions with Crossbar alone.
struct Deployment {
    server: StandIn,
    authority: Authority,
    reports: Reports,
}

impl Deployment {
    async fn start() -> Deployment {
        let server = StandIn::start().await;
        server.add(SHOP, &[MASTER, ACME]);
        server.add(OTHER, &[MASTER]);
        let config = CrossbarConfig {
            url: server.web.url(),
            key_ids: vec![kazoo::kid().into()],
            timeout: Duration::from_secs(1),
            cache: Duration::from_secs(1),
            ..CrossbarConfig::default()
        };
        config.check().unwrap();
        let (reports, realms) = (Reports::default(), Arc::new(Realms::default()));
        let latch = reports.readiness.optional("crossbar");
        let crossbar = Crossbar::new(&config, Arc::clone(&realms), &reports.metrics, latch).unwrap();
        let crossbar = Arc::new(crossbar);
        let other = Arc::new(JwtVerifier::new(Vec::new()));
        let verifier = CrossbarVerifier::new(Arc::clone(&crossbar), &[Source::Crossbar], &[], other);
        Deployment { server, authority: Authority::new(Arc::new(verifier), crossbar, realms), reports }
    }

    async fn ask(&self, token: &str, account_id: Option<&str>) -> Result<AuthReply, Error> {
        let request = AuthRequest { token: token.into(), account_id: account_id.map(str::to_owned) };
        self.authority.answer(&request).await.map(|answer| answer.reply)
    }

    /// Why a token is refused, if it is; `unavailable` if that cannot be told.
    async fn refusal(&self, token: &str) -> Option<String> {
        match self.ask(token, None).await {
            Ok(AuthReply::Accepted { .. }) => None,
            Ok(AuthReply::Refused { reason }) => Some(reason),
            Err(error) => Some(error.kind().to_owned()),
        }
    }

    async fn is_refused(&self, token: &str, reason: Option<&str>) -> bool {
        self.refusal(token).await.as_deref() == reason
    }

    /// Whether the token may see the account.
    async fn sees(&self, token: &str, account: &str) -> bool {
        match self.ask(token, Some(account)).await.unwrap() {
            AuthReply::Accepted { access: Access::Account { account_id, .. }, .. } => account_id == account,
            AuthReply::Accepted { access: Access::All, .. } => account == "*",
            _ => false,
        }
    }
}

fn token(account: &str, more: Value) -> String {
    let mut claims = json!({ "iss": "kazoo", "account_id": account, "exp": FOREVER });
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    kazoo::signed(&claims)
}

#[tokio::test]
async fn a_token_sees_its_account_and_those_below() {
    let deployment = Deployment::start().await;
    let [master, acme, shop] = [MASTER, ACME, SHOP].map(|id| token(id, json!({})));
    for (token, account, expected) in [
        (&acme, ACME, true),
        (&acme, SHOP, true),
        (&acme, OTHER, false),
        (&acme, MASTER, false),
        (&acme, "*", false),
        (&acme, "nobody", false),
        (&acme, "../../accounts", false),
        (&acme, "00000000000000000000000000000000", false),
        (&shop, SHOP, true),
        (&shop, ACME, false),
        (&master, SHOP, true),
        (&master, OTHER, true),
        (&master, "*", true),
    ] {
        assert_eq!(deployment.sees(token, account).await, expected, "{account}");
    }
    let AuthReply::Accepted { bearer, access } = deployment.ask(&acme, Some(SHOP)).await.unwrap() else {
        panic!()
    };
    assert_eq!((bearer.account_id.as_str(), bearer.expires_at), (ACME, FOREVER));
    let Access::Account { realm, .. } = access else { panic!("{access:?}") };
    assert_eq!(realm, Some(format!("{SHOP}.example.com")));
}

#[tokio::test]
async fn parents_is_asked_where_tree_is_not_known() {
    let deployment = Deployment::start().await;
    deployment.server.without_tree();
    let acme = token(ACME, json!({}));
    assert!(deployment.sees(&acme, SHOP).await);
    assert!(!deployment.sees(&acme, OTHER).await);
}

#[tokio::test]
async fn answers_are_remembered_and_equal_questions_asked_once() {
    let deployment = Deployment::start().await;
    let acme = token(ACME, json!({}));
    deployment.server.web.delay(Duration::from_millis(200));
    let all = (0..200).map(|_| deployment.refusal(&acme));
    assert!(futures_util::future::join_all(all).await.iter().all(Option::is_none));
    let asked = deployment.server.web.take_requests();
    let paths: Vec<&str> = asked.iter().map(|asked| asked.path.as_str()).collect();
    assert_eq!(paths, ["/v2/auth/tokeninfo".to_owned(), format!("/v2/accounts/{ACME}")]);
    // The token is in no URL.
    assert!(asked.iter().all(|asked| !asked.path.contains(&acme)));
    deployment.server.web.delay(Duration::ZERO);
    let bad = format!("{}AAAA", &acme[..acme.len() - 4]);
    for _ in 0..20 {
        assert!(deployment.is_refused(&bad, Some("bad signature")).await);
    }
    assert_eq!(deployment.server.web.take_requests().len(), 1);
}

#[tokio::test]
async fn crossbar_is_not_asked_about_what_it_must_not_see() {
    let deployment = Deployment::start().await;
    let claims = json!({ "iss": "kazoo", "account_id": ACME, "exp": FOREVER });
    let past = json!({ "exp": 1_000_000_000 });
    for (token, reason) in [
        // KAZOO would make this key.
        (kazoo::signed_with(RSA, "unknown", Algorithm::RS256, &claims), "unknown key id"),
        (kazoo::signed_with(RSA, kazoo::kid(), Algorithm::PS256, &claims), "algorithm is not accepted"),
        // KAZOO would believe what the issuer says of itself.
        (token(ACME, json!({ "iss": "https://evil.example.com" })), "unknown key id"),
        (token(ACME, json!({ "iss": ["kazoo"] })), "unknown key id"),
        (token(ACME, past), "token is expired"),
        (token(ACME, json!({ "exp": null })), "claim exp is invalid"),
        (token(ACME, json!({ "aud": "x" })), "token is for another audience"),
        (token("", json!({})), "token has no account"),
        ("a.b".to_owned(), "token is malformed"),
    ] {
        let refusal = deployment.refusal(&token).await;
        assert_eq!(refusal.as_deref(), Some(reason), "{token}");
    }
    assert!(deployment.server.web.take_requests().is_empty());
}

#[tokio::test]
async fn what_crossbar_says_of_a_token_counts() {
    let deployment = Deployment::start().await;
    for (number, (status, message, expected)) in [
        (401, "invalid_jwt_signature", "bad signature"),
        (401, "token_expired", "token is expired"),
        (401, "invalid_identity_signature", "bad identity signature"),
        (401, "something new", "KAZOO does not accept the token"),
        (403, "no associated account_id", "token has no account"),
        (500, "the user is gone", "identity is gone"),
    ]
    .into_iter()
    .enumerate()
    {
        let token = token(ACME, json!({ "n": number }));
        deployment.server.refuse(&token, status, message);
        assert!(deployment.is_refused(&token, Some(expected)).await, "{status} {message}");
    }
    // Signed by another.
    let claims = json!({ "iss": "kazoo", "account_id": ACME, "exp": FOREVER });
    let forged = kazoo::signed_with(RSA, kazoo::kid(), Algorithm::RS256, &claims);
    assert!(deployment.is_refused(&forged, Some("bad signature")).await);
    // Crossbar finds another account in it.
    let odd = token(ACME, json!({ "odd": 1 }));
    deployment.server.answer(&odd, Answer::json(200, &json!({ "data": { "account_id": MASTER } })));
    assert!(deployment.is_refused(&odd, Some("KAZOO does not accept the token")).await);
}

#[tokio::test]
async fn what_is_not_crossbars_answer_decides_nothing() {
    let deployment = Deployment::start().await;
    let long = "x".repeat(2_000_000);
    let elsewhere = Answer { location: Some("http://127.0.0.1:1/".into()), ..Answer::text(302, "") };
    for (number, answer) in [
        Answer::text(502, "<html>"),
        Answer::text(503, "{\"status\":\"error\"}"),
        Answer::text(429, "{\"status\":\"error\"}"),
        Answer::text(500, "<html>"),
        Answer::text(401, "<html>"),
        Answer::text(200, "<html>"),
        Answer::text(200, "{}"),
        Answer::text(200, &long),
        elsewhere,
    ]
    .into_iter()
    .enumerate()
    {
        let token = token(ACME, json!({ "n": number }));
        deployment.server.answer(&token, answer.clone());
        assert!(deployment.is_refused(&token, Some("unavailable")).await, "{number}");
        assert_eq!(deployment.reports.readiness.degraded().len(), 1);
    }
    assert!(deployment.is_refused(&token(ACME, json!({})), None).await);
    assert!(deployment.reports.readiness.degraded().is_empty());
}

#[tokio::test]
async fn what_is_taken_away_ends_once_the_answer_is_old() {
    let deployment = Deployment::start().await;
    let [acme, master] = [ACME, MASTER].map(|id| token(id, json!({})));
    assert!(deployment.sees(&acme, SHOP).await && deployment.sees(&master, "*").await);
    deployment.server.move_below(SHOP, &[MASTER]);
    eventually("the move", async || !deployment.sees(&acme, SHOP).await).await;
    deployment.server.edit(MASTER, "superduper_admin", json!(false));
    eventually("the end of the superduper admin", async || !deployment.sees(&master, "*").await).await;
    deployment.server.edit(OTHER, "enabled", json!(false));
    eventually("the end of the account", async || !deployment.sees(&master, OTHER).await).await;
    deployment.server.edit(ACME, "enabled", json!(false));
    let reason = Some("account is disabled");
    eventually("the end of its tokens", async || deployment.is_refused(&acme, reason).await).await;
    deployment.server.edit(ACME, "enabled", json!(true));
    deployment.server.refuse(&acme, 401, "invalid_identity_signature");
    let reason = Some("bad identity signature");
    eventually("the end of the token", async || deployment.is_refused(&acme, reason).await).await;
}

#[tokio::test]
async fn what_is_known_goes_on_for_a_moment_while_crossbar_is_away() {
    let deployment = Deployment::start().await;
    let acme = token(ACME, json!({}));
    assert!(deployment.is_refused(&acme, None).await);
    deployment.server.web.stop();
    assert!(deployment.is_refused(&acme, None).await);
    assert!(deployment.is_refused(&token(ACME, json!({ "n": 1 })), Some("unavailable")).await);
    eventually("the end of the answer", async || deployment.is_refused(&acme, Some("unavailable")).await)
        .await;
    deployment.server.web.go_on();
    assert!(deployment.is_refused(&acme, None).await);
}

#[tokio::test]
async fn a_realm_that_another_account_has_is_not_given_again() {
    let deployment = Deployment::start().await;
    let master = token(MASTER, json!({}));
    let realm = async |account: &str| match deployment.ask(&master, Some(account)).await.unwrap() {
        AuthReply::Accepted { access: Access::Account { realm, .. }, .. } => realm,
        other => panic!("{other:?}"),
    };
    assert_eq!(realm(SHOP).await, Some(format!("{SHOP}.example.com")));
    deployment.server.edit(OTHER, "realm", json!(format!("{}.EXAMPLE.com", SHOP)));
    assert_eq!(realm(OTHER).await, None);
    deployment.server.edit(SHOP, "realm", json!("new.example.com"));
    let owner = Some(format!("{SHOP}.EXAMPLE.com"));
    eventually("the end of the other's", async || realm(OTHER).await == owner).await;
}

/// KAZOO gives the claim no meaning for what a token may see, and neither does this.
#[tokio::test]
async fn a_scope_changes_nothing() {
    let deployment = Deployment::start().await;
    for scope in [json!("accounts:read"), json!(["*"]), json!(""), json!(null), json!({ "a": 1 })] {
        let token = token(ACME, json!({ "scope": scope }));
        assert!(deployment.sees(&token, SHOP).await);
        assert!(!deployment.sees(&token, MASTER).await && !deployment.sees(&token, "*").await);
    }
}
