//! The issuers whose tokens are accepted, each with its own keys and the accounts that its tokens may name.
//!
//! KAZOO is one (`[auth.jwt]`); others are listed (`[[auth.issuers]]`). A token counts only if one of the issuer's own keys
//! has signed it: a key of another issuer, whatever its id, proves nothing about it.

use std::{path::Path, sync::Arc};

use blackhole_common::config::Secret;
use ring::hmac;

use crate::{
    access,
    config::{AuthConfig, IssuerConfig},
    directory::Account,
    error::Error,
    keys::Keys,
    reload::Reloaded,
};

/// The issuer of KAZOO's own tokens.
pub const KAZOO: &str = "kazoo";

/// An issuer of tokens.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// Its name, as in the claim `iss`.
    pub iss: String,
    /// Its public keys.
    pub keys: Option<Arc<Reloaded<Keys>>>,
    /// A secret for HS256, for development.
    pub secret: Option<hmac::Key>,
    /// Whom its tokens must be for. If absent, they must be for nobody in particular.
    pub audience: Option<String>,
    /// The accounts that its tokens may name.
    pub scope: Arc<Scope>,
}

/// The accounts that an issuer's tokens may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All.
    All,
    /// These and all below them.
    Below(Vec<String>),
}

impl Issuer {
    /// The issuers of a valid configuration, with their keys loaded.
    ///
    /// # Errors
    /// If a directory of keys cannot be read.
    pub fn all(config: &AuthConfig) -> Result<Vec<Issuer>, Error> {
        let jwt = &config.jwt;
        let mut issuers = Vec::new();
        if jwt.is_used() {
            let keys = jwt.keys_dir.as_deref().map(open).transpose()?;
            issuers.push(Issuer::kazoo(jwt.hs256_secret.as_ref(), keys));
        }
        for issuer in &config.issuers {
            issuers.push(Issuer::listed(issuer)?);
        }
        Ok(issuers)
    }

    /// KAZOO, with its keys and a secret for development. KAZOO writes no `aud`.
    pub fn kazoo(secret: Option<&Secret>, keys: Option<Arc<Reloaded<Keys>>>) -> Issuer {
        let secret = secret.map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret.reveal().as_bytes()));
        Issuer { iss: KAZOO.into(), keys, secret, audience: None, scope: Arc::new(Scope::All) }
    }

    fn listed(config: &IssuerConfig) -> Result<Issuer, Error> {
        Ok(Issuer {
            iss: config.iss.clone(),
            keys: Some(open(&config.keys_dir)?),
            secret: None,
            audience: config.audience.clone(),
            scope: Arc::new(Scope::of(&config.accounts)),
        })
    }
}

fn open(directory: &Path) -> Result<Arc<Reloaded<Keys>>, Error> {
    Reloaded::open(directory).map(Arc::new)
}

impl Scope {
    /// The scope of these ids, among which `*` stands for all accounts.
    pub fn of(ids: &[String]) -> Scope {
        match ids.iter().any(|id| id == access::ALL) {
            true => Scope::All,
            false => Scope::Below(ids.to_vec()),
        }
    }

    /// Whether tokens may name this account.
    pub fn contains(&self, account: &Account) -> bool {
        match self {
            Scope::All => true,
            Scope::Below(ids) => ids.iter().any(|id| *id == account.id || account.ancestors.contains(id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{accounts::Accounts, testing};

    #[test]
    fn a_scope_contains_its_accounts_and_those_below() {
        let accounts = Accounts::parse(testing::ACCOUNTS).unwrap();
        for (ids, expected) in [
            (vec!["*"], "below-closed child closed reseller system"),
            (vec!["child", "*"], "below-closed child closed reseller system"),
            (vec!["reseller"], "below-closed child closed reseller"),
            (vec!["child", "below-closed"], "below-closed child"),
            (vec!["nobody"], ""),
            (vec![], ""),
        ] {
            let scope = Scope::of(&ids.into_iter().map(str::to_owned).collect::<Vec<_>>());
            let mut found: Vec<&str> = accounts
                .iter()
                .filter(|account| scope.contains(account))
                .map(|account| &*account.id)
                .collect();
            found.sort_unstable();
            assert_eq!(found.join(" "), expected, "{scope:?}");
        }
    }
}
