//! Token verification.

use futures_util::future::BoxFuture;

use crate::{claims::VerifiedToken, error::Error};

/// Verifies tokens.
///
/// The configuration selects the implementation at run time, hence the boxed futures: [`crate::jwt_verifier`] reads keys from
/// files, [`crate::couchdb::verifier`] also those in KAZOO's CouchDB, and checks `identity_sig`.
pub trait TokenVerifier: Send + Sync + 'static {
    /// Verifies a token and returns its claims.
    ///
    /// # Errors
    /// [`Error::Refused`] if the token is not valid; [`Error::Unavailable`] if verification is not possible now.
    fn verify<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<VerifiedToken, Error>>;
}
