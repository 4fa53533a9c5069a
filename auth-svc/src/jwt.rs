//! Tokens verified with keys of one's own: KAZOO's, from files, and a shared secret for development.
//!
//! A header never chooses how it is verified. HS256 means the secret, and only if there is one; every other
//! algorithm means the key that `kid` names, and only if it is one of the algorithms of that key. So a public key
//! can never serve as an HMAC secret, and `none` is just a name that nothing has.

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

/// What verifies one token.
#[derive(Clone, Debug)]
pub enum Chosen {
    /// The secret, by HS256.
    Secret(DecodingKey),
    /// A public key, by this algorithm of its own.
    Key(VerifyingKey, Algorithm),
}

impl JwtVerifier {
    /// A verifier that accepts what `keys` sign, and what `secret` signs.
    pub fn new(secret: Option<&Secret>, keys: Option<Arc<Reloaded<Keys>>>) -> JwtVerifier {
        let secret = secret.map(|secret| DecodingKey::from_secret(secret.reveal().as_bytes()));
        JwtVerifier { secret, keys }
    }

    /// What verifies this token, if anything does.
    ///
    /// # Errors
    /// When nothing does.
    pub fn choose(&self, token: &Token<'_>) -> Result<Chosen, Refusal> {
        // An algorithm that jsonwebtoken does not know, `none` among them, is not accepted either.
        let algorithm: Algorithm = token.algorithm()?.parse().map_err(|_| Refusal::Algorithm)?;
        match (algorithm, &self.secret, &self.keys) {
            (Algorithm::HS256, Some(secret), _) => return Ok(Chosen::Secret(secret.clone())),
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
        Ok(Chosen::Key(key.clone(), algorithm))
    }

    /// What the token says, if it is good at `now` (Unix seconds).
    ///
    /// # Errors
    /// When it is not good.
    pub fn verify_at(&self, token: &str, now: u64) -> Result<VerifiedToken, Refusal> {
        let token = Token::parse(token)?;
        if !self.choose(&token)?.verifies(&token) {
            return Err(Refusal::Signature);
        }
        VerifiedToken::from_claims(&token.claims, now)
    }
}

impl Chosen {
    /// Whether the token's signature is this one's.
    pub fn verifies(&self, token: &Token<'_>) -> bool {
        match self {
            Chosen::Key(key, algorithm) => key.verifies(*algorithm, token.signed, token.signature),
            Chosen::Secret(secret) => {
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
