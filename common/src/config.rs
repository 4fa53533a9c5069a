//! Configuration: defaults, then a TOML file, then the environment (`BLACKHOLE_<TABLE>__<KEY>`).
//!
//! One file may serve all services: each reads its own tables and leaves the others' alone. An unknown table or
//! key, a wrong type or an impossible value stops the start with one line that names the key, the value and
//! where it came from.

mod secret;

use std::{net::SocketAddr, path::Path};

use figment::{
    Figment,
    error::Kind,
    providers::{Env, Format, Toml},
    value::{Dict, Value},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

pub use secret::{Secret, ServerUrl};

use crate::catalogue::Catalogue;

/// The tables that some service reads.
const TABLES: [&str; 8] = ["nats", "log", "admin", "amqp", "history", "catalogue", "auth", "ws"];

/// A service's configuration.
///
/// The top level struct holds one field per table. Tables deny unknown fields, the top level does not: which
/// tables exist is known here.
pub trait Configuration: Serialize + DeserializeOwned {
    /// What no single type can tell: values that are impossible, alone or together.
    ///
    /// # Errors
    /// The first impossible value.
    fn check(&self) -> Result<(), InvalidValue>;

    /// Fills in what is absent and follows from other keys. Comes before [`Configuration::check`].
    fn complete(&mut self) {}

    /// Where the service's health is asked for, if it is a service.
    fn admin(&self) -> Option<SocketAddr> {
        None
    }
}

/// A value that no service can work with.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidValue {
    /// The key, `table.key`.
    pub key: &'static str,
    /// What is wrong with it and what to do.
    pub reason: String,
}

impl InvalidValue {
    /// Fails with `reason` for `key` unless `fine`.
    ///
    /// # Errors
    /// When not `fine`.
    pub fn unless(fine: bool, key: &'static str, reason: &str) -> Result<(), InvalidValue> {
        if fine { Ok(()) } else { Err(InvalidValue { key, reason: reason.to_owned() }) }
    }
}

/// A mistake in the configuration, in one line.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("configuration: {0}")]
pub struct ConfigError(String);

/// `[nats]`: the connection to NATS.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NatsConfig {
    /// Server URL, or several with commas between.
    pub url: ServerUrl,
    /// A credentials file (`.creds`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<std::path::PathBuf>,
    /// What all subjects begin with.
    pub prefix: String,
}

impl Default for NatsConfig {
    fn default() -> Self {
        NatsConfig {
            url: ServerUrl::new("nats://127.0.0.1:4222"),
            credentials: None,
            prefix: "blackhole.v1".into(),
        }
    }
}

impl NatsConfig {
    /// Part of [`Configuration::check`].
    ///
    /// # Errors
    /// The first impossible value.
    pub fn check(&self) -> Result<(), InvalidValue> {
        let plain = |word: &str| {
            !word.is_empty()
                && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
        };
        InvalidValue::unless(
            self.prefix.len() <= 64 && self.prefix.split('.').all(plain),
            "nats.prefix",
            "must be words of letters, digits, `_` and `-` with dots between, 64 bytes at most",
        )?;
        let servers = self
            .url
            .reveal()
            .split(',')
            .all(|server| server.trim().parse::<async_nats::ServerAddr>().is_ok());
        InvalidValue::unless(
            servers,
            "nats.url",
            "must be a server URL such as nats://127.0.0.1:4222, or several with commas",
        )
    }
}

/// `[log]`: what is logged, and how.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Directives of tracing-subscriber's `EnvFilter`, such as `info,lapin=warn`.
    pub filter: String,
    /// One line of text or one JSON object per event.
    pub format: LogFormat,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For collectors.
    Json,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig { filter: "info".into(), format: LogFormat::Text }
    }
}

impl LogConfig {
    /// Part of [`Configuration::check`].
    ///
    /// # Errors
    /// A filter that cannot be read.
    pub fn check(&self) -> Result<(), InvalidValue> {
        match self.filter.parse::<tracing_subscriber::EnvFilter>() {
            Ok(_) => Ok(()),
            Err(error) => Err(InvalidValue { key: "log.filter", reason: error.to_string() }),
        }
    }
}

/// `[admin]`: metrics and health, not for the public.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminConfig {
    /// Where the admin server listens.
    pub listen: SocketAddr,
}

/// `[catalogue]`: binding families.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CatalogueConfig {
    /// A file that adds to the built-in families.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<std::path::PathBuf>,
}

impl CatalogueConfig {
    /// Part of [`Configuration::check`]: a mistake in the file is one in the configuration.
    ///
    /// # Errors
    /// The first mistake, with the family and the reason.
    pub fn check(&self) -> Result<(), InvalidValue> {
        match Catalogue::load(self.file.as_deref()) {
            Ok(_) => Ok(()),
            Err(error) => Err(InvalidValue { key: "catalogue.file", reason: error.to_string() }),
        }
    }
}

/// Reads and checks a service's configuration from `file`, if any, and the environment.
///
/// # Errors
/// The first mistake, in one line.
pub fn load<C: Configuration>(file: Option<&Path>) -> Result<C, ConfigError> {
    let figment = layers(file)?;
    let config: C = from_figment(&figment)?;
    config.check().map_err(|impossible| mistake(&figment, impossible.key, &impossible.reason))?;
    Ok(config)
}

/// Reads a service's configuration without [`Configuration::check`], which may look at files that have changed since
/// the service started.
///
/// # Errors
/// The first mistake, in one line.
pub fn read<C: Configuration>(file: Option<&Path>) -> Result<C, ConfigError> {
    from_figment(&layers(file)?)
}

fn layers(file: Option<&Path>) -> Result<Figment, ConfigError> {
    let mut figment = Figment::new();
    if let Some(file) = file {
        // Figment takes a file that is not there for an empty one.
        if let Err(error) = std::fs::metadata(file) {
            return Err(ConfigError(format!("{}: {error}", file.display())));
        }
        figment = figment.merge(Toml::file_exact(file));
    }
    Ok(figment.merge(Env::prefixed("BLACKHOLE_").ignore(&["CONFIG"]).split("__")))
}

fn from_figment<C: Configuration>(figment: &Figment) -> Result<C, ConfigError> {
    let tables: Dict = figment.extract().map_err(|error| in_one_line(figment, error))?;
    if let Some(table) = tables.keys().find(|table| !TABLES.contains(&table.as_str())) {
        return Err(mistake(figment, table, &format!("unknown table; there are {}", TABLES.join(", "))));
    }
    if let Some((table, _)) = tables.iter().find(|(_, value)| value.as_dict().is_none()) {
        return Err(mistake(figment, table, "is a table: it has keys, no value of its own"));
    }
    let mut config: C = figment.extract().map_err(|error| in_one_line(figment, error))?;
    config.complete();
    Ok(config)
}

fn in_one_line(figment: &Figment, error: figment::Error) -> ConfigError {
    let Some(error) = error.into_iter().next() else { return ConfigError("unreadable".into()) };
    let mut path = error.path.clone();
    if let Kind::UnknownField(field, _) = &error.kind
        && path.last() != Some(field)
    {
        path.push(field.clone());
    }
    let key = path.join(".");
    let reason = match &error.kind {
        // What was found is said once, below, and not at all where it is secret.
        Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected) => format!("expected {expected}"),
        Kind::UnknownField(_, expected) => format!("unknown key; there are {}", expected.join(", ")),
        Kind::UnknownVariant(_, expected) => format!("expected one of {}", expected.join(", ")),
        other => other.to_string(),
    };
    if key.is_empty() {
        // The file is no TOML at all. What stands in the line may be a secret: the picture of it is left out.
        let text = error.to_string();
        let said: Vec<&str> =
            text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.contains('|')).collect();
        return ConfigError(said.join(": "));
    }
    mistake(figment, &key, &reason)
}

fn mistake(figment: &Figment, key: &str, reason: &str) -> ConfigError {
    let value =
        figment.find_value(key).ok().map(|value| format!(" = {}", shown(key, &value))).unwrap_or_default();
    let origin = match figment.find_metadata(key) {
        Some(metadata) => match &metadata.source {
            Some(source) => format!("in {source}"),
            None => format!("in the environment (BLACKHOLE_{})", key.replace('.', "__").to_ascii_uppercase()),
        },
        None => "by default".to_owned(),
    };
    ConfigError(format!("`{key}`{value} ({origin}): {reason}"))
}

fn shown(key: &str, value: &Value) -> String {
    // A list of brokers that could not be read is a text with passwords somewhere.
    let is_secret = ["secret", "password", "brokers"].iter().any(|word| key.contains(word));
    if is_secret && !matches!(value, Value::Array(..) | Value::Dict(..)) {
        return secret::HIDDEN.to_owned();
    }
    match value {
        Value::String(_, text) => format!("{:?}", secret::without_password(text)),
        Value::Char(_, value) => format!("{value:?}"),
        Value::Bool(_, value) => value.to_string(),
        Value::Num(_, value) => {
            let whole = value.to_i128().or_else(|| value.to_u128().and_then(|value| value.try_into().ok()));
            whole
                .map(|value| value.to_string())
                .or_else(|| value.to_f64().map(|value| value.to_string()))
                .unwrap_or_default()
        }
        Value::Empty(..) => "nothing".to_owned(),
        Value::Dict(..) => "a table".to_owned(),
        Value::Array(..) => "a list".to_owned(),
    }
}

#[cfg(test)]
mod tests;
