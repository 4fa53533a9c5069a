//! Account lookup.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::error::Error;

/// The properties of an account that access depends on, with their names in KAZOO's `accounts` database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The id (`_id`).
    pub id: String,
    /// The display name (`name`).
    pub name: String,
    /// The SIP realm, if any (`realm`).
    pub realm: Option<String>,
    /// The ids of its ancestors, from the top (`pvt_tree`).
    pub ancestors: Vec<String>,
    /// Whether it can access all accounts (`pvt_superduper_admin`).
    pub superduper_admin: bool,
    /// Whether it is enabled (`pvt_enabled`).
    pub enabled: bool,
}

/// Looks up accounts.
///
/// Accounts include their ancestors, so a decision needs at most two lookups, however deep the tree, and
/// implementations need not list accounts. The configuration selects the implementation at run time, hence
/// the boxed futures: [`crate::accounts`] reads a file, [`crate::couchdb`] KAZOO's CouchDB, and
/// [`crate::crossbar`] asks Crossbar.
pub trait AccountDirectory: Send + Sync + 'static {
    /// The account with this id, or `None` if it does not exist or is deleted. `token` is the verified one that it is looked up
    /// for: a source that cannot ask for itself asks with it, and knows only what that may see.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the lookup is not possible now.
    fn account<'a>(
        &'a self,
        id: &'a str,
        token: &'a str,
    ) -> BoxFuture<'a, Result<Option<Arc<Account>>, Error>>;
}
