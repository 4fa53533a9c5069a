//! Binding families as data: which AMQP events there are, whose each one is, and how clients ask for it.
//!
//! The built-in families stand in `catalogue.toml`, compiled in; an operator's file adds to them or replaces
//! some ([`Catalogue::load`]). amqp-ingest derives its AMQP bindings from the catalogue and the tenant of each
//! event, ws-edge the bindings that it accepts. Both refuse to start with a catalogue that has a mistake.

mod amqp;
mod load;
mod template;

use std::collections::BTreeMap;

use serde::Deserialize;

pub use amqp::AmqpBinding;
pub use load::CatalogueError;
pub use template::{ACCOUNT, Part, Template};

/// All families, the operator's included, checked.
#[derive(Clone, Debug)]
pub struct Catalogue {
    families: Vec<Family>,
}

/// A family of bindings: what Blackhole has an Erlang module for.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Family {
    /// The name: in error texts, metrics and the listing of modules.
    pub name: String,
    /// In an operator's file: takes the place of the built-in family of that name.
    #[serde(default)]
    pub replace: bool,
    /// The kinds of events that the family brings.
    pub event: Vec<Event>,
}

/// One kind of AMQP event.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// The exchange that KAZOO publishes it to.
    pub exchange: String,
    /// The type of that exchange, as KAZOO declares it.
    #[serde(default)]
    pub exchange_type: ExchangeType,
    /// Its routing key. The first word is what tells kinds of events apart.
    pub key: Template,
    /// How the key is shown to clients, where that differs from [`Event::key`].
    #[serde(default)]
    pub shown: Option<Template>,
    /// Where its tenant is; the first source that has one counts. None: it belongs to nobody.
    pub tenant: Vec<TenantSource>,
    /// The words that a parameter may have. A parameter that is not listed may have any.
    #[serde(default)]
    pub values: BTreeMap<String, Vec<String>>,
    /// How clients ask for it.
    #[serde(default)]
    pub form: Vec<Form>,
}

/// The type of an exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExchangeType {
    /// Routes by pattern.
    #[default]
    Topic,
    /// Routes by the exact key.
    Direct,
    /// Routes everything to every queue.
    Fanout,
}

/// Where the tenant of an event is found.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantSource {
    /// A parameter of the routing key,
    #[serde(default)]
    pub key: Option<String>,
    /// or a member of the body; dots separate the names of nested members.
    #[serde(default)]
    pub body: Option<String>,
    /// What is found there.
    #[serde(default, rename = "as")]
    pub kind: TenantKind,
}

/// What the text at a [`TenantSource`] is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TenantKind {
    /// An account id.
    #[default]
    Account,
    /// The percent-encoded name of an account's database. Another database belongs to nobody, whatever the
    /// sources that follow say.
    Database,
    /// A SIP realm; percent-encoded where it is a word of the key.
    Realm,
    /// A SIP address, `user@realm`.
    Address,
}

/// A form of binding that clients send.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Form {
    /// The client's text. Its parameters are some of the event key's; those it leaves out may be anything.
    pub binding: Template,
    /// What it brings, in a few words for people who choose from a list.
    #[serde(default)]
    pub about: Option<String>,
    /// Parameters that must not be `*`, each with the error text that says so.
    #[serde(default)]
    pub required: BTreeMap<String, String>,
    /// The same, but superduper admins may.
    #[serde(default)]
    pub required_unless_superduper: BTreeMap<String, String>,
    /// Parameters that this form sets itself.
    #[serde(default)]
    pub fixed: BTreeMap<String, String>,
    /// A parameter that is always the own id of the client's token: for what is meant for its bearer alone.
    #[serde(default)]
    pub token_id: Option<String>,
}

impl Catalogue {
    /// The families, built-in ones first.
    pub fn families(&self) -> &[Family] {
        &self.families
    }

    /// The kind of an event that arrived through `exchange` with this routing key, if the catalogue has it.
    pub fn event(&self, exchange: &str, key: &str) -> Option<&Event> {
        self.families
            .iter()
            .flat_map(|family| &family.event)
            .find(|event| event.exchange == exchange && event.has_key(key))
    }

    /// The kind of an event by its routing key alone. Kinds on different exchanges never share a key: the
    /// catalogue is checked for that.
    pub fn event_by_key(&self, key: &str) -> Option<&Event> {
        self.families.iter().flat_map(|family| &family.event).find(|event| event.has_key(key))
    }
}

impl Event {
    /// How the key is shown to clients.
    pub fn shown_key(&self) -> &Template {
        self.shown.as_ref().unwrap_or(&self.key)
    }

    /// Whether `word` is possible for the parameter `name`.
    pub fn allows(&self, name: &str, word: &str) -> bool {
        self.values.get(name).is_none_or(|values| values.iter().any(|value| value == word))
    }

    fn has_key(&self, key: &str) -> bool {
        let mut words = key.split('.');
        for part in self.key.parts() {
            let Some(word) = words.next() else { return false };
            let fits = match part {
                Part::Literal(literal) => literal == word,
                Part::Parameter(name) => self.allows(name, word),
            };
            if !fits {
                return false;
            }
        }
        words.next().is_none()
    }
}

#[cfg(test)]
mod tests;
