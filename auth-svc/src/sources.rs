//! The sources of accounts, in the order of `auth.sources`: the first one that has an account decides about it.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::{
    directory::{Account, AccountDirectory},
    error::Error,
};

/// Several directories as one.
pub struct Sources(Vec<Arc<dyn AccountDirectory>>);

impl Sources {
    /// These directories, the first one first.
    pub fn new(directories: Vec<Arc<dyn AccountDirectory>>) -> Sources {
        Sources(directories)
    }
}

impl AccountDirectory for Sources {
    fn account<'a>(
        &'a self,
        id: &'a str,
        token: &'a str,
    ) -> BoxFuture<'a, Result<Option<Arc<Account>>, Error>> {
        Box::pin(async move {
            for directory in &self.0 {
                // A source that cannot answer may have the account, so none after it is asked.
                if let Some(account) = directory.account(id, token).await? {
                    return Ok(Some(account));
                }
            }
            Ok(None)
        })
    }
}
