//! The configuration of auth-svc.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use blackhole_common::config::{AdminConfig, Configuration, InvalidValue, LogConfig, NatsConfig, Secret};
use serde::{Deserialize, Serialize};

use crate::{accounts::Accounts, issuers, keys::Keys, reload::FromFiles};

/// A shorter secret could be found by brute force from a single token.
const MIN_SECRET_BYTES: usize = 16;

/// Stood in `deploy/.env.example` once, so everybody knows it.
const KNOWN_SECRET: &str = "change-me-this-is-for-development";

const SECRET: &str = "auth.jwt.hs256_secret";
const KEYS: &str = "auth.jwt.keys_dir";
const ISSUERS: &str = "auth.issuers";

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
    /// The accounts file, see [`crate::accounts`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accounts_file: Option<PathBuf>,
    /// KAZOO's tokens.
    pub jwt: JwtConfig,
    /// Issuers besides KAZOO.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub issuers: Vec<IssuerConfig>,
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

/// `[[auth.issuers]]`: an issuer besides KAZOO.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// Its name, as in the claim `iss`.
    pub iss: String,
    /// A directory of its public keys, one `<kid>.pem` each.
    pub keys_dir: PathBuf,
    /// The ids of the accounts that its tokens may name; those below may be named too. `*`: all.
    pub accounts: Vec<String>,
    /// The audience that its tokens must name in `aud`. If absent, they must have no `aud`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
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
        self.auth.check_issuers()?;
        let key = "auth.accounts_file";
        let Some(file) = &self.auth.accounts_file else {
            return Err(InvalidValue { key, reason: "is required: the file that lists the accounts".into() });
        };
        match Accounts::read(file) {
            Ok(_) => Ok(()),
            Err(error) => Err(InvalidValue { key, reason: error.to_string() }),
        }
    }
}

impl AuthConfig {
    fn check_issuers(&self) -> Result<(), InvalidValue> {
        self.jwt.check_secret()?;
        let has_keys = self.jwt.keys_dir.is_some() || !self.issuers.is_empty();
        InvalidValue::unless(
            self.jwt.hs256_secret.is_none() || !has_keys || self.jwt.dangerous_secret_beside_keys,
            SECRET,
            "is set beside auth.jwt.keys_dir or auth.issuers: whoever knows it can make a token of any account. Remove it, or set auth.jwt.dangerous_secret_beside_keys = true",
        )?;
        InvalidValue::unless(
            has_keys || self.jwt.hs256_secret.is_some(),
            KEYS,
            "is required: the directory of the keys that verify tokens, one <kid>.pem each (or, for development, set auth.jwt.hs256_secret)",
        )?;
        if let Some(directory) = &self.jwt.keys_dir {
            check_keys(KEYS, directory)?;
        }
        let mut names: Vec<&str> = self.jwt.is_used().then_some(issuers::KAZOO).into_iter().collect();
        for issuer in &self.issuers {
            InvalidValue::unless(
                !issuer.iss.is_empty() && !names.contains(&issuer.iss.as_str()),
                ISSUERS,
                &format!("iss {:?} is empty or used twice (kazoo is the issuer of auth.jwt)", issuer.iss),
            )?;
            names.push(&issuer.iss);
            InvalidValue::unless(
                !issuer.accounts.is_empty() && issuer.accounts.iter().all(|id| !id.is_empty()),
                ISSUERS,
                &format!(
                    "{}: accounts must list the ids of the accounts that its tokens may name, or \"*\"",
                    issuer.iss
                ),
            )?;
            check_keys(ISSUERS, &issuer.keys_dir)?;
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
mod tests {
    use blackhole_common::config::{self, UnknownKeys};

    use super::*;
    use crate::testing::{self, TempDir};

    fn load<C: Configuration>(dir: &TempDir, text: &str) -> Result<C, String> {
        let file = dir.write("blackhole.toml", text);
        let loaded = config::load(Some(&file), UnknownKeys::Refuse);
        loaded.map(|loaded| loaded.config).map_err(|error| error.to_string())
    }

    #[test]
    fn errors_are_one_line_without_secrets() {
        let dir = TempDir::new();
        let accounts = dir.write("accounts.toml", testing::ACCOUNTS);
        let broken_accounts = dir.write("broken.toml", "[[account]]\nid = \"a\"");
        for keys in ["keys", "broken-keys"] {
            std::fs::create_dir(dir.path().join(keys)).unwrap();
            dir.write(&format!("{keys}/a.pem"), testing::RSA_PUBLIC);
        }
        dir.write("broken-keys/b.pem", testing::RSA_1024_PUBLIC);
        let auth = |accounts: &std::path::Path, jwt: &str| {
            format!("[auth]\naccounts_file = {:?}\n[auth.jwt]\n{jwt}\n", accounts.display().to_string())
        };
        let keys_dir = |name: &str| format!("keys_dir = {:?}", dir.path().join(name).display().to_string());
        let secret = format!("hs256_secret = \"{}\"", testing::SECRET);
        // With the good keys for KAZOO, and these for another.
        let issuer = |keys: &str, text: &str| {
            let (jwt, own) = match keys.starts_with("keys_dir") {
                true => (keys_dir("keys"), keys.to_owned()),
                false => (keys.to_owned(), keys_dir("keys")),
            };
            format!("{}[[auth.issuers]]\n{own}\n{text}\n", auth(&accounts, &jwt))
        };
        for (text, expected) in [
            (String::new(), "`auth.jwt.keys_dir` (by default): is required"),
            (format!("[auth.jwt]\n{secret}"), "`auth.accounts_file` (by default): is required"),
            (auth(&accounts, ""), "set auth.jwt.hs256_secret"),
            (auth(&accounts, "hs256_secret = \"short\""), "`auth.jwt.hs256_secret` = [hidden]"),
            (
                auth(&accounts, &format!("hs256_secret = \"{KNOWN_SECRET}\"")),
                "`auth.jwt.hs256_secret` = [hidden] (in",
            ),
            (auth(&accounts, &format!("hs256_secret = \"{KNOWN_SECRET}\"")), "is the former example"),
            (
                auth(&accounts, &format!("{secret}\n{}", keys_dir("keys"))),
                "set auth.jwt.dangerous_secret_beside_keys = true",
            ),
            (auth(&accounts, "hs256_secrets = \"s\""), "unknown key"),
            (auth(&accounts, &keys_dir("none")), "No such file"),
            (auth(&accounts, &keys_dir("broken-keys")), "b.pem: is an RSA key of 1024 bits"),
            (issuer(&keys_dir("keys"), "iss = \"\"\naccounts = [\"*\"]"), "`auth.issuers`"),
            (
                issuer(&keys_dir("keys"), "iss = \"kazoo\"\naccounts = [\"*\"]"),
                "iss \"kazoo\" is empty or used twice",
            ),
            (issuer(&keys_dir("keys"), "iss = \"i\"\naccounts = []"), "i: accounts must list the ids"),
            (issuer(&keys_dir("keys"), "iss = \"i\"\naccounts = [\"\"]"), "i: accounts must list the ids"),
            (issuer(&keys_dir("keys"), "iss = \"i\""), "missing field `accounts`"),
            (issuer(&keys_dir("keys"), "iss = \"i\"\naccounts = [\"*\"]\nalgs = []"), "unknown key"),
            (
                issuer(&keys_dir("broken-keys"), "iss = \"i\"\naccounts = [\"*\"]"),
                "b.pem: is an RSA key of 1024 bits",
            ),
            (issuer(&secret, "iss = \"i\"\naccounts = [\"*\"]"), "beside auth.jwt.keys_dir or auth.issuers"),
            (auth(&dir.path().join("none.toml"), &secret), "No such file"),
            (auth(&broken_accounts, &secret), "broken.toml: line 1: missing field `name`"),
            (auth(&accounts, &secret) + "[admin]\nlisten = \"here\"", "`admin.listen` = \"here\""),
        ] {
            let error = load::<AuthSvcConfig>(&dir, &text).unwrap_err();
            assert!(error.contains(expected), "{error} instead of {expected}");
            assert!(!error.contains('\n') && !error.contains("short\"") && !error.contains(testing::SECRET));
            assert!(!error.contains(KNOWN_SECRET));
        }
        let both = format!("{secret}\n{}\ndangerous_secret_beside_keys = true", keys_dir("keys"));
        let other = format!("[[auth.issuers]]\niss = \"kazoo\"\n{}\naccounts = [\"*\"]", keys_dir("keys"));
        for jwt in [secret, keys_dir("keys"), both, other] {
            let config: AuthSvcConfig = load(&dir, &auth(&accounts, &jwt)).unwrap();
            assert_eq!(config.admin.listen.to_string(), "127.0.0.1:9402");
        }
        let text = issuer(&keys_dir("keys"), "iss = \"https://i\"\naccounts = [\"a\"]\naudience = \"me\"");
        let config: AuthSvcConfig = load(&dir, &text).unwrap();
        let issuers = issuers::Issuer::all(&config.auth).unwrap();
        assert_eq!(
            issuers.iter().map(|issuer| issuer.iss.as_str()).collect::<Vec<_>>(),
            ["kazoo", "https://i"]
        );
        assert_eq!(issuers[1].audience.as_deref(), Some("me"));
        assert_eq!(*issuers[1].scope, issuers::Scope::Below(vec!["a".into()]));
    }

    #[test]
    fn minting_requires_only_the_secret() {
        let dir = TempDir::new();
        let error = load::<MintConfig>(&dir, "[auth]\naccounts_file = \"/nonexistent\"").unwrap_err();
        assert!(error.contains("`auth.jwt.hs256_secret` (by default): is required to mint"), "{error}");
        let text = format!("[auth.jwt]\nhs256_secret = \"{}\"", testing::SECRET);
        load::<MintConfig>(&dir, &text).unwrap();
    }
}
