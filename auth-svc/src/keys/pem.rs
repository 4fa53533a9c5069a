//! Reads a public key from a PEM file, and determines the algorithms that it supports.

use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey,
    crypto::{self, rust_crypto::DEFAULT_PROVIDER},
};

/// RFC 7518, 3.3 requires at least 2048 bits, which is what KAZOO uses (`RSA_KEY_SIZE` in kazoo_auth.hrl). The `rsa`
/// crate verifies up to 4096 bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;
const RSA: &[Algorithm] = &[Algorithm::RS256, Algorithm::RS384, Algorithm::RS512];
const EC: &[Algorithm] = &[Algorithm::ES256];
const ED: &[Algorithm] = &[Algorithm::EdDSA];

/// A public key. Its type determines the algorithms that it verifies, whatever a token's header says.
#[derive(Clone, Debug)]
pub struct VerifyingKey {
    key: DecodingKey,
    algorithms: &'static [Algorithm],
    was_private: bool,
}

impl VerifyingKey {
    /// Reads an RSA key (PKCS#1, PKCS#8 or SPKI), or a P-256 or Ed25519 public key (SPKI). Of a private RSA
    /// key, such as KAZOO's own `private_key.pem`, only the public half is kept.
    ///
    /// # Errors
    /// What the file contains instead, on one line.
    pub fn from_pem(pem: &[u8]) -> Result<VerifyingKey, String> {
        if pem.windows(CERTIFICATE.len()).any(|window| window == CERTIFICATE) {
            return Err("is a certificate; extract its key with `openssl x509 -pubkey -noout`".into());
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
            // jsonwebtoken's verifier takes the first 32 bytes without checking the length.
            let complete = key.try_get_as_bytes().is_ok_and(|bytes| bytes.len() == 32);
            return match complete && (DEFAULT_PROVIDER.verifier_factory)(&Algorithm::EdDSA, &key).is_ok() {
                true => Ok(VerifyingKey { key, algorithms: ED, was_private: false }),
                false => Err("is not a valid Ed25519 key".into()),
            };
        }
        if EncodingKey::from_ec_pem(pem).is_ok() || EncodingKey::from_ed_pem(pem).is_ok() {
            return Err("is a private key; use its public key instead (`openssl pkey -pubout`)".into());
        }
        Err("is not a PEM file with an RSA, P-256 or Ed25519 public key".into())
    }

    /// jsonwebtoken stores the DER of a public or private key unparsed, but can verify only with a public key.
    fn rsa(key: &DecodingKey) -> Result<VerifyingKey, String> {
        let der = key.try_get_as_bytes().map_err(|error| error.to_string())?;
        let utilities = &DEFAULT_PROVIDER.key_utils;
        let (components, was_private) = match (utilities.rsa_pub_components_from_public_key)(der) {
            Ok(components) => (components, false),
            Err(_) => match (utilities.rsa_pub_components_from_private_key)(der) {
                Ok(components) => (components, true),
                Err(_) => return Err("is not a valid RSA key of at most 4096 bits".into()),
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

    /// Whether the file contained a private key.
    pub fn was_private(&self) -> bool {
        self.was_private
    }

    /// Whether `signature` (base64url) is a signature of `signed` by this key. Always false if the key does
    /// not support `algorithm`.
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
    fn all_forms_of_an_rsa_key_verify_the_same_signatures() {
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
            // The right key and message, but an unsupported algorithm.
            let signature = crypto::sign(message.as_bytes(), &private, Algorithm::PS256).unwrap();
            assert!(!key.verifies(Algorithm::PS256, message, &signature));
        }
    }

    #[test]
    fn errors_say_what_the_file_contains() {
        for (pem, expected) in [
            (testing::RSA_1024_PUBLIC, "an RSA key of 1024 bits"),
            (testing::RSA_2047_PUBLIC, "an RSA key of 2047 bits"),
            (testing::P384_PUBLIC, "other than P-256"),
            (testing::P256_PRIVATE, "a private key"),
            (testing::ED25519_PRIVATE, "a private key"),
            (testing::CERTIFICATE, "a certificate"),
            ("", "not a PEM file"),
            ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "not a PEM file"),
            // Ed25519 SPKI with 4 bytes instead of 32, on which jsonwebtoken's verifier would panic.
            ("-----BEGIN PUBLIC KEY-----\nMA4wBQYDK2VwAwUAAQIDBA==\n-----END PUBLIC KEY-----\n", "Ed25519"),
        ] {
            let reason = VerifyingKey::from_pem(pem.as_bytes()).unwrap_err();
            assert!(reason.contains(expected), "{reason} instead of {expected}");
            assert!(!reason.contains('\n'));
        }
    }

    #[test]
    fn curve_keys_support_only_their_algorithm() {
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
