//! The configuration of auth-svc.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use blackhole_common::config::{AdminConfig, Configuration, InvalidValue, LogConfig, NatsConfig, Secret};
use serde::{Deserialize, Serialize};

use crate::{accounts::Accounts, keys::Keys, reload::FromFiles};

/// A shorter secret could be found by brute force from a single token.
const MIN_SECRET_BYTES: usize = 16;

/// Stood in `deploy/.env.example` once, so everybody knows it.
const KNOWN_SECRET: &str = "change-me-this-is-for-development";

const SECRET: &str = "auth.jwt.hs256_secret";

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
    #[serde(default = "admin")]
    pub admin: AdminConfig,
    /// Tokens and accounts.
    #[serde(default)]
    pub auth: AuthConfig,
}

/// `[auth]`: tokens and accounts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// The accounts file, see [`crate::accounts`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accounts_file: Option<PathBuf>,
    /// Tokens.
    pub jwt: JwtConfig,
}

/// `[auth.jwt]`: the keys that verify tokens.
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

fn admin() -> AdminConfig {
    AdminConfig { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9402)) }
}

impl Configuration for AuthSvcConfig {
    fn admin(&self) -> Option<SocketAddr> {
        Some(self.admin.listen)
    }

    /// Also reads the files, so that `--check-config` finds the same mistakes as a start.
    fn check(&self) -> Result<(), InvalidValue> {
        self.nats.check()?;
        self.log.check()?;
        self.auth.jwt.check()?;
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

impl JwtConfig {
    fn check(&self) -> Result<(), InvalidValue> {
        self.check_secret()?;
        InvalidValue::unless(
            self.hs256_secret.is_none() || self.keys_dir.is_none() || self.dangerous_secret_beside_keys,
            SECRET,
            "is set beside auth.jwt.keys_dir: whoever knows it can make a token of any account. Remove it, or set auth.jwt.dangerous_secret_beside_keys = true",
        )?;
        let key = "auth.jwt.keys_dir";
        let Some(directory) = &self.keys_dir else {
            return InvalidValue::unless(
                self.hs256_secret.is_some(),
                key,
                "is required: the directory of the keys that verify tokens, one <kid>.pem each (or, for development, set auth.jwt.hs256_secret)",
            );
        };
        let keys = Keys::read(directory).map_err(|error| InvalidValue { key, reason: error.to_string() })?;
        match keys.errors().first() {
            None => Ok(()),
            Some(error) => Err(InvalidValue { key, reason: error.to_string() }),
        }
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
    use blackhole_common::config;

    use super::*;
    use crate::testing::{self, TempDir};

    fn load<C: Configuration>(dir: &TempDir, text: &str) -> Result<C, String> {
        let file = dir.write("blackhole.toml", text);
        config::load(Some(&file)).map_err(|error| error.to_string())
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
        for jwt in [secret.clone(), keys_dir("keys"), both] {
            let config: AuthSvcConfig = load(&dir, &auth(&accounts, &jwt)).unwrap();
            assert_eq!(config.admin.listen.to_string(), "127.0.0.1:9402");
        }
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
