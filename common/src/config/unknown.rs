//! What a service finds in its configuration and does not use: keys that it does not know, and variables that are no
//! settings.
//!
//! A key that only a newer release knows must not stop an older one that goes back to the same file, so such keys are
//! logged. The environment belongs to one service, so there an unknown key is a mistake.

use std::{
    ffi::OsStr,
    fmt,
    path::{Path, PathBuf},
};

use figment::{
    Figment, Source,
    value::{Dict, Value},
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{TABLES, origin::metadata, secrets::DIRECTORY_VARIABLE};

/// The variable that names the configuration file.
const FILE_VARIABLE: &str = "BLACKHOLE_CONFIG";
const PREFIX: &str = "BLACKHOLE_";

/// Something in the configuration that has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// A key of the file that this release does not know.
    Key {
        /// The key, with its tables.
        key: String,
        /// Where it is.
        file: PathBuf,
        /// The line, from 1.
        line: Option<usize>,
        /// What there is instead.
        known: String,
    },
    /// A variable that is no setting, but looks like one.
    Variable {
        /// Its name.
        name: String,
        /// The setting that was perhaps meant.
        similar: String,
    },
}

impl Ignored {
    /// Logs it as a warning.
    pub fn log(&self) {
        match self {
            Ignored::Key { key, file, line, known } => tracing::warn!(
                key,
                file = %file.display(),
                line,
                "an unknown key in the configuration is ignored; there are {known}"
            ),
            Ignored::Variable { name, similar } => {
                tracing::warn!(name, "a variable that is no setting is ignored; did you mean {similar}?");
            }
        }
    }
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ignored::Key { key, file, line, known } => {
                write!(f, "`{key}` in {}", file.display())?;
                line.iter().try_for_each(|line| write!(f, ", line {line}"))?;
                write!(f, " is unknown and ignored; there are {known}")
            }
            Ignored::Variable { name, similar } => {
                write!(f, "the variable {name} is no setting and ignored; did you mean {similar}?")
            }
        }
    }
}

/// Removes the key at `path` from what was read, if it comes from a file.
pub(super) fn ignore(figment: &Figment, tables: &mut Dict, path: &[String], known: &str) -> Option<Ignored> {
    let file = file_of(figment, path)?;
    remove(tables, path).then(|| Ignored::Key {
        key: path.join("."),
        line: line_of(&file, path),
        file,
        known: known.to_owned(),
    })
}

fn file_of(figment: &Figment, path: &[String]) -> Option<PathBuf> {
    match metadata(figment, path)?.source.as_ref()? {
        Source::File(file) => Some(file.clone()),
        _ => None,
    }
}

/// Removes the key at `path`; returns whether it was there.
fn remove(keys: &mut Dict, path: &[String]) -> bool {
    match path.split_first() {
        Some((key, [])) => keys.remove(key).is_some(),
        Some((key, rest)) => keys.get_mut(key).is_some_and(|value| remove_within(value, rest)),
        None => false,
    }
}

fn remove_within(value: &mut Value, path: &[String]) -> bool {
    match value {
        Value::Dict(_, keys) => remove(keys, path),
        Value::Array(_, values) => path.split_first().is_some_and(|(index, rest)| {
            let value = index.parse::<usize>().ok().and_then(|index| values.get_mut(index));
            value.is_some_and(|value| remove_within(value, rest))
        }),
        _ => false,
    }
}

/// The line of the key `path` in a TOML file, from 1.
fn line_of(file: &Path, path: &[String]) -> Option<usize> {
    let text = std::fs::read_to_string(file).ok()?;
    let table = DeTable::parse(&text).ok()?;
    let start = position(table.get_ref(), path)?;
    Some(text.get(..start)?.matches('\n').count() + 1)
}

fn position(table: &DeTable<'_>, path: &[String]) -> Option<usize> {
    let (first, rest) = path.split_first()?;
    let (key, value) = table.iter().find(|(key, _)| key.get_ref() == first)?;
    if rest.is_empty() { Some(key.span().start) } else { within(value, rest) }
}

fn within(value: &Spanned<DeValue<'_>>, path: &[String]) -> Option<usize> {
    match value.get_ref() {
        DeValue::Table(table) => position(table, path),
        DeValue::Array(values) => {
            let (first, rest) = path.split_first()?;
            within(values.get(first.parse::<usize>().ok()?)?, rest)
        }
        _ => None,
    }
}

/// Whether a variable is a setting, by its name without the prefix.
pub(super) fn is_setting(name: &str) -> bool {
    name.contains("__")
}

/// Variables that are no settings, but look like one with `_` instead of `__`.
///
/// Kubernetes describes each Service to every container of its namespace; for a Service named `blackhole-ws`, the
/// variables begin with `BLACKHOLE_WS_`. These are not meant for us.
pub(super) fn misspelt<N, V>(variables: impl Iterator<Item = (N, V)>) -> Vec<Ignored>
where
    N: AsRef<OsStr>,
    V: AsRef<OsStr>,
{
    let mut misspelt = Vec::new();
    for (name, value) in variables {
        let Some(name) = name.as_ref().to_str() else { continue };
        if name == FILE_VARIABLE || name == DIRECTORY_VARIABLE || is_service_link(name, value.as_ref()) {
            continue;
        }
        let Some(rest) = name.strip_prefix(PREFIX).filter(|rest| !is_setting(rest)) else { continue };
        let words = rest.trim_start_matches('_').split_once('_');
        let Some((table, key)) = words.filter(|(_, key)| !key.is_empty()) else { continue };
        if TABLES.contains(&table.to_ascii_lowercase().as_str()) {
            misspelt.push(Ignored::Variable {
                name: name.to_owned(),
                similar: format!("{PREFIX}{table}__{key}").to_ascii_uppercase(),
            });
        }
    }
    misspelt.sort_by_key(ToString::to_string);
    misspelt
}

/// Whether Kubernetes made this variable for a Service: `X_SERVICE_HOST`, `X_SERVICE_PORT`, `X_SERVICE_PORT_NAME`,
/// `X_PORT`, `X_PORT_80_TCP`, `X_PORT_80_TCP_ADDR`.
fn is_service_link(name: &str, value: &OsStr) -> bool {
    let is_url = || {
        let schemes = ["tcp://", "udp://", "sctp://"];
        value.to_str().is_some_and(|value| schemes.iter().any(|scheme| value.starts_with(scheme)))
    };
    let has_port = || {
        let (_, after) = name.rsplit_once("_PORT_").or_else(|| {
            // The last part may be called PORT, too.
            name.strip_suffix("_PORT").and_then(|name| name.rsplit_once("_PORT_"))
        })?;
        let (port, protocol) = after.split_once('_')?;
        let is_protocol = ["TCP", "UDP", "SCTP"].iter().any(|known| protocol.starts_with(known));
        Some(is_protocol && port.parse::<u16>().is_ok())
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || is_url()
        || has_port().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_links_are_no_misspelt_settings() {
        let variables = [
            ("BLACKHOLE_PORT", "tcp://10.0.0.1:5555"),
            ("BLACKHOLE_SERVICE_HOST", "10.0.0.1"),
            ("BLACKHOLE_WS_SERVICE_HOST", "10.0.0.1"),
            ("BLACKHOLE_WS_SERVICE_PORT", "5555"),
            ("BLACKHOLE_WS_SERVICE_PORT_WSS", "5555"),
            ("BLACKHOLE_WS_PORT", "tcp://10.0.0.1:5555"),
            ("BLACKHOLE_WS_PORT_5555_TCP", "tcp://10.0.0.1:5555"),
            ("BLACKHOLE_WS_PORT_5555_TCP_PROTO", "tcp"),
            ("BLACKHOLE_WS_PORT_5555_TCP_PORT", "5555"),
            ("BLACKHOLE_WS_PORT_5555_TCP_ADDR", "10.0.0.1"),
            ("BLACKHOLE_CONFIG", "/etc/blackhole.toml"),
            ("BLACKHOLE_SECRETS", "/run/secrets"),
            ("BLACKHOLE_LOG__LEVEL", "debug"),
            ("BLACKHOLE_HOME", "/opt"),
            ("BLACKHOLE_", ""),
            ("LOG_FILTER", "debug"),
        ];
        assert_eq!(misspelt(variables.into_iter()), []);
    }

    #[test]
    fn a_single_underscore_is_told_with_the_name_that_was_meant() {
        let variables = [
            ("BLACKHOLE_LOG_FILTER", "debug"),
            ("BLACKHOLE_WS_MAX_FRAME", "1"),
            ("BLACKHOLE__NATS_URL", "nats://u:s3cr3t@h"),
            ("BLACKHOLE_WS_PORT", "5555"),
        ];
        let told: Vec<String> = misspelt(variables.into_iter()).iter().map(ToString::to_string).collect();
        let meant = ["LOG__FILTER", "NATS__URL", "WS__MAX_FRAME", "WS__PORT"];
        assert_eq!(told.len(), meant.len(), "{told:?}");
        for name in meant {
            let expected = format!("ignored; did you mean BLACKHOLE_{name}?");
            assert!(
                told.iter().any(|line| line.ends_with(&expected) && !line.contains("s3cr3t")),
                "{told:?}"
            );
        }
    }
}
