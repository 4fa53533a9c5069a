//! What a user's token may see with `auth.users = "own"`: everything of the account if the user is an admin, else only what
//! is the user's own.

use std::sync::Arc;

use blackhole_common::owner::{Own, Owner};
use futures_util::future::{self, BoxFuture};

use crate::{accounts::Accounts, claims::VerifiedToken, error::Error, refusal::Refusal, reload::Reloaded};

/// A user, or a device that has a token of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// Whether it may see everything of its account (`priv_level` `admin`).
    pub is_admin: bool,
    /// What it owns: devices, mailboxes, phones.
    pub owns: Vec<Owner>,
}

/// Looks up users.
pub trait UserDirectory: Send + Sync + 'static {
    /// The user or device with this id in this account, or `None` if it does not exist or is deleted.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the lookup is not possible now.
    fn user<'a>(&'a self, account_id: &'a str, id: &'a str) -> BoxFuture<'a, Result<Option<User>, Error>>;
}

/// The sources of users, in the order of `auth.sources`: the first one that has a user decides about it.
#[derive(Clone)]
pub struct Users(Vec<Arc<dyn UserDirectory>>);

impl Users {
    /// These directories, the first one first.
    pub fn new(directories: Vec<Arc<dyn UserDirectory>>) -> Users {
        Users(directories)
    }

    /// What the bearer of a token owns; `None` if it may see all of its account: a token of no user, as of an API key, and one
    /// of an admin. A user that no source has is no admin and owns nothing else.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if that cannot be told now, [`Error::Refused`] if the token names its user in no readable way.
    pub async fn own(&self, token: &VerifiedToken) -> Result<Option<Own>, Error> {
        let Some(id) = &token.owner_id else { return Ok(None) };
        if id.is_empty() {
            return Err(Refusal::InvalidClaim("owner_id").into());
        }
        let mut owns = Vec::new();
        for directory in &self.0 {
            // A source that cannot answer may have the user, so none after it is asked.
            match directory.user(&token.account_id, id).await? {
                Some(User { is_admin: true, .. }) => return Ok(None),
                Some(user) => {
                    owns = user.owns;
                    break;
                }
                None => {}
            }
        }
        owns.extend([Owner::Document(id.clone()), Owner::Token(token.token_id.clone())]);
        Ok(Some(owns.into_iter().collect()))
    }
}

impl UserDirectory for Reloaded<Accounts> {
    fn user<'a>(&'a self, account_id: &'a str, id: &'a str) -> BoxFuture<'a, Result<Option<User>, Error>> {
        Box::pin(future::ready(Ok(self.current().user(account_id, id).cloned())))
    }
}
