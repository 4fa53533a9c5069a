//! Tokens.

use std::sync::LazyLock;

use auth_svc::{
    accounts::Accounts, claims::MAX_TIME, explain::Explanation, issuers::Issuer, jwt_verifier::JwtVerifier,
    token::Token,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use blackhole_common::config::Secret;
use ring::hmac;

const SECRET: &str = "a secret of the fuzz targets";
const NOW: u64 = 1_800_000_000;
static VERIFIER: LazyLock<JwtVerifier> =
    LazyLock::new(|| JwtVerifier::new(vec![Issuer::kazoo(Some(&Secret::new(SECRET)), None)]));
static ACCOUNTS: LazyLock<Accounts> = LazyLock::new(|| {
    Accounts::parse("[[account]]\nid = \"a\"\nname = \"a\"\nrealm = \"a.example.com\"\n").unwrap()
});

/// The input as a token, and as the claims of a token with a good signature. No refusal repeats any of it.
pub(crate) fn run(input: &[u8]) -> bool {
    if let Ok(text) = std::str::from_utf8(input) {
        let _ = Token::parse(text).map(|token| (token.algorithm(), token.key_id(), token.claims()));
        let _ = verify(text);
    }
    let signed =
        format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#), URL_SAFE_NO_PAD.encode(input));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), signed.as_bytes());
    verify(&format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag)))
}

fn verify(text: &str) -> bool {
    let verified = VERIFIER.verify_at(text, NOW);
    let explained = Explanation::of(text, &VERIFIER, &ACCOUNTS, NOW);
    match verified {
        Ok(token) => {
            assert!(!token.account_id.is_empty() && !token.token_id.is_empty());
            assert!((NOW - 30..=MAX_TIME).contains(&token.expires_at), "{token:?}");
            assert_eq!(explained.is_valid(), token.account_id == "a");
            true
        }
        Err(refusal) => {
            assert!(!explained.is_valid());
            assert!(text.len() < 24 || !refusal.to_string().contains(text), "{refusal}");
            false
        }
    }
}
