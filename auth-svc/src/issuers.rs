//! The issuers whose tokens are accepted, each with its own keys and the accounts that its tokens may name.
//!
//! KAZOO is one (`[auth.jwt]`); others are listed (`[[auth.issuers]]`, [`config`]), with keys in files or read over HTTP
//! ([`remote`]). A token counts only if one of the issuer's own keys has signed it: a key of another issuer, whatever its id,
//! proves nothing about it.

pub mod config;
pub mod remote;

use std::{path::Path, sync::Arc};

use blackhole_common::{config::Secret, readiness::Readiness};
use jsonwebtoken::Algorithm;
use prometheus_client::registry::Registry;
use ring::hmac;

use self::{config::IssuerConfig, remote::RemoteKeys};
use crate::{
    access,
    announce::Announcer,
    claims,
    config::{AuthConfig, Source},
    couchdb::{CouchDb, keys::LiveKeys},
    directory::Account,
    error::Error,
    keys::{Keys, VerifyingKey},
    metrics::Metrics,
    reload::Reloaded,
};

/// The issuer of KAZOO's own tokens.
pub const KAZOO: &str = "kazoo";
/// What KAZOO signs with, and what its operator may sign with instead.
const KAZOO_ALGORITHMS: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// An issuer of tokens.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// Its name, as in the claim `iss`.
    pub iss: String,
    /// Its public keys in files.
    pub keys: Option<Arc<Reloaded<Keys>>>,
    /// Its public keys in CouchDB.
    pub live: Option<Live>,
    /// Its public keys over HTTP.
    pub remote: Option<Arc<RemoteKeys>>,
    /// A secret for HS256, for development.
    pub secret: Option<hmac::Key>,
    /// The algorithms that its tokens may have, with public keys.
    pub algorithms: Vec<Algorithm>,
    /// Whom its tokens must be for. If absent, they must be for nobody in particular.
    pub audience: Option<String>,
    /// The claim that names the account.
    pub account_claim: String,
    /// The accounts that its tokens may name and see.
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

/// What issuers tell others.
#[derive(Clone, Debug)]
pub struct Reports {
    /// What has changed.
    pub announcer: Announcer,
    /// What was asked.
    pub metrics: Metrics,
    /// What cannot be read.
    pub readiness: Readiness,
}

impl Default for Reports {
    /// For commands, in which nobody listens.
    fn default() -> Self {
        Reports {
            announcer: Announcer::default(),
            metrics: Metrics::new(&mut Registry::default()),
            readiness: Readiness::default(),
        }
    }
}

/// The accounts that an issuer's tokens may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All.
    All,
    /// These.
    Only(Vec<String>),
    /// These and all below them.
    Below(Vec<String>),
}

impl Issuer {
    /// The issuers of a valid configuration, with the keys in files loaded.
    ///
    /// # Errors
    /// If a directory of keys cannot be read.
    pub fn all(
        config: &AuthConfig,
        couchdb: Option<&CouchDb>,
        reports: &Reports,
    ) -> Result<Vec<Issuer>, Error> {
        let jwt = &config.jwt;
        let sources = config.sources();
        let mut issuers = Vec::new();
        if jwt.is_used() || couchdb.is_some() {
            let directory = jwt.keys_dir.as_deref().filter(|_| sources.contains(&Source::Files));
            let mut kazoo = Issuer::kazoo(jwt.hs256_secret.as_ref(), directory.map(open).transpose()?);
            let is_first = Source::CouchDb.is_before(Source::Files, &sources);
            kazoo.live = couchdb.map(|couchdb| Live { keys: Arc::clone(&couchdb.keys), is_first });
            issuers.push(kazoo);
        }
        for issuer in &config.issuers {
            issuers.push(Issuer::listed(issuer, reports)?);
        }
        Ok(issuers)
    }

    /// KAZOO, with its keys and a secret for development. KAZOO writes no `aud`.
    pub fn kazoo(secret: Option<&Secret>, keys: Option<Arc<Reloaded<Keys>>>) -> Issuer {
        let secret = secret.map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret.reveal().as_bytes()));
        Issuer {
            iss: KAZOO.into(),
            keys,
            live: None,
            remote: None,
            secret,
            algorithms: KAZOO_ALGORITHMS.to_vec(),
            audience: None,
            account_claim: claims::ACCOUNT.into(),
            scope: Arc::new(Scope::All),
        }
    }

    /// Whether it has public keys at all.
    pub fn has_keys(&self) -> bool {
        self.keys.is_some() || self.live.is_some() || self.remote.is_some()
    }

    /// Its public keys with this id: one, or several of an issuer that uses an id twice. The first source that has this id
    /// decides, also if its document has no key.
    pub fn keys(&self, id: &str) -> Vec<VerifyingKey> {
        if let Some(remote) = &self.remote {
            return remote.get(id);
        }
        let in_couchdb = || self.live.as_ref()?.keys.get(id);
        if self.is_live(id) { in_couchdb() } else { self.in_files(id) }.into_iter().collect()
    }

    /// Whether CouchDB decides about the key with this id.
    pub fn is_live(&self, id: &str) -> bool {
        self.live.as_ref().is_some_and(|live| match live.is_first {
            true => live.keys.contains(id),
            false => self.in_files(id).is_none(),
        })
    }

    /// The key with this id in its files.
    pub fn in_files(&self, id: &str) -> Option<VerifyingKey> {
        self.keys.as_ref()?.current().get(id).cloned()
    }

    fn listed(config: &IssuerConfig, reports: &Reports) -> Result<Issuer, Error> {
        let Reports { announcer, metrics, readiness } = reports;
        let remote = match config.keys_dir {
            Some(_) => None,
            None => {
                let latch = readiness.optional(&format!("keys of issuer {}", config.iss));
                let remote = RemoteKeys::new(config, announcer.clone(), metrics.issuers.clone(), latch);
                remote.map_err(|reason| Error::Issuer { iss: config.iss.clone(), reason })?.map(Arc::new)
            }
        };
        Ok(Issuer {
            iss: config.iss.clone(),
            keys: config.keys_dir.as_deref().map(open).transpose()?,
            live: None,
            remote,
            secret: None,
            algorithms: config.algorithms.clone(),
            audience: config.audience.clone(),
            account_claim: config.account_claim.clone(),
            scope: Arc::new(Scope::of(&config.accounts, config.descendants)),
        })
    }
}

fn open(directory: &Path) -> Result<Arc<Reloaded<Keys>>, Error> {
    Reloaded::open(directory).map(Arc::new)
}

impl Scope {
    /// The scope of these ids, among which `*` stands for all accounts.
    pub fn of(ids: &[String], descendants: bool) -> Scope {
        match ids.iter().any(|id| id == access::ALL) {
            true => Scope::All,
            false if descendants => Scope::Below(ids.to_vec()),
            false => Scope::Only(ids.to_vec()),
        }
    }

    /// Whether tokens may name and see this account.
    pub fn contains(&self, account: &Account) -> bool {
        match self {
            Scope::All => true,
            Scope::Only(ids) => ids.contains(&account.id),
            Scope::Below(ids) => ids.iter().any(|id| *id == account.id || account.ancestors.contains(id)),
        }
    }

    /// Whether there is no account that is not contained.
    pub fn is_all(&self) -> bool {
        *self == Scope::All
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{accounts::Accounts, testing};

    #[test]
    fn a_scope_contains_its_accounts_and_those_below_if_that_is_set() {
        let accounts = Accounts::parse(testing::ACCOUNTS).unwrap();
        for (ids, descendants, expected) in [
            (vec!["*"], false, "below-closed child closed reseller system"),
            (vec!["child", "*"], false, "below-closed child closed reseller system"),
            (vec!["reseller"], true, "below-closed child closed reseller"),
            (vec!["reseller"], false, "reseller"),
            (vec!["child", "below-closed"], true, "below-closed child"),
            (vec!["nobody"], true, ""),
            (vec![], true, ""),
        ] {
            let scope = Scope::of(&ids.into_iter().map(str::to_owned).collect::<Vec<_>>(), descendants);
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
