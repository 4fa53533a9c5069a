//! Binding families as data: the AMQP events, the tenant of each event, and the bindings that clients may request.
//!
//! The built-in families are in `catalogue.toml`, which is compiled in; an operator's file adds or replaces
//! families ([`Catalogue::load`]). amqp-ingest derives its AMQP bindings and each event's tenant from the
//! catalogue, ws-edge the bindings that it accepts. Both refuse to start with an invalid catalogue.

mod amqp;
mod dialled;
mod load;
mod state;
mod template;

use std::collections::BTreeMap;

use serde::Deserialize;

pub use amqp::AmqpBinding;
pub use dialled::Dialled;
pub use load::CatalogueError;
pub use state::{Said, Things};
pub use template::{ACCOUNT, Part, Template};

/// All families, including the operator's. Always valid.
#[derive(Clone, Debug)]
pub struct Catalogue {
    families: Vec<Family>,
}

/// A family of bindings. KAZOO's Blackhole has an Erlang module for each.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Family {
    /// The name, as in error messages, metrics and module listings.
    pub name: String,
    /// In an operator's file: replaces the built-in family with this name.
    #[serde(default)]
    pub replace: bool,
    /// The kinds of events in this family.
    pub event: Vec<Event>,
}

/// One kind of AMQP event.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// The exchange that KAZOO publishes to.
    pub exchange: String,
    /// The exchange type that KAZOO declares.
    #[serde(default)]
    pub exchange_type: ExchangeType,
    /// The routing key. Its first word identifies the kind of event.
    pub key: Template,
    /// The key as shown to clients, if it differs from [`Event::key`].
    #[serde(default)]
    pub shown: Option<Template>,
    /// Where to find the tenant; the first source that has a value wins. Empty if the event has no tenant.
    pub tenant: Vec<TenantSource>,
    /// Where to find whose it is within its account; the first source that has a value wins. Empty if the event names
    /// nobody: tokens that may see only their own user's events cannot have it.
    #[serde(default)]
    pub owner: Vec<OwnerSource>,
    /// Which of these events belong to the account of the dialled number if they name none.
    #[serde(default)]
    pub dialled: Option<Dialled>,
    /// The allowed words of each parameter. Parameters that are not listed allow any word.
    #[serde(default)]
    pub values: BTreeMap<String, Vec<String>>,
    /// The things that it tells of, whose last events are kept. Empty: nothing is kept.
    #[serde(default, deserialize_with = "state::one_or_many")]
    pub state: Vec<Things>,
    /// The bindings that clients may request.
    #[serde(default)]
    pub form: Vec<Form>,
}

/// The type of an AMQP exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExchangeType {
    /// Routes by pattern.
    #[default]
    Topic,
    /// Routes by the exact key.
    Direct,
    /// Routes every message to every bound queue.
    Fanout,
}

/// Where to find the tenant of an event: in the routing key or in the body.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantSource {
    /// A parameter of the routing key.
    #[serde(default)]
    pub key: Option<String>,
    /// The path of a member of the body, with dots between the names of nested members.
    #[serde(default)]
    pub body: Option<String>,
    /// How to interpret the value.
    #[serde(default, rename = "as")]
    pub kind: TenantKind,
}

/// How to interpret the value at a [`TenantSource`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TenantKind {
    /// An account id.
    #[default]
    Account,
    /// The percent-encoded name of an account's database. An event of any other database has no tenant; later sources
    /// are ignored.
    Database,
    /// A SIP realm; percent-encoded if it is a word of the key.
    Realm,
    /// A SIP address, `user@realm`.
    Address,
}

/// Where to find whose an event is within its account: in the routing key or in the body.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnerSource {
    /// A parameter of the routing key.
    #[serde(default)]
    pub key: Option<String>,
    /// The path of a member of the body, with dots between the names of nested members.
    #[serde(default)]
    pub body: Option<String>,
    /// How to interpret the value.
    #[serde(default, rename = "as")]
    pub kind: OwnerKind,
}

/// How to interpret the value at an [`OwnerSource`]; see [`Owner`](crate::owner::Owner).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OwnerKind {
    /// The id of a user's document, or of one that belongs to a user.
    #[default]
    Document,
    /// A phone or mailbox: a SIP address or its user part.
    Presence,
    /// The id of a token.
    Token,
}

/// A form of binding that clients may request.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Form {
    /// The binding. Its parameters are a subset of the event key's; omitted parameters match any word.
    pub binding: Template,
    /// A short description for users who choose from a list.
    #[serde(default)]
    pub about: Option<String>,
    /// Parameters that must not be `*`, with the error message for each.
    #[serde(default)]
    pub required: BTreeMap<String, String>,
    /// Like [`Form::required`], but superduper admins may use `*`.
    #[serde(default)]
    pub required_unless_superduper: BTreeMap<String, String>,
    /// Parameters that are always `*` in this form. With another word, the binding is of another form.
    #[serde(default)]
    pub wildcards: Vec<String>,
    /// The allowed words of parameters in this form, besides `*`.
    #[serde(default)]
    pub values: BTreeMap<String, Vec<String>>,
    /// Parameters that are neither `*` nor one of the words that [`Form::values`] lists for another parameter. Otherwise
    /// the binding is of another form.
    #[serde(default)]
    pub not_values: BTreeMap<String, String>,
    /// The beginning of the error message if a parameter's word is not in [`Form::values`]; the word follows.
    #[serde(default)]
    pub unsupported: BTreeMap<String, String>,
    /// Parameters with a fixed value in this form.
    #[serde(default)]
    pub fixed: BTreeMap<String, String>,
    /// A parameter that is always the id of the client's token, for events addressed to that token alone.
    #[serde(default)]
    pub token_id: Option<String>,
}

impl Catalogue {
    /// All families, built-in ones first.
    pub fn families(&self) -> &[Family] {
        &self.families
    }

    /// The kind of event with this exchange and routing key, if the catalogue has one.
    pub fn event(&self, exchange: &str, key: &str) -> Option<&Event> {
        self.families
            .iter()
            .flat_map(|family| &family.event)
            .find(|event| event.exchange == exchange && event.has_key(key))
    }

    /// All kinds of events with this routing key, each with the index and the name of its family.
    pub fn kinds_of_key(&self, key: &str) -> impl Iterator<Item = (usize, &str, &Event)> {
        let families = self.families.iter().enumerate();
        let kinds = families.flat_map(|(index, family)| {
            family.event.iter().map(move |event| (index, family.name.as_str(), event))
        });
        kinds.filter(move |(_, _, event)| event.has_key(key))
    }

    /// The kind of event with this routing key. It is unambiguous: validation ensures that kinds on different
    /// exchanges never share a key.
    pub fn event_by_key(&self, key: &str) -> Option<&Event> {
        self.families.iter().flat_map(|family| &family.event).find(|event| event.has_key(key))
    }
}

impl Event {
    /// The key as shown to clients.
    pub fn shown_key(&self) -> &Template {
        self.shown.as_ref().unwrap_or(&self.key)
    }

    /// Whether the parameter `name` may have the value `word`.
    pub fn allows(&self, name: &str, word: &str) -> bool {
        self.values.get(name).is_none_or(|values| values.iter().any(|value| value == word))
    }

    fn has_key(&self, key: &str) -> bool {
        let mut words = key.split('.');
        for part in self.key.parts() {
            let Some(word) = words.next() else { return false };
            let matches = match part {
                Part::Literal(literal) => literal == word,
                Part::Parameter(name) => self.allows(name, word),
            };
            if !matches {
                return false;
            }
        }
        words.next().is_none()
    }
}

#[cfg(test)]
mod tests;
