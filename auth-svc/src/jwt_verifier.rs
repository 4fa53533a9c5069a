//! Verifies tokens with local keys: KAZOO's public keys from files, and a shared secret for development.
//!
//! The header does not control how a token is verified. HS256 uses only the secret, if there is one; any
//! other algorithm uses only the key named by `kid`, and only if that key supports the algorithm. So a public
//! key never serves as an HMAC secret, and `none` is just an unknown algorithm.

use std::sync::Arc;

use blackhole_common::config::Secret;
use futures_util::future::{self, BoxFuture};
use jsonwebtoken::{Algorithm, DecodingKey, crypto};

use crate::{
    claims::{self, VerifiedToken},
    error::Error,
    keys::{Keys, VerifyingKey},
    refusal::Refusal,
    reload::Reloaded,
    token::Token,
    verifier::TokenVerifier,
};

/// Verifies tokens with keys from files and, for development, a shared secret.
#[derive(Debug)]
pub struct JwtVerifier {
    secret: Option<DecodingKey>,
    keys: Option<Arc<Reloaded<Keys>>>,
}

/// The key that verifies one token.
#[derive(Clone, Debug)]
pub enum ChosenKey {
    /// The secret, with HS256.
    Secret(DecodingKey),
    /// A public key, with one of its algorithms.
    Public(VerifyingKey, Algorithm),
}

impl JwtVerifier {
    /// A verifier that accepts signatures by `keys` and by `secret`.
    pub fn new(secret: Option<&Secret>, keys: Option<Arc<Reloaded<Keys>>>) -> JwtVerifier {
        let secret = secret.map(|secret| DecodingKey::from_secret(secret.reveal().as_bytes()));
        JwtVerifier { secret, keys }
    }

    /// Chooses the key for this token.
    ///
    /// # Errors
    /// If there is none.
    pub fn choose_key(&self, token: &Token<'_>) -> Result<ChosenKey, Refusal> {
        // Parsing fails for algorithms that jsonwebtoken does not know, including `none`.
        let algorithm: Algorithm = token.algorithm()?.parse().map_err(|_| Refusal::Algorithm)?;
        match (algorithm, &self.secret, &self.keys) {
            (Algorithm::HS256, Some(secret), _) => return Ok(ChosenKey::Secret(secret.clone())),
            (Algorithm::RS256 | Algorithm::RS384 | Algorithm::RS512, _, Some(_)) => {}
            (Algorithm::ES256 | Algorithm::EdDSA, _, Some(_)) => {}
            _ => return Err(Refusal::Algorithm),
        }
        let id = token.key_id()?.ok_or(Refusal::NoKeyId)?;
        let keys = self.keys.as_ref().map(|keys| keys.current());
        let key = keys.as_ref().and_then(|keys| keys.get(id)).ok_or(Refusal::UnknownKey)?;
        if !key.algorithms().contains(&algorithm) {
            return Err(Refusal::KeyMismatch);
        }
        Ok(ChosenKey::Public(key.clone(), algorithm))
    }

    /// Verifies a token at `now` (Unix seconds).
    ///
    /// # Errors
    /// If it is not valid.
    pub fn verify_at(&self, token: &str, now: u64) -> Result<VerifiedToken, Refusal> {
        let token = Token::parse(token)?;
        if !self.choose_key(&token)?.verifies(&token) {
            return Err(Refusal::Signature);
        }
        VerifiedToken::from_claims(&token.claims, now)
    }
}

impl ChosenKey {
    /// Whether the token's signature was made with this key.
    pub fn verifies(&self, token: &Token<'_>) -> bool {
        match self {
            ChosenKey::Public(key, algorithm) => key.verifies(*algorithm, token.signed, token.signature),
            ChosenKey::Secret(secret) => {
                crypto::verify(token.signature, token.signed.as_bytes(), secret, Algorithm::HS256)
                    .unwrap_or(false)
            }
        }
    }
}

impl TokenVerifier for JwtVerifier {
    fn verify<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<VerifiedToken, Error>> {
        Box::pin(future::ready(self.verify_at(token, claims::unix_now()).map_err(Error::Refused)))
    }
}

#[cfg(test)]
mod tests;
