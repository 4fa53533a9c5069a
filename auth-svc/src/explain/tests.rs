use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use blackhole_common::config::Secret;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};

use super::*;
use crate::{issuers::Scope, reload::Reloaded, testing};

const NOW: u64 = 1_800_000_000;

fn explain(token: &str) -> (bool, String) {
    explain_with(&verifier(), token)
}

fn verifier() -> JwtVerifier {
    JwtVerifier::new(vec![Issuer::kazoo(Some(&Secret::new(testing::SECRET)), None)])
}

fn explain_with(verifier: &JwtVerifier, token: &str) -> (bool, String) {
    let accounts = Accounts::parse(testing::ACCOUNTS).unwrap();
    let explanation = Explanation::of(token, verifier, &accounts, NOW);
    let accepted = verifier.verify_at(token, NOW).ok().is_some_and(|token| {
        let account = accounts.get(&token.account_id);
        account.is_some_and(|account| account.enabled && token.scope.contains(account))
    });
    assert_eq!(explanation.is_valid(), accepted);
    (explanation.is_valid(), explanation.to_string())
}

fn token(claims: &Value) -> String {
    let key = EncodingKey::from_secret(testing::SECRET.as_bytes());
    jsonwebtoken::encode(&Header::default(), claims, &key).unwrap()
}

#[test]
fn valid_tokens_are_explained() {
    let claims = json!({"iss": "kazoo", "account_id": "reseller", "exp": NOW + 3660, "identity_sig": "x", "nbf": NOW - 5});
    let (valid, text) = explain(&token(&claims));
    assert!(valid, "{text}");
    for expected in [
        "  alg  HS256\n",
        "  account_id    reseller\n",
        "identity_sig  [hidden]",
        "issuer     ok      kazoo\n",
        "expiry     ok      ends 2027-01-15T09:01:00Z, in 1h 1m",
        "start      ok      starts 2027-01-15T07:59:55Z, 5s ago",
        "account    ok      reseller  Reseller (Reseller.example.com)",
        "it may see\n  reseller  Reseller (Reseller.example.com)\n  child  Child (child.example.com)\n  below-closed",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    let (_, text) = explain(&token(&json!({"iss": "kazoo", "account_id": "system", "exp": NOW})));
    assert!(text.ends_with("*  all accounts, and events without an account (superduper admin)\n"), "{text}");
}

#[test]
fn long_lists_of_accounts_are_truncated() {
    let verifier = verifier();
    let token = token(&json!({"iss": "kazoo", "account_id": "0", "exp": NOW}));
    for (count, expected) in [(20, "  19  a19 (r19)\n"), (22, "  19  a19 (r19)\n  and 2 more\n")] {
        let text: String = (0..count)
            .map(|id| {
                let parent = if id > 0 { "parent = \"0\"\n" } else { "" };
                format!("[[account]]\nid = \"{id}\"\nname = \"a{id:02}\"\nrealm = \"r{id}\"\n{parent}")
            })
            .collect();
        let accounts = Accounts::parse(&text).unwrap();
        let explanation = Explanation::of(&token, &verifier, &accounts, NOW).to_string();
        assert!(explanation.ends_with(expected), "{explanation}");
    }
}

#[test]
fn every_failed_check_is_reported() {
    let bad = token(&json!({"account_id": "closed", "exp": NOW - 60, "nbf": NOW + 60, "aud": "x"}));
    let (valid, text) = explain(&bad[..bad.len() - 4]);
    assert!(!valid);
    for expected in [
        "bad signature",
        "issuer     FAILED  issuer is not accepted: configured are kazoo\n",
        "token is expired",
        "token is not valid yet",
        "token is for another audience",
        "account is disabled",
        "the token is refused",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    let none = format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), URL_SAFE_NO_PAD.encode("{}"));
    let (_, text) = explain(&none);
    for expected in ["algorithm is not accepted", "not checked without a key", "no expiry", "no account"] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    assert!(explain("").1.contains("token is missing"));
    assert!(explain("a.b").1.contains("token is malformed"));
}

#[test]
fn the_issuer_and_its_accounts_are_explained() {
    let dir = testing::TempDir::new();
    dir.write("rsa.pem", testing::RSA_PUBLIC);
    let keys = Arc::new(Reloaded::open(dir.path()).unwrap());
    let listed = Issuer {
        iss: "https://idp".into(),
        keys: Some(keys),
        audience: Some("me".into()),
        scope: Arc::new(Scope::of(&["child".into()], false)),
        ..Issuer::kazoo(None, None)
    };
    let verifier = JwtVerifier::new(vec![Issuer::kazoo(Some(&Secret::new(testing::SECRET)), None), listed]);
    let key = EncodingKey::from_rsa_pem(testing::RSA_PRIVATE_PKCS1.as_bytes()).unwrap();
    let header = Header { kid: Some("rsa".into()), ..Header::new(jsonwebtoken::Algorithm::RS256) };
    for (iss, account, expected) in [
        ("https://idp", "child", "issuer     ok      https://idp\n"),
        ("https://idp", "child", "key        ok      RS256 with rsa.pem of https://idp\n"),
        ("https://idp", "child", "audience   ok      me\n"),
        ("https://idp", "reseller", "account    FAILED  issuer may not name this account\n"),
        ("kazoo", "child", "issuer     FAILED  issuer is not accepted: the key is one of https://idp\n"),
        ("https://other", "child", "issuer is not accepted: configured are kazoo, https://idp\n"),
    ] {
        let claims = json!({"iss": iss, "account_id": account, "exp": NOW, "aud": "me"});
        let token = jsonwebtoken::encode(&header, &claims, &key).unwrap();
        let (valid, text) = explain_with(&verifier, &token);
        assert!(text.contains(expected), "{expected}\n{text}");
        assert_eq!(valid, (iss, account) == ("https://idp", "child"));
        let (_, text) = explain_with(&verifier, &format!("{}AAAA", &token[..token.len() - 4]));
        if iss == "https://idp" {
            assert!(text.contains("issuer     -       https://idp, if it has signed it\n"), "{text}");
        }
    }
}

#[test]
fn output_contains_neither_control_characters_nor_the_token() {
    let claims = json!({
        "account_id": "\u{1b}[2J\u{9b}2J\u{202e}", "exp": u64::MAX, "a\u{7}": ["\u{1b}"], "long": "x".repeat(999)
    });
    let token = token(&claims);
    let (_, text) = explain(&token);
    assert!(text.chars().all(|character| character == '\n' || !character.is_control()), "{text:?}");
    assert!(!text.contains('\u{202e}') && text.contains('…'));
    assert!(token.split('.').all(|part| !text.contains(part)));
}
