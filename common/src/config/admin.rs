//! `[admin]`: the admin port.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use super::{InvalidValue, Secret};

/// Shorter tokens could be guessed.
const MIN_TOKEN_BYTES: usize = 16;

/// `[admin]`: metrics, health, lists and drain. `PORT` is the port on loopback where a service listens by default.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminConfig<const PORT: u16> {
    /// The address that the admin server listens on.
    #[serde(default = "on_loopback::<PORT>")]
    pub listen: SocketAddr,
    /// The token that lists and changes require.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// A file that contains the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// Without a token, allows lists and changes also where not only this machine can connect.
    #[serde(default)]
    pub dangerous_without_token: bool,
}

fn on_loopback<const PORT: u16>() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))
}

impl<const PORT: u16> Default for AdminConfig<PORT> {
    fn default() -> Self {
        AdminConfig {
            listen: on_loopback::<PORT>(),
            token: None,
            token_file: None,
            dangerous_without_token: false,
        }
    }
}

impl<const PORT: u16> AdminConfig<PORT> {
    /// Part of [`super::Configuration::check`].
    ///
    /// # Errors
    /// If the token is not acceptable.
    pub fn check(&self) -> Result<(), InvalidValue> {
        self.read_token().map(drop)
    }

    /// The token, if one is configured. Reads the file.
    ///
    /// # Errors
    /// If the token is not acceptable, or the file not readable.
    pub fn read_token(&self) -> Result<Option<Secret>, InvalidValue> {
        let (key, token) = match (&self.token, &self.token_file) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => {
                return Err(InvalidValue {
                    key: "admin.token_file",
                    reason: "admin.token is set too".into(),
                });
            }
            (Some(token), None) => ("admin.token", token.clone()),
            (None, Some(file)) => {
                let key = "admin.token_file";
                let text = std::fs::read_to_string(file)
                    .map_err(|error| InvalidValue { key, reason: error.to_string() })?;
                (key, Secret::new(text.trim_end()))
            }
        };
        let is_token =
            |text: &str| text.len() >= MIN_TOKEN_BYTES && text.bytes().all(|byte| byte.is_ascii_graphic());
        InvalidValue::unless(
            is_token(token.reveal()),
            key,
            "must be at least 16 printable ASCII characters without spaces; `openssl rand -hex 32` generates a token",
        )?;
        Ok(Some(token))
    }
}
