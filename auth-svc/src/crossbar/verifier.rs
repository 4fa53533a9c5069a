//! Verifies tokens by Crossbar, unless a source that comes first in `auth.sources` has their key.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::Crossbar;
use crate::{
    claims::{self, VerifiedToken},
    config::Source,
    error::Error,
    issuers::{Issuer, KAZOO},
    refusal::Refusal,
    token::Token,
    verifier::TokenVerifier,
};

/// Verifies tokens by Crossbar and by another verifier.
pub struct CrossbarVerifier {
    crossbar: Arc<Crossbar>,
    /// KAZOO's keys in other sources, if there are any, and those of them that come first.
    kazoo: Option<Issuer>,
    first: Vec<Source>,
    /// For all other tokens.
    other: Arc<dyn TokenVerifier>,
}

impl CrossbarVerifier {
    /// A verifier by `crossbar`, which comes at its place in `sources`, and by `other`, which knows `issuers`.
    pub fn new(
        crossbar: Arc<Crossbar>,
        sources: &[Source],
        issuers: &[Issuer],
        other: Arc<dyn TokenVerifier>,
    ) -> CrossbarVerifier {
        let first = sources.iter().copied().take_while(|source| *source != Source::Crossbar).collect();
        let kazoo = issuers.iter().find(|issuer| issuer.iss == KAZOO).cloned();
        CrossbarVerifier { crossbar, kazoo, first, other }
    }

    /// Whether Crossbar decides about this token.
    pub fn decides(&self, token: &str) -> bool {
        self.crossbar.admits(token) && !self.is_known_before(token)
    }

    /// Whether a source that comes first has the key.
    fn is_known_before(&self, token: &str) -> bool {
        let Some(kazoo) = &self.kazoo else { return false };
        let Ok(Some(id)) = Token::parse(token).and_then(|token| token.key_id()) else { return false };
        self.first.iter().any(|source| match source {
            Source::Files => kazoo.in_files(&id).is_some(),
            Source::CouchDb => kazoo.live.as_ref().is_some_and(|live| live.keys.contains(&id)),
            Source::Crossbar => false,
        })
    }
}

impl TokenVerifier for CrossbarVerifier {
    fn verify<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<VerifiedToken, Error>> {
        Box::pin(async move {
            if self.decides(token) {
                return self.crossbar.verify_at(token, claims::unix_now()).await;
            }
            match self.other.verify(token).await {
                // Without keys of its own it cannot tell what is wrong.
                Err(Error::Refused(Refusal::Algorithm)) if self.kazoo.is_none() && is_rsa(token) => {
                    Err(Refusal::UnknownKey.into())
                }
                verified => verified,
            }
        })
    }
}

fn is_rsa(token: &str) -> bool {
    let algorithm = Token::parse(token).and_then(|token| token.algorithm());
    algorithm.is_ok_and(|name| super::ALGORITHMS.iter().any(|own| name.parse().ok() == Some(*own)))
}
