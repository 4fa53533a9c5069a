//! Tokens as KAZOO means them: signed with a key that it has now, not expired, by an identity whose secrets are still the same.
//!
//! `identity_sig` is an HMAC-SHA256 of the identity: the device, else the user, else the account. The key is the identity's
//! secret followed by the server's, both as text. Resetting one of them is how KAZOO logs people out.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use blackhole_common::config::Secret;
use futures_util::future::BoxFuture;
use ring::hmac;

use super::{CouchDb, identities::Identity};
use crate::{
    claims::{self, VerifiedToken},
    error::Error,
    issuers::KAZOO,
    jwt_verifier::JwtVerifier,
    members::{Member, Members},
    refusal::Refusal,
    token::Token,
    verifier::TokenVerifier,
};

const SIGNATURE: &str = "identity_sig";
/// The first of these claims that a token has is its identity.
const IDENTITIES: [&str; 3] = ["device_id", "owner_id", "account_id"];

/// Verifies tokens with keys and secrets in CouchDB.
#[derive(Debug)]
pub struct LiveVerifier {
    jwt: JwtVerifier,
    couchdb: Arc<CouchDb>,
}

impl LiveVerifier {
    /// A verifier of the tokens that `jwt` accepts, with KAZOO's keys and secrets in `couchdb`.
    pub fn new(jwt: JwtVerifier, couchdb: Arc<CouchDb>) -> LiveVerifier {
        LiveVerifier { jwt, couchdb }
    }

    /// The verifier of signatures and claims.
    pub fn jwt(&self) -> &JwtVerifier {
        &self.jwt
    }

    /// Verifies a token at `now` (Unix seconds).
    ///
    /// # Errors
    /// [`Error::Refused`] if it is not valid, [`Error::Unavailable`] if that cannot be told now.
    pub async fn verify_at(&self, token: &str, now: u64) -> Result<VerifiedToken, Error> {
        let prepared = self.prepare(token).await;
        let signed = match self.jwt.signed(token, now) {
            Err(Refusal::UnknownKey) => {
                prepared?;
                return Err(Refusal::UnknownKey.into());
            }
            signed => signed?,
        };
        if signed.issuer.iss == KAZOO {
            not_expired(signed.token.expires_at, now)?;
            self.identity(&signed.claims).await?;
        }
        Ok(signed.token)
    }

    /// Reads the key that a token names, if there is one that is not known yet. What CouchDB knows, no issuer is asked for.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it cannot be read now.
    pub async fn prepare(&self, token: &str) -> Result<(), Error> {
        let in_couchdb = match Token::parse(token).and_then(|token| token.key_id()) {
            Ok(Some(id)) => self.couchdb.keys.prepare(&id).await,
            _ => Ok(()),
        };
        self.jwt.prepare(token).await.and(in_couchdb)
    }

    /// Checks `identity_sig`, and returns the identity that it signs. A token without it has none to check, as in KAZOO.
    ///
    /// # Errors
    /// [`Error::Refused`] if it does not fit, [`Error::Unavailable`] if that cannot be told now.
    pub async fn identity(&self, claims: &Members) -> Result<Option<Identity>, Error> {
        let signature = match claims.get(SIGNATURE) {
            None => return Ok(None),
            Some(Member::Text(signature)) => signature,
            Some(_) => return Err(Refusal::InvalidClaim(SIGNATURE).into()),
        };
        let identity =
            Identity { account_id: claims::account(claims, claims::ACCOUNT)?, id: identity(claims)? };
        let server_secret = self.couchdb.settings.server_secret()?.ok_or(Refusal::Identity)?;
        let secret = self.couchdb.identities.secret(&identity).await?;
        let secret = secret.ok_or(Refusal::IdentityGone)?.ok_or(Refusal::Identity)?;
        match is_signature(&signature, &identity.id, &secret, &server_secret) {
            true => Ok(Some(identity)),
            false => Err(Refusal::Identity.into()),
        }
    }
}

/// KAZOO knows no leeway.
///
/// # Errors
/// If the token ends now or has ended.
pub fn not_expired(expires_at: u64, now: u64) -> Result<(), Refusal> {
    if expires_at <= now { Err(Refusal::Expired) } else { Ok(()) }
}

/// The document that signs: the device, else the user, else the account.
fn identity(claims: &Members) -> Result<String, Refusal> {
    for claim in IDENTITIES {
        match claims.get(claim) {
            None | Some(Member::Null) => {}
            Some(Member::Text(id)) if !id.is_empty() => return Ok(id),
            Some(_) => return Err(Refusal::InvalidClaim(claim)),
        }
    }
    Err(Refusal::NoAccount)
}

/// Whether `signature` is the identity's, with these secrets.
fn is_signature(signature: &str, identity: &str, secret: &Secret, server_secret: &Secret) -> bool {
    let secrets = [secret.reveal(), server_secret.reveal()].concat();
    let key = hmac::Key::new(hmac::HMAC_SHA256, secrets.as_bytes());
    let Ok(signature) = URL_SAFE_NO_PAD.decode(signature) else { return false };
    hmac::verify(&key, identity.as_bytes(), &signature).is_ok()
}

impl TokenVerifier for LiveVerifier {
    fn verify<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<VerifiedToken, Error>> {
        Box::pin(self.verify_at(token, claims::unix_now()))
    }
}
