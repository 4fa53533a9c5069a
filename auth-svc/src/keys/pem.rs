//! Reads a public key from a PEM file, determines the algorithms that it supports, and verifies with it.
//!
//! jsonwebtoken reads the files; ring verifies, seven times faster than the `rsa` crate that jsonwebtoken would use.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, crypto::rust_crypto::DEFAULT_PROVIDER};
use ring::{
    digest,
    signature::{self, RsaPublicKeyComponents, UnparsedPublicKey},
};

/// RFC 7518, 3.3 requires at least 2048 bits, which is what KAZOO uses (`RSA_KEY_SIZE` in kazoo_auth.hrl). The `rsa`
/// crate, which reads the key, accepts up to 4096 bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;
const RSA: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];
const P256: &[Algorithm] = &[Algorithm::ES256];
const P384: &[Algorithm] = &[Algorithm::ES384];
const ED: &[Algorithm] = &[Algorithm::EdDSA];

/// The algorithms that public keys verify. None of them has a secret.
pub const ASYMMETRIC: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// A public key. Its type determines the algorithms that it verifies, whatever a token's header says.
#[derive(Clone, Debug)]
pub struct VerifyingKey {
    key: PublicKey,
    algorithms: &'static [Algorithm],
    fingerprint: digest::Digest,
    was_private: bool,
}

#[derive(Clone, Debug)]
enum PublicKey {
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    Curve(UnparsedPublicKey<Vec<u8>>),
}

impl VerifyingKey {
    /// Reads an RSA key (PKCS#1, PKCS#8 or SPKI), or a P-256, P-384 or Ed25519 public key (SPKI). Of a
    /// private RSA key, such as KAZOO's own `private_key.pem`, only the public half is kept.
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
            let Ok(point @ [UNCOMPRESSED, ..]) = key.try_get_as_bytes() else {
                return Err(
                    "is a compressed key; `openssl ec -pubin -conv_form uncompressed` converts it".into()
                );
            };
            return VerifyingKey::ec(&key, point);
        }
        if let Ok(key) = DecodingKey::from_ed_pem(pem) {
            return VerifyingKey::ed25519(key.try_get_as_bytes().unwrap_or_default());
        }
        if EncodingKey::from_ec_pem(pem).is_ok() || EncodingKey::from_ed_pem(pem).is_ok() {
            return Err("is a private key; use its public key instead (`openssl pkey -pubout`)".into());
        }
        Err("is not a PEM file with an RSA, P-256, P-384 or Ed25519 public key".into())
    }

    /// An elliptic curve key with this uncompressed point.
    fn ec(key: &DecodingKey, point: &[u8]) -> Result<VerifyingKey, String> {
        let is_of = |algorithm| (DEFAULT_PROVIDER.verifier_factory)(&algorithm, key).is_ok();
        match point.len() {
            P256_POINT if is_of(Algorithm::ES256) => {
                Ok(VerifyingKey::curve(&signature::ECDSA_P256_SHA256_FIXED, P256, point))
            }
            P384_POINT if is_of(Algorithm::ES384) => {
                Ok(VerifyingKey::curve(&signature::ECDSA_P384_SHA384_FIXED, P384, point))
            }
            _ => Err("is an elliptic curve key other than P-256 and P-384".into()),
        }
    }

    /// An elliptic curve key with these coordinates.
    ///
    /// # Errors
    /// If it is no point of P-256 or P-384.
    pub(super) fn from_coordinates(x: &[u8], y: &[u8]) -> Result<VerifyingKey, String> {
        let key = DecodingKey::from_ec_der(&[&[UNCOMPRESSED], x, y].concat());
        // A coordinate that is too short must not be made up for by the other.
        match x.len() == y.len() {
            true => VerifyingKey::ec(&key, key.try_get_as_bytes().unwrap_or_default()),
            false => Err("is not a valid elliptic curve key".into()),
        }
    }

    /// An Ed25519 key with these bytes.
    ///
    /// # Errors
    /// If it is none.
    pub(super) fn ed25519(bytes: &[u8]) -> Result<VerifyingKey, String> {
        // Of any other number of bytes some would not count, and jsonwebtoken's verifier panics.
        let is_key = bytes.len() == ED25519_BYTES
            && (DEFAULT_PROVIDER.verifier_factory)(&Algorithm::EdDSA, &DecodingKey::from_ed_der(bytes))
                .is_ok();
        match is_key {
            true => Ok(VerifyingKey::curve(&signature::ED25519, ED, bytes)),
            false => Err("is not a valid Ed25519 key".into()),
        }
    }

    fn curve(
        algorithm: &'static dyn signature::VerificationAlgorithm,
        algorithms: &'static [Algorithm],
        bytes: &[u8],
    ) -> VerifyingKey {
        let key = PublicKey::Curve(UnparsedPublicKey::new(algorithm, bytes.to_vec()));
        VerifyingKey { key, algorithms, fingerprint: fingerprint(&[bytes]), was_private: false }
    }

    /// jsonwebtoken stores the DER of a public or private key unparsed.
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
        Ok(VerifyingKey { was_private, ..VerifyingKey::from_components(modulus, exponent)? })
    }

    /// An RSA key with this modulus and exponent, big-endian.
    ///
    /// # Errors
    /// If it is none, or too small or large.
    pub(super) fn from_components(modulus: Vec<u8>, exponent: Vec<u8>) -> Result<VerifyingKey, String> {
        let leading = modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
        let bits = (modulus.len() * 8).saturating_sub(leading);
        if !RSA_BITS.contains(&bits) {
            return Err(format!("is an RSA key of {bits} bits; 2048 to 4096 are accepted"));
        }
        // ring verifies with these, and with nothing else: KAZOO's exponent is 2049. With 1, anybody could sign.
        let is_odd = |number: &[u8]| number.last().is_some_and(|byte| byte % 2 == 1);
        let is_exponent = is_odd(&exponent) && exponent.first() != Some(&0) && exponent.as_slice() != [1];
        if !is_odd(&modulus) || modulus.first() == Some(&0) || !is_exponent || exponent.len() > EXPONENT_BYTES
        {
            return Err("is not a valid RSA key of at most 4096 bits".into());
        }
        let fingerprint = fingerprint(&[&modulus, &exponent]);
        let key = PublicKey::Rsa(RsaPublicKeyComponents { n: modulus, e: exponent });
        Ok(VerifyingKey { key, algorithms: RSA, fingerprint, was_private: false })
    }

    /// The same key for this algorithm only. `None` if it does not support it.
    pub(super) fn only(self, algorithm: Algorithm) -> Option<VerifyingKey> {
        let index = self.algorithms.iter().position(|own| *own == algorithm)?;
        Some(VerifyingKey { algorithms: self.algorithms.get(index..=index)?, ..self })
    }

    /// The algorithms that this key verifies.
    pub fn algorithms(&self) -> &'static [Algorithm] {
        self.algorithms
    }

    /// Whether the file contained a private key.
    pub fn was_private(&self) -> bool {
        self.was_private
    }

    /// Identifies the key.
    pub fn fingerprint(&self) -> &[u8] {
        self.fingerprint.as_ref()
    }

    /// Whether `signature` (base64url) is a signature of `signed` by this key. Always false if the key does
    /// not support `algorithm`.
    pub fn verifies(&self, algorithm: Algorithm, signed: &str, signature: &str) -> bool {
        if !self.algorithms.contains(&algorithm) {
            return false;
        }
        let Ok(signature) = URL_SAFE_NO_PAD.decode(signature) else { return false };
        let verified = match &self.key {
            PublicKey::Curve(key) => key.verify(signed.as_bytes(), &signature),
            PublicKey::Rsa(key) => {
                let parameters = match algorithm {
                    Algorithm::RS256 => &signature::RSA_PKCS1_2048_8192_SHA256,
                    Algorithm::RS384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                    Algorithm::RS512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                    Algorithm::PS256 => &signature::RSA_PSS_2048_8192_SHA256,
                    Algorithm::PS384 => &signature::RSA_PSS_2048_8192_SHA384,
                    Algorithm::PS512 => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => return false,
                };
                key.verify(parameters, signed.as_bytes(), &signature)
            }
        };
        verified.is_ok()
    }
}

/// SHA-256 of a public key's parts, each with its length.
fn fingerprint(parts: &[&[u8]]) -> digest::Digest {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&part.len().to_be_bytes());
        context.update(part);
    }
    context.finish()
}

/// The first byte of a point with both coordinates.
const UNCOMPRESSED: u8 = 4;
/// The length of an uncompressed point.
const P256_POINT: usize = 65;
const P384_POINT: usize = 97;
const ED25519_BYTES: usize = 32;
/// ring takes exponents of up to 33 bits.
const EXPONENT_BYTES: usize = 5;
const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE";

#[cfg(test)]
mod tests {
    use jsonwebtoken::crypto;

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
            for &algorithm in RSA {
                let signature = crypto::sign(message.as_bytes(), &private, algorithm).unwrap();
                assert!(key.verifies(algorithm, message, &signature));
                assert!(!key.verifies(algorithm, "other", &signature));
                assert!(!key.verifies(algorithm, message, "AAAA"));
                assert!(!key.verifies(algorithm, message, "not base64url!"));
            }
            // The right key and message, but another algorithm, or one that the key is not for.
            let signature = crypto::sign(message.as_bytes(), &private, Algorithm::PS256).unwrap();
            assert!(!key.verifies(Algorithm::PS384, message, &signature));
            assert!(!key.verifies(Algorithm::RS256, message, &signature));
            let only = key.clone().only(Algorithm::RS256).unwrap();
            assert_eq!(only.algorithms(), [Algorithm::RS256]);
            assert!(!only.verifies(Algorithm::PS256, message, &signature));
            assert!(key.only(Algorithm::ES256).is_none());
        }
    }

    /// KAZOO makes its keys with the exponent 2049.
    #[test]
    fn the_exponent_need_not_be_65537() {
        for (private, public) in [
            (testing::KAZOO_PRIVATE, testing::KAZOO_PUBLIC),
            (testing::RSA_4096_PRIVATE, testing::RSA_4096_PUBLIC),
        ] {
            let key = VerifyingKey::from_pem(public.as_bytes()).unwrap();
            let private = EncodingKey::from_rsa_pem(private.as_bytes()).unwrap();
            for algorithm in [Algorithm::RS256, Algorithm::RS384, Algorithm::RS512] {
                let signature = crypto::sign(b"signed", &private, algorithm).unwrap();
                assert!(key.verifies(algorithm, "signed", &signature));
                assert!(!key.verifies(algorithm, "other", &signature));
            }
        }
    }

    #[test]
    fn keys_have_different_fingerprints() {
        let pems =
            [testing::RSA_PUBLIC, testing::KAZOO_PUBLIC, testing::P256_PUBLIC, testing::ED25519_PUBLIC];
        let keys = pems.map(|pem| VerifyingKey::from_pem(pem.as_bytes()).unwrap());
        for (number, key) in keys.iter().enumerate() {
            assert_eq!(keys.iter().position(|other| other.fingerprint() == key.fingerprint()), Some(number));
        }
        let again = VerifyingKey::from_pem(testing::RSA_PRIVATE_PKCS1.as_bytes()).unwrap();
        assert_eq!(keys[0].fingerprint(), again.fingerprint());
    }

    #[test]
    fn errors_say_what_the_file_contains() {
        for (pem, expected) in [
            (testing::RSA_1024_PUBLIC, "an RSA key of 1024 bits"),
            (testing::RSA_2047_PUBLIC, "an RSA key of 2047 bits"),
            (testing::RSA_EVEN_PUBLIC, "not a valid RSA key"),
            (testing::P521_PUBLIC, "other than P-256 and P-384"),
            (testing::P256_COMPRESSED, "a compressed key"),
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
                testing::P384_PUBLIC,
                EncodingKey::from_ec_pem(testing::P384_PRIVATE.as_bytes()).unwrap(),
                Algorithm::ES384,
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
            for other in
                [Algorithm::HS256, Algorithm::RS256, Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA]
            {
                assert_eq!(key.verifies(other, "signed", &signature), other == algorithm);
            }
        }
    }
}
