//! Configuration: defaults, then a TOML file, then a directory of secrets, then the environment
//! (`BLACKHOLE_<TABLE>__<KEY>`).
//!
//! All services can share one file: each reads its own tables and ignores the others'. On a wrong type, an invalid value
//! or an unknown variable the service exits with one line that names the key, the value and its origin. A key of the
//! file that it does not know is logged ([`Ignored`]); `--check-config` refuses it.

mod admin;
mod nats;
mod origin;
mod secret;
mod secrets;
mod unknown;

use std::{net::SocketAddr, path::Path};

use figment::{
    Figment,
    error::Kind,
    providers::{Env, Format, Serialized, Toml},
    value::Dict,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

pub use admin::AdminConfig;
pub use nats::NatsConfig;
pub use secret::{Secret, ServerUrl};
pub use unknown::Ignored;

use self::origin::invalid_value;
use crate::catalogue::Catalogue;

/// The tables of all services.
const TABLES: [&str; 8] = ["nats", "log", "admin", "amqp", "history", "catalogue", "auth", "ws"];

/// A service's configuration.
///
/// The top-level struct has one field per table. Tables must deny unknown fields; the top level must not, because it
/// ignores other services' tables. This module rejects unknown tables.
pub trait Configuration: Serialize + DeserializeOwned {
    /// Validates what types cannot express: values that are invalid alone or in combination.
    ///
    /// # Errors
    /// The first invalid value.
    fn check(&self) -> Result<(), InvalidValue>;

    /// Fills in absent values that follow from other keys. Called before [`Configuration::check`].
    fn complete(&mut self) {}

    /// The address of the admin server, if there is one.
    fn admin(&self) -> Option<SocketAddr> {
        None
    }
}

/// An invalid value, alone or in combination with others.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidValue {
    /// The key, as `table.key`.
    pub key: &'static str,
    /// What is wrong and how to fix it.
    pub reason: String,
}

impl InvalidValue {
    /// Returns an error for `key` unless `valid`.
    ///
    /// # Errors
    /// If not `valid`.
    pub fn unless(valid: bool, key: &'static str, reason: &str) -> Result<(), InvalidValue> {
        if valid { Ok(()) } else { Err(InvalidValue { key, reason: reason.to_owned() }) }
    }
}

/// A configuration mistake, on one line.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("configuration: {0}")]
pub struct ConfigError(String);

/// `[log]`: logging.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// `EnvFilter` directives of tracing-subscriber, such as `info,lapin=warn`.
    pub filter: String,
    /// The format of a log line.
    pub format: LogFormat,
}

/// The format of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Plain text.
    Text,
    /// One JSON object.
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
    /// If the filter does not parse.
    pub fn check(&self) -> Result<(), InvalidValue> {
        match self.filter.parse::<tracing_subscriber::EnvFilter>() {
            Ok(_) => Ok(()),
            Err(error) => Err(InvalidValue { key: "log.filter", reason: error.to_string() }),
        }
    }
}

/// `[catalogue]`: binding families.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CatalogueConfig {
    /// A file that adds to or replaces the built-in families.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<std::path::PathBuf>,
}

impl CatalogueConfig {
    /// Part of [`Configuration::check`]: the file must be valid.
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

/// A configuration, and what was ignored in it.
#[derive(Debug)]
pub struct Loaded<C> {
    /// What the service uses.
    pub config: C,
    /// What has no effect.
    pub ignored: Vec<Ignored>,
}

impl<C> Loaded<C> {
    /// The configuration, once what was ignored is in the log.
    pub fn logged(self) -> C {
        self.ignored.iter().for_each(Ignored::log);
        self.config
    }
}

/// What to do with keys of the file that this release does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownKeys {
    /// Report them, because an operator may have misspelt them.
    Refuse,
    /// Go on without them, because a newer release may know them.
    Ignore,
}

/// Reads and validates a service's configuration from `file`, if given, the directory that `BLACKHOLE_SECRETS` names, if it
/// is set, and the environment.
///
/// # Errors
/// The first mistake, on one line.
pub fn load<C: Configuration>(file: Option<&Path>, unknown: UnknownKeys) -> Result<Loaded<C>, ConfigError> {
    let figment = layers(file)?;
    let mut loaded: Loaded<C> = from_figment(&figment, unknown)?;
    loaded.config.check().map_err(|invalid| invalid_value(&figment, invalid.key, &invalid.reason))?;
    loaded.ignored.extend(unknown::misspelt(std::env::vars_os()));
    Ok(loaded)
}

/// Like [`load`], but skips [`Configuration::check`], which may read files that have changed since the
/// service started.
///
/// # Errors
/// The first mistake, on one line.
pub fn read<C: Configuration>(file: Option<&Path>) -> Result<C, ConfigError> {
    from_figment(&layers(file)?, UnknownKeys::Ignore).map(|loaded| loaded.config)
}

fn layers(file: Option<&Path>) -> Result<Figment, ConfigError> {
    let mut figment = Figment::new();
    if let Some(file) = file {
        // Figment treats a missing file as empty.
        if let Err(error) = std::fs::metadata(file) {
            return Err(ConfigError(format!("{}: {error}", file.display())));
        }
        figment = figment.merge(Toml::file_exact(file));
    }
    if let Some(directory) = std::env::var_os(secrets::DIRECTORY_VARIABLE) {
        for file in secrets::read(Path::new(&directory)).map_err(ConfigError)? {
            figment = figment.merge(file);
        }
    }
    let settings = Env::prefixed("BLACKHOLE_").filter(|name| unknown::is_setting(name.as_str()));
    Ok(figment.merge(settings.split("__")))
}

fn from_figment<C: Configuration>(figment: &Figment, unknown: UnknownKeys) -> Result<Loaded<C>, ConfigError> {
    let mut tables: Dict = figment.extract().map_err(|error| in_one_line(figment, &error))?;
    let mut ignored = Vec::new();
    let strangers = tables.keys().filter(|table| !TABLES.contains(&table.as_str()));
    for table in strangers.cloned().collect::<Vec<String>>() {
        let known = TABLES.join(", ");
        match unknown::ignore(figment, &mut tables, std::slice::from_ref(&table), &known) {
            Some(key) if unknown == UnknownKeys::Ignore => ignored.push(key),
            _ => return Err(invalid_value(figment, &table, &format!("unknown table; there are {known}"))),
        }
    }
    if let Some((table, _)) = tables.iter().find(|(_, value)| value.as_dict().is_none()) {
        return Err(invalid_value(figment, table, "must be a table with keys, not a value"));
    }
    // Each round removes one unknown key.
    let mut config: C = loop {
        let error = match Figment::from(Serialized::defaults(&tables)).extract() {
            Ok(config) => break config,
            Err(error) => error,
        };
        let key = match &error.kind {
            Kind::UnknownField(_, known) if unknown == UnknownKeys::Ignore => {
                unknown::ignore(figment, &mut tables, &path_of(&error), &known.join(", "))
            }
            _ => None,
        };
        ignored.push(key.ok_or_else(|| in_one_line(figment, &error))?);
    };
    config.complete();
    Ok(Loaded { config, ignored })
}

/// The path of the key that an error is about.
fn path_of(error: &figment::Error) -> Vec<String> {
    let mut path = error.path.clone();
    if let Kind::UnknownField(field, _) = &error.kind
        && path.last() != Some(field)
    {
        path.push(field.clone());
    }
    path
}

fn in_one_line(figment: &Figment, error: &figment::Error) -> ConfigError {
    let key = path_of(error).join(".");
    let reason = match &error.kind {
        // Figment's message would repeat the value, which may be secret.
        Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected) => format!("expected {expected}"),
        Kind::UnknownField(_, expected) => format!("unknown key; there are {}", expected.join(", ")),
        Kind::UnknownVariant(_, expected) => format!("expected one of {}", expected.join(", ")),
        other => other.to_string(),
    };
    if key.is_empty() {
        // The file is not valid TOML. Drop the excerpt (the lines with `|`), which may contain a secret.
        let text = error.to_string();
        let lines: Vec<&str> =
            text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.contains('|')).collect();
        return ConfigError(lines.join(": "));
    }
    invalid_value(figment, &key, &reason)
}

#[cfg(test)]
mod tests;
