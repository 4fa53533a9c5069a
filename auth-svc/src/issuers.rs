//! The issuers whose tokens are accepted, each with its own keys and the accounts that its tokens may name.
//!
//! KAZOO is one (`[auth.jwt]`); others are listed (`[[auth.issuers]]`). A token counts only if one of the issuer's own keys
//! has signed it: a key of another issuer, whatever its id, proves nothing about it.

use std::{path::Path, sync::Arc};

use blackhole_common::config::Secret;
use ring::hmac;

use crate::{
    access,
    config::{AuthConfig, IssuerConfig, Source},
    couchdb::{CouchDb, keys::LiveKeys},
    directory::Account,
    error::Error,
    keys::{Keys, VerifyingKey},
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
    /// Its public keys in CouchDB.
    pub live: Option<Live>,
    /// A secret for HS256, for development.
    pub secret: Option<hmac::Key>,
    /// Whom its tokens must be for. If absent, they must be for nobody in particular.
    pub audience: Option<String>,
    /// The accounts that its tokens may name.
    pub scope: Arc<Scope>,
}

/// KAZOO's keys in CouchDB.
#[derive(Clone, Debug)]
pub struct Live {
    /// The keys.
    pub keys: Arc<LiveKeys>,
    /// Whether they come before those in files.
    pub is_first: bool,
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
    /// The issuers of a valid configuration, with the keys in files loaded.
    ///
    /// # Errors
    /// If a directory of keys cannot be read.
    pub fn all(config: &AuthConfig, couchdb: Option<&CouchDb>) -> Result<Vec<Issuer>, Error> {
        let jwt = &config.jwt;
        let sources = config.sources();
        let mut issuers = Vec::new();
        if jwt.is_used() || couchdb.is_some() {
            let directory = jwt.keys_dir.as_deref().filter(|_| sources.contains(&Source::Files));
            let mut kazoo = Issuer::kazoo(jwt.hs256_secret.as_ref(), directory.map(open).transpose()?);
            let is_first = sources.first() == Some(&Source::CouchDb);
            kazoo.live = couchdb.map(|couchdb| Live { keys: Arc::clone(&couchdb.keys), is_first });
            issuers.push(kazoo);
        }
        for issuer in &config.issuers {
            issuers.push(Issuer::listed(issuer)?);
        }
        Ok(issuers)
    }

    /// KAZOO, with its keys and a secret for development. KAZOO writes no `aud`.
    pub fn kazoo(secret: Option<&Secret>, keys: Option<Arc<Reloaded<Keys>>>) -> Issuer {
        let secret = secret.map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret.reveal().as_bytes()));
        Issuer { iss: KAZOO.into(), keys, live: None, secret, audience: None, scope: Arc::new(Scope::All) }
    }

    /// Whether it has public keys at all.
    pub fn has_keys(&self) -> bool {
        self.keys.is_some() || self.live.is_some()
    }

    /// Its public key with this id. The first source that has this id decides, also if its document has no key.
    pub fn key(&self, id: &str) -> Option<VerifyingKey> {
        let in_couchdb = || self.live.as_ref()?.keys.get(id);
        if self.is_live(id) { in_couchdb() } else { self.in_files(id) }
    }

    /// Whether CouchDB decides about the key with this id.
    pub fn is_live(&self, id: &str) -> bool {
        self.live.as_ref().is_some_and(|live| match live.is_first {
            true => live.keys.contains(id),
            false => self.in_files(id).is_none(),
        })
    }

    fn in_files(&self, id: &str) -> Option<VerifyingKey> {
        self.keys.as_ref()?.current().get(id).cloned()
    }

    fn listed(config: &IssuerConfig) -> Result<Issuer, Error> {
        Ok(Issuer {
            iss: config.iss.clone(),
            keys: Some(open(&config.keys_dir)?),
            live: None,
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
