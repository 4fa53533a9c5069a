//! `[nats]`: the connection to NATS.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{InvalidValue, ServerUrl};

/// `[nats]`: the connection to NATS.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NatsConfig {
    /// One server URL, or several separated by commas.
    pub url: ServerUrl,
    /// A credentials file (`.creds`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<PathBuf>,
    /// A file with the seed of an nkey.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nkey: Option<PathBuf>,
    /// A client certificate for TLS, with its chain, in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cert: Option<PathBuf>,
    /// Its private key, in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key: Option<PathBuf>,
    /// The prefix of all subjects.
    pub prefix: String,
}

impl Default for NatsConfig {
    fn default() -> Self {
        NatsConfig {
            url: ServerUrl::new("nats://127.0.0.1:4222"),
            credentials: None,
            nkey: None,
            client_cert: None,
            client_key: None,
            prefix: "blackhole.v1".into(),
        }
    }
}

impl NatsConfig {
    /// Part of [`super::Configuration::check`].
    ///
    /// # Errors
    /// The first invalid value.
    pub fn check(&self) -> Result<(), InvalidValue> {
        let plain = |word: &str| {
            !word.is_empty()
                && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
        };
        InvalidValue::unless(
            self.prefix.len() <= 64 && self.prefix.split('.').all(plain),
            "nats.prefix",
            "must be words of letters, digits, `_` and `-`, separated by dots, at most 64 bytes",
        )?;
        InvalidValue::unless(
            self.nkey.is_none() || self.credentials.is_none(),
            "nats.nkey",
            "nats.credentials is set too; a service logs in with one of them",
        )?;
        self.client_certificate()?;
        let servers = self
            .url
            .reveal()
            .split(',')
            .all(|server| server.trim().parse::<async_nats::ServerAddr>().is_ok());
        InvalidValue::unless(
            servers,
            "nats.url",
            "must be a server URL such as nats://127.0.0.1:4222, or several separated by commas",
        )
    }

    /// Files with the client certificate and its key, if there is one.
    ///
    /// # Errors
    /// If one of the two is missing.
    pub fn client_certificate(&self) -> Result<Option<(&Path, &Path)>, InvalidValue> {
        match (&self.client_cert, &self.client_key) {
            (Some(cert), Some(key)) => Ok(Some((cert, key))),
            (None, None) => Ok(None),
            (Some(_), None) => {
                Err(InvalidValue { key: "nats.client_cert", reason: "needs nats.client_key".into() })
            }
            (None, Some(_)) => {
                Err(InvalidValue { key: "nats.client_key", reason: "needs nats.client_cert".into() })
            }
        }
    }
}
