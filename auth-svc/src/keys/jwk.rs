//! Reads the public keys of a JWK Set (RFC 7517), which an issuer publishes.
//!
//! Whoever wrote the document decides which keys count, and how large they are, and nothing else. A key that is not usable
//! does not affect the others. Of several keys with the same id each may have signed a token.

use std::collections::HashMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::VerifyingKey;

/// Issuers publish two or three keys. A document with more of them is refused.
pub const MAX_KEYS: usize = 100;
/// Keys with the same id.
pub const MAX_KEYS_PER_ID: usize = 4;
/// Longer ids are not kept.
pub const MAX_ID_BYTES: usize = 256;

/// The keys of a document.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    by_id: HashMap<String, Vec<VerifyingKey>>,
    unusable: Vec<String>,
}

#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

/// The members that only a private or a symmetric key has.
#[derive(Deserialize)]
struct Secrets {
    d: Option<IgnoredAny>,
    k: Option<IgnoredAny>,
}

impl KeySet {
    /// Reads a document.
    ///
    /// # Errors
    /// If it is none, or has too many keys. The reason does not repeat any of it.
    pub fn parse(json: &[u8]) -> Result<KeySet, String> {
        let json = std::str::from_utf8(json).map_err(|_| "it is not a JWK Set")?;
        let document: Document<'_> = serde_json::from_str(json).map_err(|_| "it is not a JWK Set")?;
        if document.keys.len() > MAX_KEYS {
            return Err(format!("it has {} keys; at most {MAX_KEYS} are read", document.keys.len()));
        }
        let mut set = KeySet::default();
        for (index, json) in document.keys.into_iter().enumerate() {
            match key(json.get()) {
                Ok((id, key)) => {
                    let keys = set.by_id.entry(id).or_default();
                    if keys.len() < MAX_KEYS_PER_ID {
                        keys.push(key);
                    } else {
                        set.unusable.push(format!("key {index}: too many keys have the same id"));
                    }
                }
                Err(reason) => set.unusable.push(format!("key {index}: {reason}")),
            }
        }
        Ok(set)
    }

    /// The keys with this id.
    pub fn get(&self, id: &str) -> &[VerifyingKey] {
        self.by_id.get(id).map(Vec::as_slice).unwrap_or_default()
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.by_id.values().map(Vec::len).sum()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Why keys are not used, each with its place in the document.
    pub fn unusable(&self) -> &[String] {
        &self.unusable
    }

    /// All keys with their ids.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &VerifyingKey)> {
        self.by_id.iter().flat_map(|(id, keys)| keys.iter().map(|key| (id.as_str(), key)))
    }

    /// Whether a token that one of them verifies is verified by the other.
    pub fn is_same(&self, other: &KeySet) -> bool {
        let identities = |set: &KeySet| {
            let key = |(id, key): (&str, &VerifyingKey)| {
                (id.to_owned(), key.fingerprint().to_vec(), format!("{:?}", key.algorithms()))
            };
            let mut all: Vec<_> = set.iter().map(key).collect();
            all.sort();
            all
        };
        identities(self) == identities(other)
    }
}

fn key(json: &str) -> Result<(String, VerifyingKey), String> {
    let secrets: Secrets = serde_json::from_str(json).map_err(|_| "is no JSON object")?;
    if secrets.d.is_some() || secrets.k.is_some() {
        return Err("is not a public key: everybody can sign with it".into());
    }
    let jwk: Jwk = serde_json::from_str(json).map_err(|_| "is not an RSA, EC or Ed25519 key")?;
    let common = jwk.common;
    if common.public_key_use.is_some_and(|usage| usage != PublicKeyUse::Signature)
        || common.key_operations.is_some_and(|all| !all.contains(&KeyOperations::Verify))
    {
        return Err("is not for signatures".into());
    }
    let id = common.key_id.filter(|id| !id.is_empty() && id.len() <= MAX_ID_BYTES);
    let id = id.ok_or("has no kid, or a very long one")?;
    let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| "is not base64url");
    let key = match jwk.algorithm {
        AlgorithmParameters::RSA(rsa) => VerifyingKey::from_components(bytes(&rsa.n)?, bytes(&rsa.e)?)?,
        AlgorithmParameters::EllipticCurve(ec) => {
            let key = VerifyingKey::from_coordinates(&bytes(&ec.x)?, &bytes(&ec.y)?)?;
            let expected = match ec.curve {
                EllipticCurve::P256 => Algorithm::ES256,
                EllipticCurve::P384 => Algorithm::ES384,
                _ => return Err("is on another curve than P-256 and P-384".into()),
            };
            key.only(expected).ok_or("is on another curve than it says")?
        }
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            VerifyingKey::ed25519(&bytes(&pair.x)?)?
        }
        _ => return Err("is not an RSA, EC or Ed25519 key".into()),
    };
    let Some(algorithm) = common.key_algorithm else { return Ok((id, key)) };
    let algorithm = Algorithm::try_from(algorithm).ok();
    let key = algorithm.and_then(|algorithm| key.only(algorithm));
    Ok((id, key.ok_or("has an alg that does not fit it")?))
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, crypto};
    use serde_json::{Value, json};

    use super::*;
    use crate::testing;

    fn public(pem: &str, algorithm: Algorithm) -> Value {
        let bytes = pem.as_bytes();
        let key = match algorithm {
            Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_pem(bytes),
            Algorithm::EdDSA => EncodingKey::from_ed_pem(bytes),
            _ => EncodingKey::from_rsa_pem(bytes),
        };
        let mut jwk =
            serde_json::to_value(Jwk::from_encoding_key(&key.unwrap(), algorithm).unwrap()).unwrap();
        jwk["kid"] = "1".into();
        jwk
    }

    fn without(mut jwk: Value, member: &str) -> Value {
        jwk.as_object_mut().unwrap().remove(member);
        jwk
    }

    fn with(mut jwk: Value, member: &str, value: Value) -> Value {
        jwk[member] = value;
        jwk
    }

    fn parse(keys: &[Value]) -> KeySet {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
    }

    const KEYS: [(&str, Algorithm); 4] = [
        (testing::RSA_PRIVATE_PKCS1, Algorithm::PS384),
        (testing::P256_PRIVATE, Algorithm::ES256),
        (testing::P384_PRIVATE, Algorithm::ES384),
        (testing::ED25519_PRIVATE, Algorithm::EdDSA),
    ];

    #[test]
    fn each_kind_of_key_verifies_what_it_has_signed() {
        for (pem, algorithm) in KEYS {
            let set = parse(&[without(public(pem, algorithm), "alg")]);
            let [key] = set.get("1") else { panic!("{set:?}") };
            let bytes = pem.as_bytes();
            let private = match algorithm {
                Algorithm::PS384 => EncodingKey::from_rsa_pem(bytes),
                Algorithm::EdDSA => EncodingKey::from_ed_pem(bytes),
                _ => EncodingKey::from_ec_pem(bytes),
            };
            let signature = crypto::sign(b"signed", &private.unwrap(), algorithm).unwrap();
            assert!(key.verifies(algorithm, "signed", &signature), "{algorithm:?}");
            assert!(!key.verifies(algorithm, "other", &signature));
            assert!(!key.verifies(Algorithm::HS256, "signed", &signature));
        }
    }

    #[test]
    fn alg_limits_a_key_to_one_algorithm() {
        let set = parse(&[public(testing::RSA_PRIVATE_PKCS1, Algorithm::RS256)]);
        assert_eq!(set.get("1")[0].algorithms(), [Algorithm::RS256]);
    }

    #[test]
    fn keys_that_are_not_usable_do_not_affect_the_others() {
        let rsa = || without(public(testing::RSA_PRIVATE_PKCS1, Algorithm::RS256), "alg");
        let ec = || without(public(testing::P256_PRIVATE, Algorithm::ES256), "alg");
        let ed = || without(public(testing::ED25519_PRIVATE, Algorithm::EdDSA), "alg");
        let good = with(rsa(), "kid", "good".into());
        let short = ec()["x"].as_str().unwrap()[..40].to_owned();
        for (bad, reason) in [
            (json!(5), "is no JSON object"),
            (json!({}), "has no kid"),
            (json!({"kid": "1"}), "is not an RSA, EC or Ed25519 key"),
            (json!({"kty": "oct", "kid": "1", "k": "c2VjcmV0"}), "is not a public key"),
            (json!({"kty": "oct", "kid": "1"}), "is not an RSA, EC or Ed25519 key"),
            (with(rsa(), "d", "AQAB".into()), "is not a public key"),
            (with(rsa(), "use", "enc".into()), "is not for signatures"),
            (with(rsa(), "key_ops", json!(["encrypt"])), "is not for signatures"),
            (with(rsa(), "alg", "HS256".into()), "has an alg that does not fit it"),
            (with(rsa(), "alg", "ES256".into()), "has an alg that does not fit it"),
            (with(rsa(), "alg", "none".into()), "has an alg that does not fit it"),
            (with(rsa(), "e", "AQ".into()), "is not a valid RSA key"),
            (with(rsa(), "e", "".into()), "is not a valid RSA key"),
            (with(rsa(), "e", "AAAB".into()), "is not a valid RSA key"),
            (with(rsa(), "n", "AQAB".into()), "is an RSA key of 17 bits"),
            (with(rsa(), "n", "".into()), "is an RSA key of 0 bits"),
            (with(rsa(), "n", "A".repeat(9000).into()), "is an RSA key of"),
            (with(rsa(), "n", "!".into()), "is not base64url"),
            (without(rsa(), "kid"), "has no kid"),
            (with(rsa(), "kid", "x".repeat(257).into()), "has no kid"),
            (with(ec(), "x", short.into()), "is not a valid elliptic curve key"),
            (with(ec(), "x", ec()["y"].clone()), "is an elliptic curve key other than"),
            (with(ec(), "crv", "P-384".into()), "is on another curve than it says"),
            (with(ec(), "crv", "P-521".into()), "is on another curve than P-256"),
            (with(ed(), "x", "AQAB".into()), "is not a valid Ed25519 key"),
        ] {
            let set = parse(&[bad.clone(), good.clone()]);
            assert_eq!((set.len(), set.get("1").len(), set.get("good").len()), (1, 0, 1), "{bad}");
            let [text] = set.unusable() else { panic!("{bad}") };
            assert!(text.starts_with("key 0: ") && text.contains(reason), "{text} instead of {reason}");
        }
    }

    #[test]
    fn keys_of_the_same_id_all_count_up_to_a_limit() {
        let [rsa, ec] = [KEYS[0], KEYS[1]].map(|(pem, algorithm)| public(pem, algorithm));
        assert_eq!(parse(&[rsa.clone(), ec]).get("1").len(), 2);
        let set = parse(&vec![rsa.clone(); 6]);
        assert_eq!((set.len(), set.unusable().len()), (MAX_KEYS_PER_ID, 2));
        let many = json!({ "keys": vec![rsa; MAX_KEYS + 1] });
        assert!(KeySet::parse(many.to_string().as_bytes()).unwrap_err().contains("has 101 keys"));
    }

    #[test]
    fn other_documents_are_refused_without_repeating_them() {
        let deep = format!("{{\"keys\":[{}{}]}}", "[".repeat(100_000), "]".repeat(100_000));
        for json in ["", "{}", "[]", "{\"keys\":{}}", "{\"keys\":null}", "<html>", "{\"keys\":[]}x"] {
            assert_eq!(KeySet::parse(json.as_bytes()).unwrap_err(), "it is not a JWK Set");
        }
        let _ = KeySet::parse(deep.as_bytes());
        assert!(KeySet::parse(b"{\"keys\":[]}").unwrap().is_empty());
        assert!(KeySet::parse(b"\xff").is_err());
    }

    #[test]
    fn sets_are_the_same_in_any_order() {
        let [a, b] = [KEYS[0], KEYS[1]].map(|(pem, algorithm)| public(pem, algorithm));
        let other = with(b.clone(), "kid", "2".into());
        assert!(parse(&[a.clone(), b.clone()]).is_same(&parse(&[b.clone(), a.clone()])));
        assert!(!parse(&[a.clone(), b]).is_same(&parse(&[a.clone(), other])));
        assert!(!parse(std::slice::from_ref(&a)).is_same(&parse(&[without(a, "alg")])));
    }
}
