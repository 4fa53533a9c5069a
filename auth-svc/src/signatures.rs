//! Remembers which signatures are good and which are bad, so that a token that is asked about again costs a digest.
//!
//! Only that is remembered: whether this key has signed this token, which never changes. Expiry, claims and accounts are
//! checked each time. The key is part of what is remembered, so nothing outlives a key that is replaced under the same
//! id; and a key that is removed is not found in the first place.

use std::time::Duration;

use jsonwebtoken::Algorithm;
use moka::sync::Cache;
use ring::digest;

use crate::{keys::VerifyingKey, token::Token};

/// 7 MiB of good ones, and 3.5 of bad ones.
const MAX_GOOD: u64 = 20_000;
const MAX_BAD: u64 = 10_000;
/// The usual life of KAZOO's tokens.
const REMEMBERED_FOR: Duration = Duration::from_secs(60 * 60);

/// SHA-256 of key and token.
type Digest = [u8; 32];

/// Which signatures are good, and which are bad. In two places, because whoever sends bad ones can send any number of them,
/// and should not make the good ones be forgotten.
#[derive(Clone)]
pub struct Signatures {
    good: Cache<Digest, ()>,
    bad: Cache<Digest, ()>,
}

impl Default for Signatures {
    fn default() -> Signatures {
        let cache = |capacity| Cache::builder().max_capacity(capacity).time_to_live(REMEMBERED_FOR).build();
        Signatures { good: cache(MAX_GOOD), bad: cache(MAX_BAD) }
    }
}

/// Without the digests.
impl std::fmt::Debug for Signatures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signatures").finish_non_exhaustive()
    }
}

impl Signatures {
    /// Whether the token's signature was made with this key and algorithm.
    pub fn is_good(&self, key: &VerifyingKey, algorithm: Algorithm, token: &Token<'_>) -> bool {
        let digest = digest_of(key, token);
        if self.good.contains_key(&digest) {
            return true;
        }
        if self.bad.contains_key(&digest) {
            return false;
        }
        let is_good = key.verifies(algorithm, token.signed, token.signature);
        if is_good { &self.good } else { &self.bad }.insert(digest, ());
        is_good
    }
}

/// The algorithm is part of the token.
fn digest_of(key: &VerifyingKey, token: &Token<'_>) -> Digest {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(key.fingerprint());
    context.update(token.signed.as_bytes());
    context.update(b".");
    context.update(token.signature.as_bytes());
    let mut bytes = Digest::default();
    // SHA-256 has as many bytes.
    bytes.iter_mut().zip(context.finish().as_ref()).for_each(|(byte, digest)| *byte = *digest);
    bytes
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use jsonwebtoken::{EncodingKey, crypto};

    use super::*;
    use crate::testing;

    fn token(claims: &str, signature: Option<&str>) -> String {
        let signed = format!("{}.{claims}", URL_SAFE_NO_PAD.encode("{}"));
        let private = EncodingKey::from_rsa_pem(testing::RSA_PRIVATE_PKCS1.as_bytes()).unwrap();
        let right = crypto::sign(signed.as_bytes(), &private, Algorithm::RS256).unwrap();
        format!("{signed}.{}", signature.unwrap_or(&right))
    }

    #[test]
    fn good_and_bad_signatures_are_remembered_by_key_and_token() {
        let signatures = Signatures::default();
        let [key, other] = [testing::RSA_PUBLIC, testing::KAZOO_PUBLIC]
            .map(|pem| VerifyingKey::from_pem(pem.as_bytes()).unwrap());
        let (good, bad) = (token("e30", None), token("e30", Some("AAAA")));
        let count = || {
            signatures.good.run_pending_tasks();
            signatures.bad.run_pending_tasks();
            (signatures.good.entry_count(), signatures.bad.entry_count())
        };
        for (key, text, expected, counts) in [
            (&key, &good, true, (1, 0)),
            (&key, &good, true, (1, 0)),
            (&key, &bad, false, (1, 1)),
            (&key, &bad, false, (1, 1)),
            (&other, &good, false, (1, 2)),
            (&key, &good, true, (1, 2)),
        ] {
            let token = Token::parse(text).unwrap();
            assert_eq!(signatures.is_good(key, Algorithm::RS256, &token), expected);
            assert_eq!(count(), counts);
        }
    }

    #[test]
    fn any_number_of_bad_signatures_takes_bounded_memory_and_forgets_no_good_one() {
        let signatures = Signatures::default();
        let key = VerifyingKey::from_pem(testing::RSA_PUBLIC.as_bytes()).unwrap();
        let good = token("e30", None);
        assert!(signatures.is_good(&key, Algorithm::RS256, &Token::parse(&good).unwrap()));
        for number in 0..2 * MAX_BAD {
            // Too short to be computed.
            let bad = token_without_key(number);
            assert!(!signatures.is_good(&key, Algorithm::RS256, &Token::parse(&bad).unwrap()));
        }
        signatures.bad.run_pending_tasks();
        assert!(signatures.bad.entry_count() <= MAX_BAD);
        assert!(signatures.good.contains_key(&digest_of(&key, &Token::parse(&good).unwrap())));
    }

    fn token_without_key(number: u64) -> String {
        format!("{}.{}.AAAA", URL_SAFE_NO_PAD.encode("{}"), URL_SAFE_NO_PAD.encode(number.to_string()))
    }
}
