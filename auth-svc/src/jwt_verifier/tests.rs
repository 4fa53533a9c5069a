mod issuers;

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use blackhole_common::config::Secret;
use jsonwebtoken::{EncodingKey, Header};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    keys::Keys,
    reload::Reloaded,
    testing::{self, TempDir},
};

const NOW: u64 = 1_800_000_000;

struct Fixture {
    dir: TempDir,
    keys: Arc<Reloaded<Keys>>,
}

impl Fixture {
    fn new() -> Fixture {
        let dir = TempDir::new();
        dir.write("rsa.pem", testing::RSA_PUBLIC);
        dir.write("p256.pem", testing::P256_PUBLIC);
        dir.write("ed.pem", testing::ED25519_PUBLIC);
        let keys = Arc::new(Reloaded::open(dir.path()).unwrap());
        Fixture { dir, keys }
    }

    /// Verifiers with only the keys, only the secret, and both.
    fn verifiers(&self) -> [JwtVerifier; 3] {
        let secret = Secret::new(testing::SECRET);
        let keys = || Some(Arc::clone(&self.keys));
        [
            Issuer::kazoo(None, keys()),
            Issuer::kazoo(Some(&secret), None),
            Issuer::kazoo(Some(&secret), keys()),
        ]
        .map(|issuer| JwtVerifier::new(vec![issuer]))
    }

    fn verify(&self, token: &str) -> [Result<(), Refusal>; 3] {
        self.verifiers().map(|verifier| verifier.verify_at(token, NOW).map(drop))
    }
}

fn with_secret() -> JwtVerifier {
    JwtVerifier::new(vec![Issuer::kazoo(Some(&Secret::new(testing::SECRET)), None)])
}

fn valid_claims() -> Value {
    json!({"iss": "kazoo", "account_id": "child", "exp": NOW + 3600})
}

fn encoding_key(algorithm: Algorithm) -> EncodingKey {
    match algorithm {
        Algorithm::ES256 => EncodingKey::from_ec_pem(testing::P256_PRIVATE.as_bytes()).unwrap(),
        Algorithm::EdDSA => EncodingKey::from_ed_pem(testing::ED25519_PRIVATE.as_bytes()).unwrap(),
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => {
            EncodingKey::from_secret(testing::SECRET.as_bytes())
        }
        _ => EncodingKey::from_rsa_pem(testing::RSA_PRIVATE_PKCS1.as_bytes()).unwrap(),
    }
}

fn signed(algorithm: Algorithm, kid: Option<&str>, claims: &Value) -> String {
    let mut header = Header::new(algorithm);
    header.kid = kid.map(str::to_owned);
    jsonwebtoken::encode(&header, claims, &encoding_key(algorithm)).unwrap()
}

fn part(json: &Value) -> String {
    URL_SAFE_NO_PAD.encode(json.to_string())
}

#[test]
fn all_supported_algorithms_verify() {
    let fixture = Fixture::new();
    for (algorithm, kid) in [
        (Algorithm::RS256, "rsa"),
        (Algorithm::RS384, "rsa"),
        (Algorithm::RS512, "rsa"),
        (Algorithm::ES256, "p256"),
        (Algorithm::EdDSA, "ed"),
    ] {
        let token = signed(algorithm, Some(kid), &valid_claims());
        assert_eq!(fixture.verify(&token), [Ok(()), Err(Refusal::Algorithm), Ok(())], "{algorithm:?}");
    }
    for kid in [None, Some("rsa"), Some("whatever")] {
        let token = signed(Algorithm::HS256, kid, &valid_claims());
        assert_eq!(fixture.verify(&token), [Err(Refusal::Algorithm), Ok(()), Ok(())], "{kid:?}");
    }
}

#[test]
fn other_algorithms_are_refused_even_with_a_valid_signature() {
    let fixture = Fixture::new();
    for algorithm in [Algorithm::HS384, Algorithm::HS512, Algorithm::PS256, Algorithm::PS512] {
        let token = signed(algorithm, Some("rsa"), &valid_claims());
        assert_eq!(fixture.verify(&token), [Err(Refusal::Algorithm); 3], "{algorithm:?}");
    }
}

#[test]
fn alg_none_is_refused_in_any_spelling() {
    let fixture = Fixture::new();
    for name in ["none", "None", "NONE", "nOnE", "", "hs256", "RS256 "] {
        for kid in [json!(null), json!("rsa")] {
            let mut header = json!({"typ": "JWT", "alg": name});
            if !kid.is_null() {
                header["kid"] = kid;
            }
            for signature in ["", "AAAA"] {
                let token = format!("{}.{}.{signature}", part(&header), part(&valid_claims()));
                assert_eq!(fixture.verify(&token), [Err(Refusal::Algorithm); 3], "{name}");
            }
        }
    }
}

#[test]
fn a_public_key_is_not_used_as_hmac_secret() {
    let fixture = Fixture::new();
    let header = |kid| Header { kid: Some(kid), ..Header::new(Algorithm::HS256) };
    for (kid, pem) in
        [("rsa", testing::RSA_PUBLIC), ("p256", testing::P256_PUBLIC), ("ed", testing::ED25519_PUBLIC)]
    {
        for secret in [pem, pem.trim_end()] {
            let key = EncodingKey::from_secret(secret.as_bytes());
            let token = jsonwebtoken::encode(&header(kid.into()), &valid_claims(), &key).unwrap();
            let refused = [Err(Refusal::Algorithm), Err(Refusal::Signature), Err(Refusal::Signature)];
            assert_eq!(fixture.verify(&token), refused);
        }
    }
}

#[test]
fn the_key_determines_the_algorithm() {
    let fixture = Fixture::new();
    for (algorithm, kid) in [
        (Algorithm::RS256, "p256"),
        (Algorithm::RS256, "ed"),
        (Algorithm::ES256, "rsa"),
        (Algorithm::ES256, "ed"),
        (Algorithm::EdDSA, "rsa"),
        (Algorithm::EdDSA, "p256"),
    ] {
        let token = signed(algorithm, Some(kid), &valid_claims());
        let [keys, _, both] = fixture.verify(&token);
        assert_eq!((keys, both), (Err(Refusal::KeyMismatch), Err(Refusal::KeyMismatch)));
    }
}

#[test]
fn malicious_key_ids_are_unknown() {
    let fixture = Fixture::new();
    std::fs::create_dir(fixture.dir.path().join("sub")).unwrap();
    fixture.dir.write("sub/rsa.pem", testing::RSA_PUBLIC);
    let absolute = fixture.dir.path().join("rsa").display().to_string();
    for kid in ["../rsa", "./rsa", "sub/rsa", "rsa.pem", "rsa\0", "..", "", "rsa\n", "RSA", &absolute] {
        let token = signed(Algorithm::RS256, Some(kid), &valid_claims());
        let [keys, _, both] = fixture.verify(&token);
        assert_eq!((keys, both), (Err(Refusal::UnknownKey), Err(Refusal::UnknownKey)), "{kid:?}");
    }
    let token = signed(Algorithm::RS256, None, &valid_claims());
    assert_eq!(fixture.verify(&token)[0], Err(Refusal::NoKeyId));
    for kid in [json!(["rsa"]), json!({}), json!(1), json!(null)] {
        let header = part(&json!({"alg": "RS256", "kid": kid}));
        let token = format!("{header}.{}.AAAA", part(&valid_claims()));
        assert_eq!(fixture.verify(&token)[0], Err(Refusal::Malformed));
    }
}

#[test]
fn keys_in_the_header_are_ignored() {
    let fixture = Fixture::new();
    let mut header = Header::new(Algorithm::HS256);
    header.jku = Some("https://evil.example.com/keys".into());
    header.extras.insert("jwk", json!({"kty": "oct", "k": "YWFhYWFhYWFhYWFhYWFhYQ"}));
    let key = EncodingKey::from_secret(b"aaaaaaaaaaaaaaaa");
    let token = jsonwebtoken::encode(&header, &valid_claims(), &key).unwrap();
    let refused = [Err(Refusal::Algorithm), Err(Refusal::Signature), Err(Refusal::Signature)];
    assert_eq!(fixture.verify(&token), refused);
}

#[test]
fn changed_tokens_have_a_bad_signature() {
    let fixture = Fixture::new();
    for (algorithm, kid) in [(Algorithm::HS256, "rsa"), (Algorithm::ES256, "p256"), (Algorithm::EdDSA, "ed")]
    {
        let token = signed(algorithm, Some(kid), &valid_claims());
        let parts: Vec<&str> = token.split('.').collect();
        let mut claims = valid_claims();
        claims["account_id"] = json!("system");
        for forged in [
            format!("{}.{}.{}", parts[0], part(&claims), parts[2]),
            format!("{}.{}.", parts[0], parts[1]),
            format!("{}.{}.{}", parts[0], parts[1], &parts[2][..parts[2].len() - 4]),
            format!("{}.{}.{}=", parts[0], parts[1], parts[2]),
        ] {
            assert_eq!(fixture.verify(&forged)[2], Err(Refusal::Signature), "{algorithm:?}");
        }
    }
}

#[test]
fn the_signature_is_checked_before_the_claims() {
    let fixture = Fixture::new();
    let expired = json!({"iss": "kazoo", "account_id": "child", "exp": NOW - 31});
    let token = signed(Algorithm::RS256, Some("rsa"), &expired);
    assert_eq!(fixture.verify(&token)[0], Err(Refusal::Expired));
    let last = if token.ends_with("AAAA") { "BBBB" } else { "AAAA" };
    let forged = format!("{}{last}", &token[..token.len() - 4]);
    assert_eq!(fixture.verify(&forged)[0], Err(Refusal::Signature));
    let token = signed(Algorithm::RS256, Some("rsa"), &json!({"iss": "kazoo", "account_id": "child"}));
    assert_eq!(fixture.verify(&token)[0], Err(Refusal::NoExpiry));
}

#[test]
fn claims_are_parsed_only_after_the_signature() {
    let fixture = Fixture::new();
    let deep = format!(
        "{{\"account_id\":\"child\",\"exp\":{},\"a\":{}{}}}",
        NOW + 60,
        "[".repeat(99),
        "]".repeat(99)
    );
    for claims in [URL_SAFE_NO_PAD.encode(deep), "not base64url!".into(), part(&json!([]))] {
        let signed = format!("{}.{claims}", part(&json!({"alg": "RS256", "kid": "rsa"})));
        assert_eq!(fixture.verify(&format!("{signed}.AAAA"))[0], Err(Refusal::Signature));
        let signature =
            jsonwebtoken::crypto::sign(signed.as_bytes(), &encoding_key(Algorithm::RS256), Algorithm::RS256);
        assert_eq!(fixture.verify(&format!("{signed}.{}", signature.unwrap()))[0], Err(Refusal::Malformed));
    }
}

/// The first verification is remembered; what depends on time or files is not.
#[test]
fn a_remembered_signature_does_not_outlive_the_token_or_its_key() {
    let fixture = Fixture::new();
    let [verifier, ..] = fixture.verifiers();
    let token = signed(Algorithm::RS256, Some("rsa"), &valid_claims());
    let bad = format!("{}AAAA", &token[..token.len() - 4]);
    let late = NOW + 3600 + claims::LEEWAY_SECONDS + 1;
    for _ in 0..2 {
        verifier.verify_at(&token, NOW).unwrap();
        assert_eq!(verifier.verify_at(&bad, NOW), Err(Refusal::Signature));
        assert_eq!(verifier.verify_at(&token, late), Err(Refusal::Expired));
    }
    let reload = || fixture.keys.poll().and_then(|_| fixture.keys.poll()).unwrap().unwrap();
    // Another key under the same id, and back again.
    for (pem, expected) in [
        (testing::KAZOO_PUBLIC, Err(Refusal::Signature)),
        (testing::P256_PUBLIC, Err(Refusal::KeyMismatch)),
        (testing::RSA_PUBLIC, Ok(())),
    ] {
        fixture.dir.write("rsa.pem", pem);
        reload();
        assert_eq!(verifier.verify_at(&token, NOW).map(drop), expected);
        assert!(verifier.verify_at(&bad, NOW).is_err());
    }
    std::fs::remove_file(fixture.dir.path().join("rsa.pem")).unwrap();
    reload();
    assert_eq!(verifier.verify_at(&token, NOW), Err(Refusal::UnknownKey));
}

#[test]
fn kazoos_own_tokens_verify() {
    let dir = TempDir::new();
    dir.write("96247ed90b4bec8294c09ae6ece923a2.pem", testing::KAZOO_PRIVATE);
    let keys = Arc::new(Reloaded::open(dir.path()).unwrap());
    let verifier = JwtVerifier::new(vec![Issuer::kazoo(None, Some(keys))]);
    let ids = testing::KAZOO_TOKENS.lines().map(|token| verifier.verify_at(token, NOW).unwrap().token_id);
    let (user, device) = ("6b1c7e2f8a904d53b0e2a1f4c7d89e01", "d0d0beefd0d0beefd0d0beefd0d0beef");
    assert_eq!(ids.collect::<Vec<_>>(), [user, "4b31dd1d32ce6d249897c06332375d65", device]);
}

#[test]
fn tokens_that_are_too_long_are_refused() {
    let fixture = Fixture::new();
    let mut claims = valid_claims();
    claims["filler"] = json!("x".repeat(9000));
    let token = signed(Algorithm::HS256, None, &claims);
    assert_eq!(fixture.verify(&token), [Err(Refusal::TooLong); 3]);
}

#[tokio::test]
async fn the_service_verifies_at_the_current_time() {
    let verifier = with_secret();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let token = |exp: u64| {
        signed(Algorithm::HS256, None, &json!({"iss": "kazoo", "account_id": "child", "exp": exp}))
    };
    let verified = verifier.verify(&token(now + 60)).await.unwrap();
    assert_eq!((verified.account_id.as_str(), verified.expires_at), ("child", now + 60));
    let error = verifier.verify(&token(now - 60)).await.unwrap_err();
    assert!(matches!(error, Error::Refused(Refusal::Expired)), "{error}");
}

#[test]
fn keys_can_be_added_and_removed_without_a_restart() {
    let fixture = Fixture::new();
    let [verifier, ..] = fixture.verifiers();
    let token = signed(Algorithm::RS256, Some("new"), &valid_claims());
    assert_eq!(verifier.verify_at(&token, NOW).unwrap_err(), Refusal::UnknownKey);
    let file = fixture.dir.write("new.pem", testing::RSA_PRIVATE_PKCS1);
    let reload = || fixture.keys.poll().and_then(|_| fixture.keys.poll()).unwrap().unwrap();
    assert_eq!(reload().len(), 4);
    verifier.verify_at(&token, NOW).unwrap();
    std::fs::remove_file(file).unwrap();
    assert_eq!(reload().len(), 3);
    assert_eq!(verifier.verify_at(&token, NOW).unwrap_err(), Refusal::UnknownKey);
}

proptest! {
    #[test]
    fn random_signatures_do_not_verify(signature in prop::collection::vec(any::<u8>(), 0..40)) {
        let verifier = with_secret();
        let header = json!({"alg": "HS256"});
        let token = format!("{}.{}.{}", part(&header), part(&valid_claims()), URL_SAFE_NO_PAD.encode(signature));
        prop_assert_eq!(verifier.verify_at(&token, NOW), Err(Refusal::Signature));
    }

    #[test]
    fn changing_any_single_byte_invalidates_the_token(index in 0usize..200, byte in b'-'..=b'z') {
        let verifier = with_secret();
        let good = signed(Algorithm::HS256, None, &valid_claims());
        let mut bytes = good.clone().into_bytes();
        let index = index % bytes.len();
        bytes[index] = byte;
        if let Ok(changed) = String::from_utf8(bytes) {
            prop_assert_eq!(verifier.verify_at(&changed, NOW).is_ok(), changed == good);
        }
    }
}
