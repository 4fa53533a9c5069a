//! The configuration of auth-svc.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use blackhole_common::config::{AdminConfig, Configuration, InvalidValue, LogConfig, NatsConfig, Secret};
use serde::{Deserialize, Serialize};

use crate::{
    accounts::Accounts,
    couchdb::config::CouchDbConfig,
    crossbar::config::CrossbarConfig,
    issuers::{self, config::IssuerConfig},
    keys::Keys,
    reload::FromFiles,
};

/// A shorter secret could be found by brute force from a single token.
const MIN_SECRET_BYTES: usize = 16;

/// Stood in `deploy/.env.example` once, so everybody knows it.
const KNOWN_SECRET: &str = "change-me-this-is-for-development";

const SECRET: &str = "auth.jwt.hs256_secret";
const KEYS: &str = "auth.jwt.keys_dir";
const ISSUERS: &str = "auth.issuers";
const ACCOUNTS: &str = "auth.accounts_file";
const SOURCES: &str = "auth.sources";

/// The configuration of the service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuthSvcConfig {
    /// The connection to NATS.
    #[serde(default)]
    pub nats: NatsConfig,
    /// Logs.
    #[serde(default)]
    pub log: LogConfig,
    /// Metrics and health.
    #[serde(default)]
    pub admin: AdminConfig<9402>,
    /// What auth-svc has to know of the history.
    #[serde(default)]
    pub history: HistoryConfig,
    /// Tokens and accounts.
    #[serde(default)]
    pub auth: AuthConfig,
}

/// `[history]`, in part: the rest is amqp-ingest's, which also checks it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct HistoryConfig {
    /// How long events are kept. Zero: there is no history.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
    /// The number of NATS servers that store each event, and what auth-svc remembers.
    pub replicas: usize,
}

impl Default for HistoryConfig {
    fn default() -> Self {
        HistoryConfig { max_age: Duration::from_secs(600), replicas: 1 }
    }
}

impl HistoryConfig {
    /// The number of copies, if there is a history.
    pub fn kept(&self) -> Option<usize> {
        Some(self.replicas).filter(|_| !self.max_age.is_zero())
    }
}

/// `[auth]`: tokens and accounts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// Where accounts and KAZOO's keys come from, the first source first. If absent, CouchDB and Crossbar if
    /// they are configured, then files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sources: Option<Vec<Source>>,
    /// KAZOO's CouchDB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub couchdb: Option<CouchDbConfig>,
    /// KAZOO's API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crossbar: Option<CrossbarConfig>,
    /// The accounts file, see [`crate::accounts`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accounts_file: Option<PathBuf>,
    /// KAZOO's tokens.
    pub jwt: JwtConfig,
    /// Issuers besides KAZOO.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub issuers: Vec<IssuerConfig>,
}

/// A source of accounts and of KAZOO's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// `[auth.couchdb]`.
    CouchDb,
    /// `[auth.crossbar]`.
    Crossbar,
    /// `auth.accounts_file` and `auth.jwt.keys_dir`.
    Files,
}

impl Source {
    /// Whether it comes before another one in this order, in which the other may be missing.
    pub fn is_before(self, other: Source, order: &[Source]) -> bool {
        let place = |source| order.iter().position(|one| *one == source).unwrap_or(order.len());
        place(self) < place(other)
    }
}

/// `[auth.jwt]`: the keys that verify KAZOO's tokens.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JwtConfig {
    /// For development: a secret for HS256 tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hs256_secret: Option<Secret>,
    /// Allows `hs256_secret` beside keys: whoever knows it can make tokens as good as those that the keys verify.
    pub dangerous_secret_beside_keys: bool,
    /// A directory of public keys, one `<kid>.pem` each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys_dir: Option<PathBuf>,
}

impl Configuration for AuthSvcConfig {
    fn admin(&self) -> Option<SocketAddr> {
        Some(self.admin.listen)
    }

    /// Also reads the files, so that `--check-config` finds the same mistakes as a start.
    fn check(&self) -> Result<(), InvalidValue> {
        self.nats.check()?;
        self.log.check()?;
        self.admin.check()?;
        self.auth.check_sources()?;
        self.auth.check_issuers()?;
        let key = ACCOUNTS;
        match self.auth.accounts_file() {
            None if self.auth.couchdb().is_some() || self.auth.crossbar().is_some() => Ok(()),
            None => Err(InvalidValue {
                key,
                reason: "is required: the file that lists the accounts (or set auth.couchdb.url or auth.crossbar.url)".into(),
            }),
            Some(file) => match Accounts::read(file) {
                Ok(_) => Ok(()),
                Err(error) => Err(InvalidValue { key, reason: error.to_string() }),
            },
        }
    }
}

impl AuthConfig {
    /// The sources, the first one first.
    pub fn sources(&self) -> Vec<Source> {
        self.sources.clone().unwrap_or_else(|| {
            let couchdb = self.couchdb.as_ref().map(|_| Source::CouchDb);
            let crossbar = self.crossbar.as_ref().map(|_| Source::Crossbar);
            [couchdb, crossbar, Some(Source::Files)].into_iter().flatten().collect()
        })
    }

    /// KAZOO's API, if it is a source.
    pub fn crossbar(&self) -> Option<&CrossbarConfig> {
        self.crossbar.as_ref().filter(|_| self.sources().contains(&Source::Crossbar))
    }

    /// KAZOO's CouchDB, if it is a source.
    pub fn couchdb(&self) -> Option<&CouchDbConfig> {
        self.couchdb.as_ref().filter(|_| self.sources().contains(&Source::CouchDb))
    }

    /// The accounts file, if files are a source.
    pub fn accounts_file(&self) -> Option<&Path> {
        self.accounts_file.as_deref().filter(|_| self.sources().contains(&Source::Files))
    }

    fn check_sources(&self) -> Result<(), InvalidValue> {
        let sources = self.sources();
        let is_repeated = |source: &Source| sources.iter().filter(|other| *other == source).count() > 1;
        InvalidValue::unless(
            !sources.is_empty() && !sources.iter().any(is_repeated),
            SOURCES,
            "must list \"couchdb\", \"crossbar\", \"files\" or some of them, each once",
        )?;
        InvalidValue::unless(
            !sources.contains(&Source::CouchDb) || self.couchdb.is_some(),
            SOURCES,
            "lists \"couchdb\", but auth.couchdb.url is not set",
        )?;
        InvalidValue::unless(
            !sources.contains(&Source::Crossbar) || self.crossbar.is_some(),
            SOURCES,
            "lists \"crossbar\", but auth.crossbar.url is not set",
        )?;
        self.crossbar().map_or(Ok(()), CrossbarConfig::check)?;
        self.couchdb().map_or(Ok(()), CouchDbConfig::check)
    }

    fn check_issuers(&self) -> Result<(), InvalidValue> {
        self.jwt.check_secret()?;
        let has_kazoo = self.couchdb().is_some() || self.crossbar().is_some();
        let has_keys = self.jwt.keys_dir.is_some() || !self.issuers.is_empty() || has_kazoo;
        InvalidValue::unless(
            self.jwt.hs256_secret.is_none() || !has_keys || self.jwt.dangerous_secret_beside_keys,
            SECRET,
            "is set beside auth.jwt.keys_dir, auth.couchdb, auth.crossbar or auth.issuers: whoever knows it can make a token of any account. Remove it, or set auth.jwt.dangerous_secret_beside_keys = true",
        )?;
        InvalidValue::unless(
            has_keys || self.jwt.hs256_secret.is_some(),
            KEYS,
            "is required: the directory of the keys that verify tokens, one <kid>.pem each (or set auth.couchdb.url, auth.crossbar.url or, for development, auth.jwt.hs256_secret)",
        )?;
        if let Some(directory) = &self.jwt.keys_dir {
            check_keys(KEYS, directory)?;
        }
        let mut names: Vec<&str> =
            (self.jwt.is_used() || has_kazoo).then_some(issuers::KAZOO).into_iter().collect();
        for issuer in &self.issuers {
            InvalidValue::unless(
                !issuer.iss.is_empty() && !names.contains(&issuer.iss.as_str()),
                ISSUERS,
                &format!("iss {:?} is empty or used twice (kazoo is the issuer of auth.jwt)", issuer.iss),
            )?;
            names.push(&issuer.iss);
            issuer.check()?;
            if let Some(directory) = &issuer.keys_dir {
                check_keys(ISSUERS, directory)?;
            }
        }
        Ok(())
    }
}

fn check_keys(key: &'static str, directory: &Path) -> Result<(), InvalidValue> {
    let keys = Keys::read(directory).map_err(|error| InvalidValue { key, reason: error.to_string() })?;
    match keys.errors().first() {
        None => Ok(()),
        Some(error) => Err(InvalidValue { key, reason: error.to_string() }),
    }
}

impl JwtConfig {
    /// Whether KAZOO's tokens are accepted at all.
    pub fn is_used(&self) -> bool {
        self.keys_dir.is_some() || self.hs256_secret.is_some()
    }

    fn check_secret(&self) -> Result<(), InvalidValue> {
        let Some(secret) = self.hs256_secret.as_ref().map(Secret::reveal) else { return Ok(()) };
        InvalidValue::unless(
            secret.len() >= MIN_SECRET_BYTES,
            SECRET,
            "must have at least 16 bytes; `openssl rand -base64 32` generates one",
        )?;
        InvalidValue::unless(
            secret != KNOWN_SECRET,
            SECRET,
            "is the former example, which everybody knows; `openssl rand -base64 32` generates another, deploy/prepare.sh puts one into deploy/.env",
        )
    }
}

/// The configuration of `auth-svc token`, which needs neither accounts nor NATS.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MintConfig {
    /// Tokens and accounts.
    #[serde(default)]
    pub auth: AuthConfig,
}

impl Configuration for MintConfig {
    fn check(&self) -> Result<(), InvalidValue> {
        self.auth.jwt.check_secret()?;
        InvalidValue::unless(
            self.auth.jwt.hs256_secret.is_some(),
            SECRET,
            "is required to mint development tokens; real tokens come from KAZOO's login",
        )
    }
}

#[cfg(test)]
mod tests;
