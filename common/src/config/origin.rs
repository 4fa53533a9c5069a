//! Where a value comes from, and what may be shown of it.

use figment::{Figment, Metadata, value::Value};

use super::{ConfigError, secret, secrets};

/// An error for the value of `key`, with the value and its origin.
pub(super) fn invalid_value(figment: &Figment, key: &str, reason: &str) -> ConfigError {
    let origin = figment.find_metadata(key);
    // Whatever such a file contains is secret, also if it is not what it should be, such as encoded twice.
    let is_secret = origin.is_some_and(secrets::is_origin);
    let shown = |value: &Value| if is_secret { secret::HIDDEN.to_owned() } else { shown(key, value) };
    let value = figment.find_value(key).ok().map(|value| format!(" = {}", shown(&value))).unwrap_or_default();
    let origin = match origin {
        Some(metadata) => match &metadata.source {
            Some(source) => format!("in {source}"),
            None => format!("in the environment (BLACKHOLE_{})", key.replace('.', "__").to_ascii_uppercase()),
        },
        None => "by default".to_owned(),
    };
    ConfigError(format!("`{key}`{value} ({origin}): {reason}"))
}

/// The origin of the value at `path`. Figment does not look into lists, whose values all have the list's origin.
pub(super) fn metadata<'f>(figment: &'f Figment, path: &[String]) -> Option<&'f Metadata> {
    (1..=path.len()).rev().find_map(|length| figment.find_metadata(&path.get(..length)?.join(".")))
}

fn shown(key: &str, value: &Value) -> String {
    // A list of brokers that does not parse is one string with passwords in it.
    let is_secret =
        key == "admin.token" || ["secret", "password", "brokers"].iter().any(|word| key.contains(word));
    if is_secret && !matches!(value, Value::Array(..) | Value::Dict(..)) {
        return secret::HIDDEN.to_owned();
    }
    match value {
        Value::String(_, text) => format!("{:?}", secret::without_password(text)),
        Value::Char(_, value) => format!("{value:?}"),
        Value::Bool(_, value) => value.to_string(),
        Value::Num(_, value) => {
            let integer = value.to_i128().or_else(|| value.to_u128().and_then(|value| value.try_into().ok()));
            integer
                .map(|value| value.to_string())
                .or_else(|| value.to_f64().map(|value| value.to_string()))
                .unwrap_or_default()
        }
        Value::Empty(..) => "nothing".to_owned(),
        Value::Dict(..) => "a table".to_owned(),
        Value::Array(..) => "a list".to_owned(),
    }
}
