//! Random events of KAZOO, with the owner that they have by its rules.

use blackhole_dev::simulator::{account_database, encode_word};
use serde_json::json;

use super::{
    reference::{Happening, IDS, Owner, REALMS, WORDS, Who, one_of},
    users,
};

/// Kinds of events.
pub(super) const KINDS: u8 = 26;

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
pub(super) fn event(everybody: &[Who], dice: [u8; 6], whose: [u8; 3]) -> Happening {
    let mut event = of_an_account(everybody, dice);
    users::say(&mut event, whose);
    event
}

fn of_an_account(everybody: &[Who], dice: [u8; 6]) -> Happening {
    let [kind, whose, one, two, variant, more] = dice;
    let (mut id, mut realm, mut token_id) = (one_of(IDS, whose), one_of(REALMS, more), one_of(WORDS, more));
    if let Some(Who::Account { id: own, realm: own_realm, token_id: own_token, .. }) =
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
    // What cannot be in a SIP address is only a realm where a realm is named.
    let is_host = !realm.contains(['@', '>']);
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
        whose: None,
        // An id with a dot is two words of the key.
        known: !id.contains('.'),
    };
    let (in_body, owner_in_body) = match variant % 5 {
        0 => (json!({ "Event-Name": "x" }), Owner::Nobody),
        1 => (json!({ "Event-Name": "x", "Account-ID": 7 }), Owner::Nobody),
        2 => (json!({ "Event-Name": "x", "Account-ID": "" }), Owner::Nobody),
        _ => (json!({ "Event-Name": "x", "Account-ID": id, "Account-Realm": "elsewhere" }), by_account(id)),
    };
    let nested = json!({ "Event-Name": "x", "Custom-Channel-Vars": { "Account-ID": id } });
    let document = |action: &str, database: String, kind: &str, owner| Happening {
        known: true,
        ..in_key("configuration", format!("{action}.{database}.{kind}.{word}"), owner)
    };
    let documents_owner = if is_kazoo_id { by_account(id) } else { Owner::Nobody };
    let action = one_of(&["doc_created", "doc_edited", "doc_deleted"], more);
    match kind % KINDS {
        0..4 => {
            let (body, owner) = match variant % 9 {
                1..=3 if !is_host => {
                    (json!({ "Custom-Channel-Vars": { "Realm": realm, "Account-ID": "" } }), by_realm(realm))
                }
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
            Happening {
                exchange: "callevt",
                key: format!("call.{name}.{word}"),
                body,
                owner,
                whose: None,
                known,
            }
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
                whose: None,
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
            let key = format!("{what}.{}.{word}", encode_word(realm));
            Happening { known: true, ..in_key("presence", key, by_realm(realm)) }
        }
        17 => Happening { known: true, ..in_key("presence", format!("dialog..{word}"), Owner::Nobody) },
        18 => in_key(
            "pivot",
            format!("pivot.stream.{}.{id}.{word}", one_of(&["start", "stop"], two)),
            by_account(id),
        ),
        19 => {
            let name = one_of(&["array", "broadcast", "caption", "info", "chat", "dance"], two);
            let known = name != "dance";
            Happening {
                known: known && !id.contains('.'),
                ..in_key("live", format!("live.conference.{id}.{name}.{word}"), by_account(id))
            }
        }
        20 | 21 => in_key("live", format!("relay.{id}.{word}.{}", encode_word(token_id)), by_account(id)),
        22 => in_key("dialog", format!("dialog.event.{id}.{word}.{other}"), by_account(id)),
        23 => {
            let what = one_of(&["session", "queue", "recipient", "agent"], more);
            let known = what != "agent";
            // KAZOO 4.3's keys have no event. With a dot in the account such a key would be another account's with one.
            let key = match variant % 2 {
                0 if !id.contains('.') => format!("qubicle.{what}.{id}.{word}"),
                _ => format!("qubicle.{what}.{id}.{word}.{other}"),
            };
            Happening { known: known && !id.contains('.'), ..in_key("qubicle", key, by_account(id)) }
        }
        24 => Happening {
            exchange: "notifications",
            key: format!("notifications.{word}.{other}"),
            body: in_body,
            owner: owner_in_body,
            whose: None,
            known: true,
        },
        // The right key on the wrong exchange.
        _ => Happening {
            known: false,
            ..in_key("faxes", format!("call.CHANNEL_CREATE.{word}"), by_account(id))
        },
    }
}
