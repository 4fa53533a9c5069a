//! Who knows the accounts.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::error::Error;

/// An account, as much of it as access needs. The members are what a document of KAZOO's `accounts` database has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its id (`_id`).
    pub id: String,
    /// Its name, for people (`name`).
    pub name: String,
    /// Its SIP realm, if it has one (`realm`).
    pub realm: Option<String>,
    /// The ids of the accounts above it, top first (`pvt_tree`).
    pub ancestors: Vec<String>,
    /// Whether it may see everything (`pvt_superduper_admin`).
    pub superduper_admin: bool,
    /// Whether it is in use (`pvt_enabled`).
    pub enabled: bool,
}

/// Knows the accounts.
///
/// An account carries its ancestors, so that access needs no more than two look-ups, whatever the tree's depth, and
/// no directory has to be able to list accounts. Which implementation serves is a matter of configuration, hence
/// boxed futures: [`crate::accounts`] has them in a file; KAZOO's CouchDB will answer over a network.
pub trait AccountDirectory: Send + Sync + 'static {
    /// The account with this id; `None` when there is none (a deleted one is none).
    ///
    /// # Errors
    /// [`Error::Unavailable`] when that cannot be told now.
    fn account<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Arc<Account>>, Error>>;
}
