//! Verifies tokens with local keys: KAZOO's public keys from files, and a shared secret for development.
//!
//! The header does not control how a token is verified. HS256 uses only the secret, if there is one; any
//! other algorithm uses only the key named by `kid`, and only if that key supports the algorithm. So a public
//! key never serves as an HMAC secret, and `none` is just an unknown algorithm.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use blackhole_common::config::Secret;
use futures_util::future::{self, BoxFuture};
use jsonwebtoken::Algorithm;
use ring::hmac;

use crate::{
    claims::{self, VerifiedToken},
    error::Error,
    keys::{Keys, VerifyingKey},
    refusal::Refusal,
    reload::Reloaded,
    signatures::Signatures,
    token::Token,
    verifier::TokenVerifier,
};

/// Verifies tokens with keys from files and, for development, a shared secret.
#[derive(Debug)]
pub struct JwtVerifier {
    secret: Option<hmac::Key>,
    keys: Option<Arc<Reloaded<Keys>>>,
    signatures: Signatures,
}

/// The key that verifies one token.
#[derive(Clone, Debug)]
pub enum ChosenKey {
    /// The secret, with HS256.
    Secret(hmac::Key),
    /// A public key, with one of its algorithms.
    Public(VerifyingKey, Algorithm),
}

impl JwtVerifier {
    /// A verifier that accepts signatures by `keys` and by `secret`.
    pub fn new(secret: Option<&Secret>, keys: Option<Arc<Reloaded<Keys>>>) -> JwtVerifier {
        let secret = secret.map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret.reveal().as_bytes()));
        JwtVerifier { secret, keys, signatures: Signatures::default() }
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
        let key = keys.as_ref().and_then(|keys| keys.get(&id)).ok_or(Refusal::UnknownKey)?;
        if !key.algorithms().contains(&algorithm) {
            return Err(Refusal::KeyMismatch);
        }
        Ok(ChosenKey::Public(key.clone(), algorithm))
    }

    /// Whether the token's signature was made with this key.
    pub fn has_signed(&self, key: &ChosenKey, token: &Token<'_>) -> bool {
        match key {
            ChosenKey::Public(key, algorithm) => self.signatures.is_good(key, *algorithm, token),
            // Not worth remembering.
            ChosenKey::Secret(secret) => URL_SAFE_NO_PAD
                .decode(token.signature)
                .is_ok_and(|tag| hmac::verify(secret, token.signed.as_bytes(), &tag).is_ok()),
        }
    }

    /// Verifies a token at `now` (Unix seconds).
    ///
    /// # Errors
    /// If it is not valid.
    pub fn verify_at(&self, token: &str, now: u64) -> Result<VerifiedToken, Refusal> {
        let token = Token::parse(token)?;
        let key = self.choose_key(&token)?;
        if !self.has_signed(&key, &token) {
            return Err(Refusal::Signature);
        }
        VerifiedToken::from_claims(&token.claims()?, now)
    }
}

impl TokenVerifier for JwtVerifier {
    fn verify<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<VerifiedToken, Error>> {
        Box::pin(future::ready(self.verify_at(token, claims::unix_now()).map_err(Error::Refused)))
    }
}

#[cfg(test)]
mod tests;
