//! Issuers whose keys are read over HTTP.

use std::{path::PathBuf, sync::Arc, time::Duration};

use auth_svc::{
    claims::VerifiedToken,
    config::AuthConfig,
    error::Error,
    issuers::{Issuer, Reports, remote::MAX_ANSWER_BYTES},
    jwt_verifier::JwtVerifier,
    verifier::TokenVerifier,
};
use blackhole_couchdb::{
    issuer::{self, Key},
    kazoo::FOREVER,
    web::Answer,
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::{NOW, eventually, proxy::proxy, soon};

const RSA: &str = include_str!("../../src/testdata/rsa-private-pkcs1.pem");
const RSA_PUBLIC: &str = include_str!("../../src/testdata/rsa-public.pem");
const ACCOUNT: &str = "4b31dd1d32ce6d249897c06332375d65";
const UNKNOWN: Option<&str> = Some("unknown key id");

/// A verifier of an issuer's tokens.
struct Verifier {
    jwt: JwtVerifier,
    reports: Reports,
}

impl Verifier {
    /// With these lines of configuration besides the place of the keys.
    fn with(issuer: &issuer::Issuer, lines: &str) -> Verifier {
        let text = format!("jwks_url = \"{}\"\n{lines}", issuer.keys_url());
        Verifier::of(&issuer.iss(), &text)
    }

    fn of(iss: &str, lines: &str) -> Verifier {
        let accounts = if lines.contains("accounts") { "" } else { "accounts = [\"*\"]\n" };
        let text = format!("[[issuers]]\niss = \"{iss}\"\n{accounts}{lines}");
        let config: AuthConfig = toml::from_str(&text).unwrap();
        for issuer in &config.issuers {
            issuer.check().unwrap();
        }
        let reports = Reports::default();
        Verifier { jwt: JwtVerifier::new(Issuer::all(&config, None, &reports).unwrap()), reports }
    }

    /// Follows the keys until the test ends.
    fn follow(&self) {
        for remote in self.jwt.issuers().iter().filter_map(|issuer| issuer.remote.clone()) {
            tokio::spawn(remote.follow());
        }
    }

    async fn verify(&self, token: &str) -> Result<VerifiedToken, Error> {
        self.jwt.verify(token).await
    }

    /// Why a token is refused, if it is; `unavailable` if that cannot be told.
    async fn refusal(&self, token: &str) -> Option<String> {
        match self.verify(token).await {
            Ok(_) => None,
            Err(Error::Refused(refusal)) => Some(refusal.to_string()),
            Err(error) => Some(error.kind().to_owned()),
        }
    }

    async fn is_refused(&self, token: &str, reason: Option<&str>) -> bool {
        self.refusal(token).await.as_deref() == reason
    }
}

fn claims(issuer: &issuer::Issuer) -> Value {
    json!({ "iss": issuer.iss(), "account_id": ACCOUNT, "exp": FOREVER })
}

/// The number of questions for keys since the last call.
fn questions(issuer: &issuer::Issuer) -> usize {
    issuer.web.take_requests().iter().filter(|asked| asked.path == issuer::KEYS).count()
}

#[tokio::test]
async fn each_kind_of_key_verifies_tokens_of_its_issuer() {
    let keys = [
        Key::ed25519("ed"),
        Key::p256("ec"),
        Key::rsa("rs", Algorithm::RS256, RSA),
        Key::rsa("ps", Algorithm::PS512, RSA),
    ];
    let issuer = issuer::Issuer::start(&keys.each_ref()).await;
    let verifier = Verifier::with(&issuer, "");
    for key in &keys {
        let verified = verifier.verify(&key.token(&claims(&issuer))).await.unwrap();
        assert_eq!(verified.account_id, ACCOUNT, "{}", key.kid);
    }
    assert_eq!(questions(&issuer), 1, "they are read with the first token");
    // The key with the id `rs` is for RS256.
    let other = Key::rsa("rs", Algorithm::RS512, RSA).token(&claims(&issuer));
    assert!(verifier.is_refused(&other, Some("algorithm does not fit the key")).await);
}

#[tokio::test]
async fn the_openid_configuration_tells_where_the_keys_are() {
    let key = Key::ed25519("1");
    let issuer = issuer::Issuer::start(&[&key]).await;
    let token = key.token(&claims(&issuer));
    let lines = format!("discovery_url = \"{}\"", issuer.configuration_url());
    assert!(Verifier::of(&issuer.iss(), &lines).is_refused(&token, None).await);
    for configuration in [
        json!({ "issuer": "https://other", "jwks_uri": issuer.keys_url() }),
        json!({ "issuer": issuer.iss(), "jwks_uri": "http://127.0.0.1:1/keys" }),
        json!({ "issuer": issuer.iss(), "jwks_uri": "file:///etc/passwd" }),
        json!({ "issuer": issuer.iss() }),
        json!([]),
    ] {
        issuer.configure(&configuration);
        let verifier = Verifier::of(&issuer.iss(), &lines);
        assert!(verifier.is_refused(&token, Some("unavailable")).await, "{configuration}");
    }
}

#[tokio::test]
async fn no_public_key_is_a_secret_and_no_algorithm_is_another() {
    let (rsa, ed) = (Key::rsa("rsa", Algorithm::RS256, RSA), Key::ed25519("ed"));
    let issuer = issuer::Issuer::start(&[&rsa, &ed]).await;
    let verifier = Verifier::with(&issuer, "algorithms = [\"RS256\"]");
    assert!(verifier.is_refused(&rsa.token(&claims(&issuer)), None).await);
    let n = rsa.jwk()["n"].as_str().unwrap().to_owned();
    for secret in [RSA_PUBLIC.as_bytes(), RSA_PUBLIC.trim_end().as_bytes(), n.as_bytes(), b""] {
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let header = Header { kid: Some("rsa".into()), ..Header::new(algorithm) };
            let key = EncodingKey::from_secret(secret);
            let token = jsonwebtoken::encode(&header, &claims(&issuer), &key).unwrap();
            assert!(verifier.is_refused(&token, Some("algorithm is not accepted")).await, "{algorithm:?}");
        }
    }
    // Not listed.
    assert!(verifier.is_refused(&ed.token(&claims(&issuer)), Some("algorithm is not accepted")).await);
    let none = |alg: &str| {
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
        let header = json!({ "alg": alg, "kid": "rsa" }).to_string();
        format!("{}.{}.", B64.encode(header), B64.encode(claims(&issuer).to_string()))
    };
    for alg in ["none", "None", "", "RS256"] {
        assert!(verifier.refusal(&none(alg)).await.is_some(), "{alg}");
    }
}

#[tokio::test]
async fn a_rotated_key_is_found_by_its_first_token_and_a_removed_one_ends() {
    let (old, new) = (Key::ed25519("old"), Key::p256("new"));
    let issuer = issuer::Issuer::start(&[&old]).await;
    let verifier = Verifier::with(&issuer, "refresh_interval = \"1s\"");
    let [old_token, new_token] = [&old, &new].map(|key| key.token(&claims(&issuer)));
    assert!(verifier.is_refused(&old_token, None).await);
    assert!(verifier.is_refused(&new_token, UNKNOWN).await);
    issuer.publish(&[&old, &new]);
    verifier.follow();
    eventually("the new key", async || verifier.is_refused(&new_token, None).await).await;
    assert!(verifier.is_refused(&old_token, None).await);
    issuer.publish(&[&new]);
    eventually("the end of the old key", async || verifier.is_refused(&old_token, UNKNOWN).await).await;
    // Another key under the same id.
    let other = Key::ed25519("new");
    issuer.publish(&[&other]);
    let reason = Some("algorithm does not fit the key");
    eventually("the end of the new key", async || verifier.is_refused(&new_token, reason).await).await;
    assert!(verifier.is_refused(&other.token(&claims(&issuer)), None).await);
}

#[tokio::test]
async fn two_keys_with_the_same_id_both_count() {
    let keys = [Key::ed25519("1"), Key::ed25519("1"), Key::p256("1")];
    let issuer = issuer::Issuer::start(&keys.each_ref()).await;
    let verifier = Verifier::with(&issuer, "");
    for key in &keys {
        assert!(verifier.is_refused(&key.token(&claims(&issuer)), None).await);
    }
    let stranger = Key::ed25519("1").token(&claims(&issuer));
    assert!(verifier.is_refused(&stranger, Some("bad signature")).await);
}

#[tokio::test]
async fn any_number_of_unknown_keys_costs_one_question() {
    let key = Key::ed25519("1");
    let issuer = issuer::Issuer::start(&[&key]).await;
    let verifier = Verifier::with(&issuer, "");
    issuer.web.delay(Duration::from_millis(100));
    let tokens: Vec<String> =
        (0..500).map(|number| key.named(&format!("k{number}")).token(&claims(&issuer))).collect();
    let refusals = tokens.iter().map(|token| verifier.refusal(token));
    let refusals = futures_util::future::join_all(refusals).await;
    assert!(refusals.iter().all(|refusal| refusal.as_deref() == UNKNOWN), "{refusals:?}");
    assert_eq!(questions(&issuer), 1);
    // Tokens that claim to be another's, or no token at all, cost none.
    let fresh = Verifier::with(&issuer, "");
    let mut others = claims(&issuer);
    others["iss"] = "kazoo".into();
    for token in [key.token(&others), "a.b.c".to_owned()] {
        assert!(fresh.refusal(&token).await.is_some());
    }
    let long = key.named(&"x".repeat(300)).token(&claims(&issuer));
    assert!(fresh.is_refused(&long, UNKNOWN).await);
    assert_eq!(questions(&issuer), 0);
}

#[tokio::test]
async fn what_is_no_set_of_keys_changes_nothing() {
    let key = Key::ed25519("1");
    let issuer = issuer::Issuer::start(&[&key]).await;
    let verifier = Verifier::with(&issuer, "timeout = \"500ms\"\nrefresh_interval = \"1s\"");
    let token = key.token(&claims(&issuer));
    assert!(verifier.is_refused(&token, None).await);
    verifier.follow();
    let huge = json!({ "keys": [key.jwk()], "x": "x".repeat(MAX_ANSWER_BYTES) });
    let many = json!({ "keys": vec![key.jwk(); 101] });
    let elsewhere = Answer { location: Some(format!("{}/other", issuer.web.url())), ..Answer::text(302, "") };
    for answer in [
        Answer::json(200, &huge),
        Answer::json(200, &many),
        Answer::text(200, "<html>"),
        Answer::text(200, ""),
        Answer::text(500, "{\"keys\":[]}"),
        Answer::text(404, "{\"keys\":[]}"),
        elsewhere,
    ] {
        issuer.answer_keys(answer.clone());
        questions(&issuer);
        eventually("the question", async || questions(&issuer) > 0).await;
        eventually("the failure", async || !verifier.reports.readiness.degraded().is_empty()).await;
        assert!(verifier.is_refused(&token, None).await, "{}", answer.status);
        issuer.publish(&[&key]);
        eventually("the end", async || verifier.reports.readiness.degraded().is_empty()).await;
    }
    assert!(issuer.web.take_requests().iter().all(|asked| asked.path == issuer::KEYS));
}

#[tokio::test]
async fn a_slow_issuer_is_given_up_and_nothing_else_waits_for_it() {
    let key = Key::ed25519("1");
    let issuer = issuer::Issuer::start(&[&key]).await;
    issuer.web.delay(Duration::from_secs(60));
    let verifier = Verifier::with(&issuer, "timeout = \"300ms\"");
    let token = key.token(&claims(&issuer));
    let began = std::time::Instant::now();
    let refusals = (0..100).map(|_| verifier.is_refused(&token, Some("unavailable")));
    assert!(soon("giving up", futures_util::future::join_all(refusals)).await.into_iter().all(|is| is));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(questions(&issuer), 1);
}

#[tokio::test]
async fn known_keys_go_on_while_the_issuer_is_away_for_as_long_as_configured() {
    let (key, new) = (Key::ed25519("1"), Key::ed25519("2"));
    let issuer = issuer::Issuer::start(&[&key]).await;
    let verifier = Verifier::with(&issuer, "refresh_interval = \"1s\"\nkeep_keys = \"4s\"\ntimeout = \"1s\"");
    verifier.follow();
    let [token, new_token] = [&key, &new].map(|key| key.token(&claims(&issuer)));
    eventually("the keys", async || verifier.is_refused(&token, None).await).await;
    issuer.web.stop();
    eventually("the loss", async || !verifier.reports.readiness.degraded().is_empty()).await;
    assert!(verifier.is_refused(&token, None).await);
    // Nobody can tell whether it is good.
    assert!(verifier.is_refused(&new_token, Some("unavailable")).await);
    eventually("the end of what is too old", async || verifier.is_refused(&token, Some("unavailable")).await)
        .await;
    issuer.publish(&[&new]);
    issuer.web.go_on();
    eventually("the return", async || verifier.is_refused(&new_token, None).await).await;
    assert!(verifier.is_refused(&token, UNKNOWN).await);
    assert_eq!(verifier.reports.readiness.degraded(), Vec::<Arc<str>>::new());
}

#[tokio::test]
async fn a_token_must_be_for_the_configured_audience_and_name_an_account() {
    let key = Key::ed25519("1");
    let issuer = issuer::Issuer::start(&[&key]).await;
    let verifier =
        Verifier::with(&issuer, "audience = \"blackhole\"\naccount_claim = \"https://example.com/account\"");
    for (aud, account, expected) in [
        (json!("blackhole"), json!("a"), None),
        (json!(["x", "blackhole"]), json!("a"), None),
        (json!("other"), json!("a"), Some("token is for another audience")),
        (json!(null), json!("a"), Some("token is for another audience")),
        (json!("blackhole"), json!(null), Some("token has no account")),
        (json!("blackhole"), json!(""), Some("token has no account")),
        (json!("blackhole"), json!(["a"]), Some("claim of the account is invalid")),
    ] {
        let mut claims = claims(&issuer);
        claims["aud"] = aud.clone();
        claims["https://example.com/account"] = account.clone();
        assert!(verifier.is_refused(&key.token(&claims), expected).await, "{aud} {account}");
        if expected.is_none() {
            // Not the one in KAZOO's claim.
            assert_eq!(verifier.verify(&key.token(&claims)).await.unwrap().account_id, "a");
        }
    }
    let mut claims = claims(&issuer);
    claims["aud"] = "blackhole".into();
    claims["https://example.com/account"] = "a".into();
    claims["exp"] = (NOW - 1_000_000_000).into();
    assert!(verifier.is_refused(&key.token(&claims), Some("token is expired")).await);
}

#[tokio::test]
async fn issuers_do_not_sign_for_each_other() {
    let (a, b) = (Key::ed25519("1"), Key::ed25519("1"));
    let issuers = [issuer::Issuer::start(&[&a]).await, issuer::Issuer::start(&[&b]).await];
    let text: String = issuers
        .iter()
        .map(|issuer| {
            let (iss, url) = (issuer.iss(), issuer.keys_url());
            format!("[[issuers]]\niss = \"{iss}\"\njwks_url = \"{url}\"\naccounts = [\"*\"]\n")
        })
        .collect();
    let config: AuthConfig = toml::from_str(&text).unwrap();
    let reports = Reports::default();
    let verifier = Verifier { jwt: JwtVerifier::new(Issuer::all(&config, None, &reports).unwrap()), reports };
    for (key, issuer, is_good) in
        [(&a, &issuers[0], true), (&b, &issuers[1], true), (&a, &issuers[1], false), (&b, &issuers[0], false)]
    {
        let expected = if is_good { None } else { Some("issuer is not accepted") };
        assert!(verifier.is_refused(&key.token(&claims(issuer)), expected).await);
    }
    // Neither can sign KAZOO's.
    let mut claims = claims(&issuers[0]);
    claims["iss"] = "kazoo".into();
    assert!(verifier.is_refused(&a.token(&claims), Some("issuer is not accepted")).await);
}

#[tokio::test]
async fn only_a_certificate_of_the_ca_file_is_trusted() {
    let key = Key::ed25519("1");
    let issuer = issuer::Issuer::start(&[&key]).await;
    let certificate = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (right, wrong) = (certificate(), certificate());
    let port = proxy(&right, &issuer.web.url()).await;
    let token = key.token(&claims(&issuer));
    for (name, certificate, expected) in [
        ("right", Some(&right), None),
        ("wrong", Some(&wrong), Some("unavailable")),
        ("", None, Some("unavailable")),
    ] {
        let mut lines = format!("jwks_url = \"https://localhost:{port}/keys\"\n");
        if let Some(certificate) = certificate {
            let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("issuer-{name}.pem"));
            std::fs::write(&file, certificate.cert.pem()).unwrap();
            lines += &format!("ca_file = {:?}\n", file.display().to_string());
        }
        assert!(Verifier::of(&issuer.iss(), &lines).is_refused(&token, expected).await, "{name}");
    }
}
