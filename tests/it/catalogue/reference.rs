//! An independent implementation of KAZOO's rules for who gets which event: its exchanges, and the bindings that
//! clients use. Random bytes ("dice") select from valid and unusual values.

use blackhole_dev::simulator::{account_database, encode_word};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Account ids: valid ones, and ones that look like something else.
pub(super) const IDS: &[&str] = &[
    "3f7a90d2c6b84e15a1f4e8b05d2c7961",
    "4b31dd1d32ce6d249897c06332375d65",
    "4B31DD1D32CE6D249897C06332375D65",
    "harbour",
    "_",
    "all",
    "-",
];

/// SIP realms: names, the same in other case, and ids of accounts.
const REALMS: &[&str] = &[
    "harbour.example.net",
    "Harbour.Example.NET",
    "copper.example.org",
    "harbour",
    "3f7a90d2c6b84e15a1f4e8b05d2c7961",
    "4b31dd1d32ce6d249897c06332375d65",
    "_",
];

/// Ids of calls, documents, conferences and events.
const WORDS: &[&str] = &[
    "plain",
    "1f3c9a.77e2@10.0.4.17",
    "two words",
    "+1415",
    "*97",
    "a#b",
    ">",
    "=2A",
    "100%",
    "Zoë",
    "_",
    "\"\\",
];

/// The owner of a session.
#[derive(Clone, Debug)]
pub(super) enum Who {
    /// Gets the events of one account.
    Account {
        /// Its id.
        id: String,
        /// Its SIP realm, if it has one.
        realm: Option<String>,
        /// The id of the session's token.
        token_id: String,
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
    /// The patterns.
    pub patterns: Vec<String>,
    /// Whether this client may use it.
    pub allowed: bool,
}

/// Whether the session gets the event for this binding.
pub(super) fn gets(who: &Who, asked: &Asked, event: &Happening) -> bool {
    let own = match (who, &event.owner) {
        (Who::All { .. }, _) => true,
        (Who::Account { id, .. }, Owner::Account(owner)) => id == owner,
        (Who::Account { realm, .. }, Owner::Realm(owner)) => {
            realm.as_ref().is_some_and(|realm| realm.eq_ignore_ascii_case(owner))
        }
        (Who::Account { .. }, Owner::Nobody) => false,
    };
    own && event.known
        && asked.exchange == event.exchange
        && asked.patterns.iter().any(|pattern| amqp_matches(pattern, &event.key))
}

/// AMQP matching: `*` is one word, `#` any number of words.
pub(super) fn amqp_matches(pattern: &str, key: &str) -> bool {
    fn matches(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern.split_first(), key.split_first()) {
            (None, None) => true,
            (Some((&"#", rest)), Some((_, later))) => matches(rest, key) || matches(pattern, later),
            (Some((&"#", rest)), None) => matches(rest, key),
            (Some((wanted, rest)), Some((word, later))) => {
                (*wanted == "*" || wanted == word) && matches(rest, later)
            }
            _ => false,
        }
    }
    matches(&pattern.split('.').collect::<Vec<_>>(), &key.split('.').collect::<Vec<_>>())
}

fn one_of<'a>(all: &[&'a str], dice: u8) -> &'a str {
    all[usize::from(dice) % all.len()]
}

/// An owner of a session. Two of them may have the same id or realm; then both get its events.
pub(super) fn who() -> impl Strategy<Value = Who> {
    let text = |all: &'static [&'static str]| prop::sample::select(all).prop_map(str::to_owned);
    prop_oneof![
        4 => (text(IDS), prop::option::weighted(0.9, text(REALMS)), text(WORDS))
            .prop_map(|(id, realm, token_id)| Who::Account { id, realm, token_id }),
        1 => text(WORDS).prop_map(|token_id| Who::All { token_id }),
    ]
}

/// A word of a routing key: encoded as by KAZOO, or invalid because it is not encoded.
fn key_word(dice: u8) -> String {
    match dice {
        250 => String::new(),
        251 => "raw word".to_owned(),
        252 => "räw".to_owned(),
        253 => "*".to_owned(),
        dice => encode_word(one_of(WORDS, dice)),
    }
}

/// An event of one of these owners, of somebody else, or of nobody.
pub(super) fn event(everybody: &[Who], dice: [u8; 6]) -> Happening {
    let [kind, whose, one, two, variant, more] = dice;
    let (mut id, mut realm, mut token_id) = (one_of(IDS, whose), one_of(REALMS, more), one_of(WORDS, more));
    if let Some(Who::Account { id: own, realm: own_realm, token_id: own_token }) =
        everybody.get(usize::from(whose) % (everybody.len() + 1))
    {
        (id, token_id) = (own, own_token);
        realm = own_realm.as_deref().unwrap_or(realm);
    }
    let shouted = realm.to_ascii_uppercase();
    let realm = if variant.is_multiple_of(3) { &shouted } else { realm };
    let (word, other) = (key_word(one), key_word(two));
    let database = account_database(id);
    let is_kazoo_id = id.len() == 32;
    let by_account = |owner: &str| Owner::Account(owner.to_owned());
    let by_realm = |owner: &str| Owner::Realm(owner.to_owned());
    // The account in the body does not matter if the key contains one.
    let distracting =
        json!({ "Event-Name": "x", "Account-ID": one_of(IDS, more), "To": "1@harbour.example.net" });
    let in_key = |exchange, key: String, owner| Happening {
        exchange,
        key,
        body: distracting.clone(),
        owner,
        known: true,
    };
    let (in_body, owner_in_body) = match variant % 5 {
        0 => (json!({ "Event-Name": "x" }), Owner::Nobody),
        1 => (json!({ "Event-Name": "x", "Account-ID": 7 }), Owner::Nobody),
        2 => (json!({ "Event-Name": "x", "Account-ID": "" }), Owner::Nobody),
        _ => (json!({ "Event-Name": "x", "Account-ID": id, "Account-Realm": "elsewhere" }), by_account(id)),
    };
    let nested = json!({ "Event-Name": "x", "Custom-Channel-Vars": { "Account-ID": id } });
    let document = |action: &str, database: String, kind: &str, owner| {
        in_key("configuration", format!("{action}.{database}.{kind}.{word}"), owner)
    };
    let documents_owner = if is_kazoo_id { by_account(id) } else { Owner::Nobody };
    let action = one_of(&["doc_created", "doc_edited", "doc_deleted"], more);
    match kind % 26 {
        0..4 => {
            let (body, owner) = match variant % 9 {
                0 => (
                    json!({ "Custom-Channel-Vars": { "Realm": realm }, "To": "1@elsewhere" }),
                    by_realm(realm),
                ),
                1 => (json!({ "To": format!("1@{realm}"), "From": "2@elsewhere" }), by_realm(realm)),
                2 => (
                    json!({ "To": 7, "From": format!("1@{realm}"), "Request": "3@elsewhere" }),
                    by_realm(realm),
                ),
                3 => (json!({ "Request": format!("sip:1@{realm}:5060;transport=udp") }), by_realm(realm)),
                4 => {
                    (json!({ "Custom-Channel-Vars": { "Account-ID": null }, "To": "nobody" }), Owner::Nobody)
                }
                _ => (
                    json!({ "Custom-Channel-Vars": { "Account-ID": id, "Realm": realm }, "To": "1@elsewhere" }),
                    by_account(id),
                ),
            };
            let mut body = body;
            body["Event-Name"] = "x".into();
            let name = one_of(&["CHANNEL_CREATE", "CHANNEL_DESTROY", "PARK_PARKED", "CHANNEL_PARTY"], two);
            let known = name != "CHANNEL_PARTY";
            Happening { exchange: "callevt", key: format!("call.{name}.{word}"), body, owner, known }
        }
        4 => in_key("conference", format!("conference.event.add-member.{id}.{word}.{other}"), by_account(id)),
        5 => in_key("conference", format!("conference.event.{other}.{id}.{word}.{word}"), by_account(id)),
        6 | 7 => {
            let (body, owner) =
                if variant % 7 == 3 { (nested, by_account(id)) } else { (in_body, owner_in_body) };
            Happening {
                exchange: "conference",
                key: format!("conference.command.{word}"),
                body,
                owner,
                known: true,
            }
        }
        8 => document(action, database, "user", documents_owner),
        9 => document(action, format!("{database}-209912"), "fax", documents_owner),
        10 => document(action, format!("{database}-2099"), "device", Owner::Nobody),
        11 => document(action, "accounts".into(), "account", Owner::Nobody),
        12 => Happening { known: false, ..document(action, database, "secret", documents_owner) },
        13 => in_key("faxes", format!("fax.status.{id}.{word}"), by_account(id)),
        14..17 => {
            let what = one_of(&["dialog", "update", "mwi_updates"], more);
            in_key("presence", format!("{what}.{}.{word}", encode_word(realm)), by_realm(realm))
        }
        17 => in_key("presence", format!("dialog..{word}"), Owner::Nobody),
        18 => in_key(
            "pivot",
            format!("pivot.stream.{}.{id}.{word}", one_of(&["start", "stop"], two)),
            by_account(id),
        ),
        19 => {
            let name = one_of(&["array", "broadcast", "caption", "info", "chat", "dance"], two);
            let known = name != "dance";
            Happening {
                known,
                ..in_key("live", format!("live.conference.{id}.{name}.{word}"), by_account(id))
            }
        }
        20 | 21 => in_key("live", format!("relay.{id}.{word}.{}", encode_word(token_id)), by_account(id)),
        22 => in_key("dialog", format!("dialog.event.{id}.{word}.{other}"), by_account(id)),
        23 => {
            let what = one_of(&["session", "queue", "recipient", "agent"], more);
            let known = what != "agent";
            // KAZOO 4.3's keys have no event.
            let key = match variant % 2 {
                0 => format!("qubicle.{what}.{id}.{word}"),
                _ => format!("qubicle.{what}.{id}.{word}.{other}"),
            };
            Happening { known, ..in_key("qubicle", key, by_account(id)) }
        }
        24 => Happening {
            exchange: "notifications",
            key: format!("notifications.{word}.{other}"),
            body: in_body,
            owner: owner_in_body,
            known: true,
        },
        // The right key on the wrong exchange.
        _ => Happening {
            known: false,
            ..in_key("faxes", format!("call.CHANNEL_CREATE.{word}"), by_account(id))
        },
    }
}

/// A word of a binding, `*` or an id: as the client writes it and as KAZOO encodes it.
fn asked_word(dice: u8) -> (String, String) {
    match dice % 3 {
        0 => ("*".to_owned(), "*".to_owned()),
        _ => {
            let id = one_of(WORDS, dice / 3);
            let written = if id.contains(['.', '%']) { encode_word(id) } else { id.to_owned() };
            (written, encode_word(id))
        }
    }
}

/// A binding of this session.
pub(super) fn asked(who: &Who, dice: [u8; 4]) -> Asked {
    let [form, one, two, choice] = dice;
    let ((mine, its), (other, others)) = (asked_word(one), asked_word(two));
    let (acc, realm, superduper) = match who {
        Who::Account { id, realm, .. } => (id.as_str(), realm.as_deref(), false),
        Who::All { .. } => ("*", None, true),
    };
    let token_id = encode_word(who.token_id());
    let rest = choice.is_multiple_of(5);
    // `#` replaces the remaining parameters.
    let tail = |text: &str| if rest { "#".to_owned() } else { text.to_owned() };
    let given = mine != "*";
    let asked = |binding: String, exchange, pattern: String| Asked {
        binding,
        exchange,
        patterns: vec![pattern],
        allowed: true,
    };
    let actions = ["doc_created", "doc_edited", "doc_deleted"];
    let action = one_of(&["doc_created", "doc_edited", "doc_deleted", "*"], choice);
    let of_documents = |binding: String, kind: &str| Asked {
        binding,
        exchange: "configuration",
        patterns: actions
            .iter()
            .filter(|one| action == "*" || action == **one)
            .map(|action| format!("{action}.*.{kind}.*"))
            .collect(),
        allowed: true,
    };
    match form % 17 {
        0 => {
            let name = one_of(&["CHANNEL_CREATE", "PARK_PARKED", "*"], choice);
            asked(format!("call.{name}.{}", tail(&mine)), "callevt", format!("call.{name}.{}", tail(&its)))
        }
        1 => asked("call.#".into(), "callevt", "call.#".into()),
        // KAZOO 4.3's last releases, if a conference is given. Otherwise KAZOO 5's form with any event.
        2 if choice.is_multiple_of(2) => {
            let name = one_of(&["add-member", "*"], two);
            let (pattern, allowed) = match given {
                true => (format!("conference.event.{name}.{acc}.{its}.*"), true),
                false => (format!("conference.event.*.{acc}.*.{name}"), superduper),
            };
            Asked { allowed, ..asked(format!("conference.event.{mine}.*.{name}"), "conference", pattern) }
        }
        2 => Asked {
            allowed: given,
            ..asked(
                format!("conference.event.{mine}.{other}"),
                "conference",
                format!("conference.event.*.{acc}.{its}.{others}"),
            )
        },
        3 => {
            let (name, names) = match choice % 2 {
                0 => ("add-member", "add-member"),
                _ => (other.as_str(), others.as_str()),
            };
            let binding = format!("conference.event.{name}.{mine}.*");
            if !given && !["add-member", "*"].contains(&name) {
                // The first word is no event, so it is the conference of KAZOO 4.3's form.
                return asked(binding, "conference", format!("conference.event.*.{acc}.{names}.*"));
            }
            let pattern = format!("conference.event.{names}.{acc}.{its}.*");
            Asked { allowed: given || superduper, ..asked(binding, "conference", pattern) }
        }
        4 => Asked {
            allowed: given || superduper,
            ..asked(format!("conference.command.{mine}"), "conference", format!("conference.command.{its}"))
        },
        5 => {
            let kind = one_of(&["user", "fax", "device", "account", "*"], two);
            of_documents(format!("object.{action}.{kind}"), kind)
        }
        6 => of_documents(format!("fax.object.{action}"), "fax"),
        7 => {
            let action = one_of(&actions, choice);
            asked(
                format!("{action}.*.user.{}", tail(&mine)),
                "configuration",
                format!("{action}.*.user.{}", tail(&its)),
            )
        }
        8 => {
            asked(format!("fax.status.{}", tail(&mine)), "faxes", format!("fax.status.{acc}.{}", tail(&its)))
        }
        9 | 10 => {
            let what = one_of(&["dialog", "update", "mwi_updates"], choice);
            // Realms are compared ignoring case, which patterns cannot do: `gets` compares them.
            Asked {
                allowed: realm.is_some() || superduper,
                ..asked(format!("presence.{what}.{mine}"), "presence", format!("{what}.*.{its}"))
            }
        }
        11 => {
            let name = one_of(&["start", "stop", "*"], choice);
            asked(format!("stream.{name}.{mine}"), "pivot", format!("pivot.stream.{name}.{acc}.{its}"))
        }
        12 => {
            let name = one_of(&["chat", "caption", "*"], choice);
            asked(
                format!("live.conference.{name}.{}", tail(&mine)),
                "live",
                format!("live.conference.{acc}.{name}.{}", tail(&its)),
            )
        }
        13 => asked(format!("relay.{mine}"), "live", format!("relay.{acc}.{its}.{token_id}")),
        14 => asked(
            format!("dialog.event.{mine}.{}", tail(&other)),
            "dialog",
            format!("dialog.event.{acc}.{its}.{}", tail(&others)),
        ),
        15 => {
            let what = one_of(&["session", "queue", "recipient", "*"], choice);
            if two.is_multiple_of(3) {
                let patterns = vec![format!("qubicle.{what}.{acc}.*"), format!("qubicle.{what}.{acc}.*.*")];
                return Asked { patterns, ..asked(format!("qubicle.{what}"), "qubicle", String::new()) };
            }
            asked(
                format!("qubicle.{what}.{mine}.{other}"),
                "qubicle",
                format!("qubicle.{what}.{acc}.{its}.{others}"),
            )
        }
        _ => asked(
            format!("notifications.{mine}.{}", tail(&other)),
            "notifications",
            format!("notifications.{its}.{}", tail(&others)),
        ),
    }
}
