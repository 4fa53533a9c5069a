//! One key from a PEM file, with the algorithms that it is good for.

use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey,
    crypto::{self, rust_crypto::DEFAULT_PROVIDER},
};

/// RFC 7518, 3.3 demands 2048 bits at least, which is what KAZOO makes (`RSA_KEY_SIZE` in kazoo_auth.hrl). More
/// than 4096 is beyond what the `rsa` crate verifies.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;
const RSA: &[Algorithm] = &[Algorithm::RS256, Algorithm::RS384, Algorithm::RS512];
const EC: &[Algorithm] = &[Algorithm::ES256];
const ED: &[Algorithm] = &[Algorithm::EdDSA];

/// A public key. What it is decides which algorithms it verifies, whatever a token's header says.
#[derive(Clone, Debug)]
pub struct VerifyingKey {
    key: DecodingKey,
    algorithms: &'static [Algorithm],
    was_private: bool,
}

impl VerifyingKey {
    /// Reads an RSA key (PKCS#1 or SPKI; of a private one, such as KAZOO's own `private_key.pem`, the public half
    /// is taken), a P-256 or an Ed25519 public key (SPKI).
    ///
    /// # Errors
    /// What the file is instead, in one line.
    pub fn from_pem(pem: &[u8]) -> Result<VerifyingKey, String> {
        if pem.windows(CERTIFICATE.len()).any(|window| window == CERTIFICATE) {
            return Err("is a certificate; take its key out with `openssl x509 -pubkey -noout`".into());
        }
        if let Ok(key) = DecodingKey::from_rsa_pem(pem) {
            return VerifyingKey::rsa(&key);
        }
        if let Ok(key) = DecodingKey::from_ec_pem(pem) {
            return match (DEFAULT_PROVIDER.verifier_factory)(&Algorithm::ES256, &key) {
                Ok(_) => Ok(VerifyingKey { key, algorithms: EC, was_private: false }),
                Err(_) => Err("is an elliptic curve key other than P-256".into()),
            };
        }
        if let Ok(key) = DecodingKey::from_ed_pem(pem) {
            // The verifier of jsonwebtoken takes the first 32 bytes without looking whether they are there.
            let complete = key.try_get_as_bytes().is_ok_and(|bytes| bytes.len() == 32);
            return match complete && (DEFAULT_PROVIDER.verifier_factory)(&Algorithm::EdDSA, &key).is_ok() {
                true => Ok(VerifyingKey { key, algorithms: ED, was_private: false }),
                false => Err("is no valid Ed25519 key".into()),
            };
        }
        if EncodingKey::from_ec_pem(pem).is_ok() || EncodingKey::from_ed_pem(pem).is_ok() {
            return Err("is a private key; put its public half here (`openssl pkey -pubout`)".into());
        }
        Err("is no PEM file with an RSA, P-256 or Ed25519 public key".into())
    }

    /// jsonwebtoken keeps the DER of either half without looking: only a public key verifies.
    fn rsa(key: &DecodingKey) -> Result<VerifyingKey, String> {
        let der = key.try_get_as_bytes().map_err(|error| error.to_string())?;
        let utilities = &DEFAULT_PROVIDER.key_utils;
        let (components, was_private) = match (utilities.rsa_pub_components_from_public_key)(der) {
            Ok(components) => (components, false),
            Err(_) => match (utilities.rsa_pub_components_from_private_key)(der) {
                Ok(components) => (components, true),
                Err(_) => return Err("is no valid RSA key of 4096 bits or less".into()),
            },
        };
        let (modulus, exponent) = components;
        let leading = modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
        let bits = modulus.len() * 8 - leading;
        if !RSA_BITS.contains(&bits) {
            return Err(format!("is an RSA key of {bits} bits; 2048 to 4096 are accepted"));
        }
        let key = DecodingKey::from_rsa_raw_components(&modulus, &exponent);
        Ok(VerifyingKey { key, algorithms: RSA, was_private })
    }

    /// The algorithms that this key verifies.
    pub fn algorithms(&self) -> &'static [Algorithm] {
        self.algorithms
    }

    /// Whether the file held the private half too.
    pub fn was_private(&self) -> bool {
        self.was_private
    }

    /// Whether `signature` (base64url) is this key's over `signed`, by one of its own algorithms.
    pub fn verifies(&self, algorithm: Algorithm, signed: &str, signature: &str) -> bool {
        self.algorithms.contains(&algorithm)
            && crypto::verify(signature, signed.as_bytes(), &self.key, algorithm).unwrap_or(false)
    }
}

const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn every_form_of_an_rsa_key_is_the_same_key() {
        let message = "signed";
        let private = EncodingKey::from_rsa_pem(testing::RSA_PRIVATE_PKCS1.as_bytes()).unwrap();
        for (pem, was_private) in [
            (testing::RSA_PUBLIC, false),
            (testing::RSA_PUBLIC_PKCS1, false),
            (testing::RSA_PRIVATE_PKCS1, true),
            (testing::RSA_PRIVATE_PKCS8, true),
        ] {
            let key = VerifyingKey::from_pem(pem.as_bytes()).unwrap();
            assert_eq!(key.was_private(), was_private);
            assert_eq!(key.algorithms(), RSA);
            for algorithm in [Algorithm::RS256, Algorithm::RS384, Algorithm::RS512] {
                let signature = crypto::sign(message.as_bytes(), &private, algorithm).unwrap();
                assert!(key.verifies(algorithm, message, &signature));
                assert!(!key.verifies(algorithm, "other", &signature));
                assert!(!key.verifies(algorithm, message, "AAAA"));
                assert!(!key.verifies(algorithm, message, "not base64url!"));
            }
            // Right key and message, but an algorithm that is not this key's.
            let signature = crypto::sign(message.as_bytes(), &private, Algorithm::PS256).unwrap();
            assert!(!key.verifies(Algorithm::PS256, message, &signature));
        }
    }

    #[test]
    fn what_is_no_usable_key_says_what_it_is() {
        for (pem, expected) in [
            (testing::RSA_1024_PUBLIC, "an RSA key of 1024 bits"),
            (testing::P384_PUBLIC, "other than P-256"),
            (testing::P256_PRIVATE, "a private key"),
            (testing::ED25519_PRIVATE, "a private key"),
            (testing::CERTIFICATE, "a certificate"),
            ("", "no PEM file"),
            ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no PEM file"),
            // SPKI of Ed25519 with 4 bytes instead of 32: jsonwebtoken's verifier would panic on it.
            ("-----BEGIN PUBLIC KEY-----\nMA4wBQYDK2VwAwUAAQIDBA==\n-----END PUBLIC KEY-----\n", "Ed25519"),
        ] {
            let reason = VerifyingKey::from_pem(pem.as_bytes()).unwrap_err();
            assert!(reason.contains(expected), "{reason} instead of {expected}");
            assert!(!reason.contains('\n'));
        }
    }

    #[test]
    fn curve_keys_are_pinned_to_their_algorithm() {
        for (pem, private, algorithm) in [
            (
                testing::P256_PUBLIC,
                EncodingKey::from_ec_pem(testing::P256_PRIVATE.as_bytes()).unwrap(),
                Algorithm::ES256,
            ),
            (
                testing::ED25519_PUBLIC,
                EncodingKey::from_ed_pem(testing::ED25519_PRIVATE.as_bytes()).unwrap(),
                Algorithm::EdDSA,
            ),
        ] {
            let key = VerifyingKey::from_pem(pem.as_bytes()).unwrap();
            let signature = crypto::sign(b"signed", &private, algorithm).unwrap();
            assert!(key.verifies(algorithm, "signed", &signature));
            for other in [Algorithm::HS256, Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
                assert_eq!(key.verifies(other, "signed", &signature), other == algorithm);
            }
        }
    }
}
