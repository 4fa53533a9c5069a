//! Who says whether a token is good.

use futures_util::future::BoxFuture;

use crate::{claims::VerifiedToken, error::Error};

/// Says whether a token is good.
///
/// Which implementation serves is a matter of configuration, hence boxed futures: [`crate::jwt`] has its keys in
/// files; KAZOO's CouchDB (keys and `identity_sig`) and Crossbar's `tokeninfo` will answer over a network.
pub trait TokenVerifier: Send + Sync + 'static {
    /// What a good token says.
    ///
    /// # Errors
    /// [`Error::Refused`] for a token that is not good; [`Error::Unavailable`] when that cannot be told now.
    fn verify<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<VerifiedToken, Error>>;
}
