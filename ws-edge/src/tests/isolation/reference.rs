//! An independent implementation of KAZOO's rules for who gets which event: exchanges, AMQP patterns, and the owner of an
//! event. It knows no subjects, tenants or forms.

use serde_json::Value;

use super::users::{Things, Whose};

/// Account ids: valid ones, and ones that look like something else.
pub(super) const IDS: &[&str] = &[
    "3f7a90d2c6b84e15a1f4e8b05d2c7961",
    "4b31dd1d32ce6d249897c06332375d65",
    "4B31DD1D32CE6D249897C06332375D65",
    "harbour",
    "_",
    "all",
    "-",
    "@harbour=2Eexample=2Enet",
    "@harbour",
    "=5F",
    "=",
    "*",
    "#",
    ">",
    "harbour.>",
    "3f7a90d2c6b84e15a1f4e8b05d2c7961.call",
    "harbour%2Eexample%2Enet",
    "Zoë",
    "two words",
];

/// SIP realms: names, the same in other case, and ids of accounts.
pub(super) const REALMS: &[&str] = &[
    "harbour.example.net",
    "Harbour.Example.NET",
    "copper.example.org",
    "harbour",
    "3f7a90d2c6b84e15a1f4e8b05d2c7961",
    "4b31dd1d32ce6d249897c06332375d65",
    "_",
    "@harbour",
    "harbour=2Eexample=2Enet",
    "harbour%2Eexample%2Enet",
    "*",
    ">",
    "=",
];

/// Ids of calls, documents, conferences and events.
pub(super) const WORDS: &[&str] = &[
    "plain",
    "1f3c9a.77e2@10.0.4.17",
    "two words",
    "+1415",
    "*97",
    "a#b",
    ">",
    "=2A",
    "=",
    "100%",
    "Zoë",
    "_",
    "\"\\",
];

/// Marks a word of a pattern that is compared word for word, although it may look like a wildcard.
pub(super) const LITERAL: char = '\u{1}';

/// The owner of a session.
#[derive(Clone, Debug)]
pub(super) enum Who {
    /// Gets the events of one account: its token's own, or one below that.
    Account {
        /// The account's id.
        id: String,
        /// The account's SIP realm, if it has one.
        realm: Option<String>,
        /// The id of the session's token.
        token_id: String,
        /// The account of the token.
        token_account: String,
        /// Whether that is a superduper admin's.
        superduper: bool,
        /// What the token's user owns, if it may see only that.
        user: Option<Things>,
    },
    /// A superduper admin, who gets all events.
    All {
        /// The id of the session's token.
        token_id: String,
    },
}

impl Who {
    /// The id of the session's token.
    pub(super) fn token_id(&self) -> &str {
        match self {
            Who::Account { token_id, .. } | Who::All { token_id } => token_id,
        }
    }

    /// Whether the token is a superduper admin's.
    pub(super) fn is_superduper(&self) -> bool {
        matches!(self, Who::All { .. } | Who::Account { superduper: true, .. })
    }
}

/// The owner of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// An account, by its id.
    Account(String),
    /// An account, by its realm.
    Realm(String),
    /// Nobody.
    Nobody,
}

/// An event and what the rules say about it.
#[derive(Clone, Debug)]
pub(super) struct Happening {
    /// The exchange.
    pub exchange: &'static str,
    /// The routing key.
    pub key: String,
    /// The body.
    pub body: Value,
    /// Its owner.
    pub owner: Owner,
    /// Whose it is within the owner's account.
    pub whose: Option<Whose>,
    /// Whether clients can subscribe to it.
    pub known: bool,
}

/// A client's binding, and the AMQP patterns that KAZOO's Blackhole binds for it.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// The binding as the client writes it.
    pub binding: String,
    /// The exchange.
    pub exchange: &'static str,
    /// The patterns; `None` for a binding that KAZOO does not know.
    pub patterns: Option<Vec<String>>,
    /// Whether this client may use it; it does not matter for a binding that KAZOO does not know.
    pub allowed: bool,
}

/// Whether the event may reach the session at all.
pub(super) fn may_see(who: &Who, event: &Happening) -> bool {
    if let Who::Account { user: Some(things), .. } = who
        && !things.has(who.token_id(), event.whose.as_ref())
    {
        return false;
    }
    match (who, &event.owner) {
        (Who::All { .. }, _) => true,
        (Who::Account { id, .. }, Owner::Account(owner)) => id == owner,
        (Who::Account { realm, .. }, Owner::Realm(owner)) => {
            realm.as_ref().is_some_and(|realm| realm.eq_ignore_ascii_case(owner))
        }
        (Who::Account { .. }, Owner::Nobody) => false,
    }
}

/// Whether the session gets the event for this binding; `None` if KAZOO's rules do not say, because it may see the event
/// but KAZOO does not know the binding.
pub(super) fn gets(who: &Who, asked: &Asked, event: &Happening) -> Option<bool> {
    if !may_see(who, event) {
        return Some(false);
    }
    let patterns = asked.patterns.as_ref()?;
    Some(
        event.known
            && asked.exchange == event.exchange
            && patterns.iter().any(|pattern| amqp_matches(pattern, &event.key)),
    )
}

/// AMQP matching: `*` is one word, `#` any number of words.
pub(super) fn amqp_matches(pattern: &str, key: &str) -> bool {
    fn matches(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern.split_first(), key.split_first()) {
            (None, None) => true,
            (Some((&"#", rest)), Some((_, later))) => matches(rest, key) || matches(pattern, later),
            (Some((&"#", rest)), None) => matches(rest, key),
            (Some((wanted, rest)), Some((word, later))) => {
                let is_same = wanted.strip_prefix(LITERAL).unwrap_or(wanted) == *word;
                (*wanted == "*" || is_same) && matches(rest, later)
            }
            _ => false,
        }
    }
    matches(&pattern.split('.').collect::<Vec<_>>(), &key.split('.').collect::<Vec<_>>())
}

/// The value that the dice select.
pub(super) fn one_of<'a>(all: &[&'a str], dice: u8) -> &'a str {
    all[usize::from(dice) % all.len()]
}

/// An owner of a session. Two of them may have the same id or realm; then both get its events.
pub(super) fn who(dice: [u8; 5], things: [u8; 4]) -> Who {
    let [kind, id, realm, token, more] = dice;
    let token_id = one_of(WORDS, token).to_owned();
    if kind.is_multiple_of(5) {
        return Who::All { token_id };
    }
    let id = one_of(IDS, id).to_owned();
    let realm = (!more.is_multiple_of(10)).then(|| one_of(REALMS, realm).to_owned());
    let token_account = if kind.is_multiple_of(2) { id.clone() } else { one_of(IDS, more).to_owned() };
    let user = token.is_multiple_of(2).then(|| Things::some(things));
    Who::Account { id, realm, token_id, token_account, superduper: kind.is_multiple_of(7), user }
}
