//! Which things a kind of events tells of, and when they end: of each living thing the last event is kept, for clients
//! that ask for the present.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use super::{Event, Family};

/// The longest `max_age`.
const MAX_AGE: Duration = Duration::from_secs(31 * 86_400);

/// Things that a kind of events tells of, such as calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Things {
    /// What tells one thing from another. An event without one of these values is of no thing.
    pub key: Vec<Source>,
    /// What ends a thing: one of these.
    #[serde(default)]
    pub ends: Vec<Condition>,
    /// Which events are kept; all if empty.
    #[serde(default)]
    pub only: Vec<Condition>,
    /// A thing without events for this time is taken for ended.
    #[serde(default = "a_day", with = "humantime_serde")]
    pub max_age: Duration,
}

/// Where to find a value of an event: in the routing key or in the body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// A parameter of the routing key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The path of a member of the body, with dots between the names of nested members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

/// A value of an event is one of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// A parameter of the routing key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The path of a member of the body, with dots between the names of nested members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The values, word for word.
    pub values: Vec<String>,
}

/// What an event says of its thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// The thing with this key lives, and this is its last event.
    Lives(Vec<String>),
    /// The thing with this key has ended.
    Ended(Vec<String>),
}

fn a_day() -> Duration {
    Duration::from_secs(86_400)
}

/// One table, or a list of them.
pub(super) fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Things>, D::Error> {
    let value = toml::Value::deserialize(deserializer)?;
    let tables = match value {
        toml::Value::Array(tables) => tables,
        table => vec![table],
    };
    tables.into_iter().map(|table| table.try_into().map_err(serde::de::Error::custom)).collect()
}

impl Things {
    /// The paths of the body's members that say something about the things.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        let conditions = self.ends.iter().chain(&self.only).filter_map(|condition| condition.body.as_deref());
        self.key.iter().filter_map(|source| source.body.as_deref()).chain(conditions)
    }

    /// What an event says; `None` if nothing. `value` finds a parameter of its key, or a member of its body.
    pub fn read<'v>(&self, value: impl Fn(Option<&str>, Option<&str>) -> Option<&'v str>) -> Option<Said> {
        let key = self.key.iter().map(|source| {
            let text = value(source.key.as_deref(), source.body.as_deref());
            text.filter(|text| !text.is_empty()).map(str::to_owned)
        });
        let key = key.collect::<Option<Vec<String>>>()?;
        let holds = |condition: &Condition| {
            let text = value(condition.key.as_deref(), condition.body.as_deref());
            text.is_some_and(|text| condition.values.iter().any(|value| value == text))
        };
        if self.ends.iter().any(holds) {
            Some(Said::Ended(key))
        } else if self.only.is_empty() || self.only.iter().any(holds) {
            Some(Said::Lives(key))
        } else {
            None
        }
    }

    /// Checks that everything that is named exists.
    pub(super) fn check(&self, event: &Event) -> Result<(), String> {
        if self.key.is_empty() {
            return Err("`key` is empty: what tells one thing from another?".into());
        }
        for Source { key, body } in &self.key {
            check_source(event, "key", key.as_deref(), body.as_deref())?;
        }
        for (name, conditions) in [("ends", &self.ends), ("only", &self.only)] {
            for Condition { key, body, values } in conditions {
                check_source(event, name, key.as_deref(), body.as_deref())?;
                if values.is_empty() {
                    return Err(format!("`{name}` has an empty list of `values`"));
                }
                let known = |value: &String| key.as_deref().is_none_or(|key| event.allows(key, value));
                if let Some(value) = values.iter().find(|value| !known(value)) {
                    return Err(format!(
                        "`{name}`: no event has `{value}` there: it is not among the parameter's values"
                    ));
                }
            }
        }
        if self.max_age.is_zero() || self.max_age > MAX_AGE {
            return Err("`max_age` must be longer than 0 and at most 31 days".into());
        }
        Ok(())
    }
}

fn check_source(event: &Event, name: &str, key: Option<&str>, body: Option<&str>) -> Result<(), String> {
    match (key, body) {
        (Some(parameter), None) if event.key.position(parameter).is_some() => Ok(()),
        (Some(parameter), None) => Err(format!("`{name}`: `{parameter}` is no parameter of the key")),
        (None, Some(path)) if path.split('.').all(|member| !member.is_empty()) => Ok(()),
        (None, Some(path)) => Err(format!("`{name}`: `{path}` has an empty member name")),
        _ => Err(format!("`{name}` names either `key` (a parameter) or `body` (a member)")),
    }
}

impl Family {
    /// Whether something is kept of it.
    pub fn has_state(&self) -> bool {
        self.event.iter().any(|event| !event.state.is_empty())
    }

    /// What defines its things, as a text that changes with them.
    pub fn state_definition(&self) -> String {
        let kinds = self.event.iter().filter(|event| !event.state.is_empty());
        let kinds = kinds.map(|event| (event.exchange.as_str(), event.key.as_str(), &event.state));
        // Serializing texts and numbers cannot fail.
        serde_json::to_string(&kinds.collect::<Vec<_>>()).unwrap_or_default()
    }
}
