//! Verifies tokens with the keys of their issuers: public keys, and a shared secret for development.
//!
//! The header does not control how a token is verified. HS256 uses only the secret, if there is one; any
//! other algorithm uses only the keys named by `kid`, and only those that support the algorithm. So a public
//! key never serves as an HMAC secret, and `none` is just an unknown algorithm.
//!
//! Claims count only after the signature is verified, so `iss` cannot choose the key. Issuers that have a key of the same
//! id are all tried, and then the token must name one of those that have signed it.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::future::BoxFuture;
use jsonwebtoken::Algorithm;
use ring::hmac;

use crate::{
    claims::{self, VerifiedToken},
    error::Error,
    issuers::{Issuer, remote::RemoteKeys},
    keys::{ASYMMETRIC, VerifyingKey},
    members::Members,
    refusal::Refusal,
    signatures::Signatures,
    token::Token,
    verifier::TokenVerifier,
};

/// Verifies tokens of these issuers.
#[derive(Debug)]
pub struct JwtVerifier {
    issuers: Vec<Issuer>,
    signatures: Signatures,
}

/// A verified token with all of its claims.
#[derive(Clone, Debug)]
pub struct Signed<'v> {
    /// What counts of it.
    pub token: VerifiedToken,
    /// All claims.
    pub claims: Members,
    /// Who has signed it.
    pub issuer: &'v Issuer,
}

/// An issuer with a key that fits a token.
#[derive(Clone, Debug)]
pub struct Candidate<'v> {
    /// The issuer.
    pub issuer: &'v Issuer,
    /// Its key.
    pub key: ChosenKey,
}

/// A key that may have signed a token.
#[derive(Clone, Debug)]
pub enum ChosenKey {
    /// The secret, with HS256.
    Secret(hmac::Key),
    /// A public key, with one of its algorithms.
    Public(VerifyingKey, Algorithm),
}

impl JwtVerifier {
    /// A verifier that accepts tokens of `issuers`.
    pub fn new(issuers: Vec<Issuer>) -> JwtVerifier {
        JwtVerifier { issuers, signatures: Signatures::default() }
    }

    /// The issuers.
    pub fn issuers(&self) -> &[Issuer] {
        &self.issuers
    }

    /// The issuers that have a key for this token: at least one.
    ///
    /// # Errors
    /// If there is none.
    pub fn candidates(&self, token: &Token<'_>) -> Result<Vec<Candidate<'_>>, Refusal> {
        // Parsing fails for algorithms that jsonwebtoken does not know, including `none`.
        let algorithm: Algorithm = token.algorithm()?.parse().map_err(|_| Refusal::Algorithm)?;
        let found = match algorithm {
            Algorithm::HS256 => self.with_secret(),
            algorithm if ASYMMETRIC.contains(&algorithm) => self.with_key(token, algorithm)?,
            _ => Vec::new(),
        };
        if found.is_empty() { Err(Refusal::Algorithm) } else { Ok(found) }
    }

    fn with_secret(&self) -> Vec<Candidate<'_>> {
        let secrets = self.issuers.iter().filter_map(|issuer| Some((issuer, issuer.secret.clone()?)));
        secrets.map(|(issuer, secret)| Candidate { issuer, key: ChosenKey::Secret(secret) }).collect()
    }

    fn with_key(&self, token: &Token<'_>, algorithm: Algorithm) -> Result<Vec<Candidate<'_>>, Refusal> {
        let accepts = |issuer: &&Issuer| issuer.has_keys() && issuer.algorithms.contains(&algorithm);
        if !self.issuers.iter().any(|issuer| accepts(&issuer)) {
            return Err(Refusal::Algorithm);
        }
        let id = token.key_id()?.ok_or(Refusal::NoKeyId)?;
        let mut refusal = Refusal::UnknownKey;
        let mut found = Vec::new();
        for issuer in self.issuers.iter().filter(accepts) {
            for key in issuer.keys(&id) {
                if key.algorithms().contains(&algorithm) {
                    found.push(Candidate { issuer, key: ChosenKey::Public(key, algorithm) });
                } else {
                    refusal = Refusal::KeyMismatch;
                }
            }
        }
        if found.is_empty() { Err(refusal) } else { Ok(found) }
    }

    /// Has the keys of an issuer read if a token that claims to be its own names one that is not known. What is not signed yet
    /// decides nothing else.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if nobody can tell now whether there is such a key.
    pub async fn prepare(&self, token: &str) -> Result<(), Error> {
        if !self.issuers.iter().any(|issuer| issuer.remote.is_some()) {
            return Ok(());
        }
        match self.unread(token) {
            Ok(Some((remote, id))) => remote.prepare(&id).await,
            _ => Ok(()),
        }
    }

    /// The keys that a token claims to be signed with, and the id of its own.
    fn unread(&self, token: &str) -> Result<Option<(&RemoteKeys, String)>, Refusal> {
        let token = Token::parse(token)?;
        let algorithm: Algorithm = token.algorithm()?.parse().map_err(|_| Refusal::Algorithm)?;
        let id = token.key_id()?.ok_or(Refusal::NoKeyId)?;
        let issuer = claims::issuer(&token.claims()?, self.issuers.iter())?;
        let remote = issuer.remote.as_deref().filter(|_| issuer.algorithms.contains(&algorithm));
        Ok(remote.map(|remote| (remote, id)))
    }

    /// Whether the token's signature was made with this candidate's key.
    pub fn has_signed(&self, candidate: &Candidate<'_>, token: &Token<'_>) -> bool {
        match &candidate.key {
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
        self.signed(token, now).map(|signed| signed.token)
    }

    /// Like [`JwtVerifier::verify_at`], with all claims.
    ///
    /// # Errors
    /// If it is not valid.
    pub fn signed(&self, token: &str, now: u64) -> Result<Signed<'_>, Refusal> {
        let token = Token::parse(token)?;
        let mut signers = self.candidates(&token)?;
        signers.retain(|candidate| self.has_signed(candidate, &token));
        if signers.is_empty() {
            return Err(Refusal::Signature);
        }
        let claims = token.claims()?;
        let issuer = claims::issuer(&claims, signers.iter().map(|signer| signer.issuer))?;
        let token = VerifiedToken::from_claims(&claims, issuer, now)?;
        Ok(Signed { token, claims, issuer })
    }
}

impl TokenVerifier for JwtVerifier {
    fn verify<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<VerifiedToken, Error>> {
        Box::pin(async move {
            let prepared = self.prepare(token).await;
            match self.verify_at(token, claims::unix_now()) {
                Err(Refusal::UnknownKey) => prepared.and(Err(Refusal::UnknownKey.into())),
                verified => verified.map_err(Error::Refused),
            }
        })
    }
}

#[cfg(test)]
mod tests;
