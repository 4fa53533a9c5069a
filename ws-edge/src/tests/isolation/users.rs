//! Users within an account: what they own, and whose an event is. Like the rest of the reference it knows no headers.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::reference::{Asked, Happening, WORDS, one_of};

/// Ids of users and their devices, mailboxes and the like. Some look like phones.
pub(super) const DOCUMENTS: &[&str] =
    &["u1", "u2", "d1", "1001", "token:plain", "Zoë", "two words", " ", "plain"];
/// Phones. Some look like documents.
const PHONES: &[&str] = &["1001", "1002", "user_a", "u1", "id:u1", "plain"];

/// Whose an event is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    Document(String),
    Phone(String),
    Token(String),
}

/// What a user owns, besides the own token.
#[derive(Clone, Debug)]
pub(super) struct Things {
    pub(super) documents: Vec<String>,
    pub(super) phones: Vec<String>,
}

impl Things {
    /// Those of some user. A part of all ids of documents, which are also ids of calls and the like.
    pub(super) fn some(dice: [u8; 4]) -> Things {
        let all = DOCUMENTS.iter().chain(WORDS).collect::<Vec<_>>();
        let documents = dice.map(|dice| (*all[usize::from(dice) % all.len()]).to_owned());
        let phones = [dice[0], dice[3]].map(|dice| one_of(PHONES, dice / 2).to_owned());
        Things { documents: documents.into(), phones: phones.into() }
    }

    /// Whether the user may have an event.
    pub(super) fn has(&self, token_id: &str, whose: Option<&Whose>) -> bool {
        match whose {
            Some(Whose::Document(id)) => self.documents.contains(id),
            Some(Whose::Phone(user)) => self.phones.contains(user),
            Some(Whose::Token(id)) => id == token_id,
            None => false,
        }
    }
}

/// Whether events for this binding say whose they are.
pub(super) fn say_whose(asked: &Asked) -> bool {
    match asked.exchange {
        "callevt" | "faxes" | "presence" | "notifications" => true,
        "conference" => asked.binding.starts_with("conference.event."),
        "configuration" => !asked.binding.starts_with("fax."),
        "live" => asked.binding.starts_with("relay."),
        _ => false,
    }
}

/// Lets an event say whose it is, as its family does.
pub(super) fn say(event: &mut Happening, dice: [u8; 3]) {
    let [one, two, how] = dice;
    let (mine, other) = (one_of(DOCUMENTS, one), one_of(DOCUMENTS, two));
    let in_key = || {
        let word = event.key.rsplit('.').next().unwrap_or_default().replace('+', " ");
        let word: Cow<'_, str> = percent_decode_str(&word).decode_utf8_lossy();
        (!word.is_empty()).then(|| word.into_owned())
    };
    let phone =
        |address: &str| Whose::Phone(address.rsplit_once('@').map_or(address, |(user, _)| user).to_owned());
    let (members, whose) = match event.exchange {
        "callevt" | "conference" if !event.key.starts_with("conference.command.") => {
            let (members, whose) = match how % 5 {
                0 => (json!({}), None),
                1 => (json!({ "Owner-ID": mine, "Authorizing-ID": other }), Some(mine)),
                2 => (json!({ "Owner-ID": null, "Authorizing-ID": other }), Some(other)),
                3 => (json!({ "Owner-ID": 5, "Authorizing-ID": "" }), None),
                _ => (json!({ "Authorizing-ID": other }), Some(other)),
            };
            let vars = event.body.as_object_mut().unwrap().entry("Custom-Channel-Vars").or_insert(json!({}));
            add(vars, members);
            // Elsewhere it says nothing.
            (json!({ "Owner-ID": other }), whose.map(|id| Whose::Document(id.to_owned())))
        }
        "configuration" => (json!({ "Owner-ID": mine }), in_key().map(Whose::Document)),
        "faxes" => (json!({ "FaxBox-ID": mine }), Some(Whose::Document(mine.to_owned()))),
        "presence" => match how % 3 {
            0 => (json!({ "To": one_of(PHONES, one) }), in_key().map(|id| phone(&id))),
            _ => {
                let user = one_of(PHONES, one);
                (json!({ "Presence-ID": format!("{user}@elsewhere") }), Some(Whose::Phone(user.to_owned())))
            }
        },
        "live" if event.key.starts_with("relay.") => (json!({}), in_key().map(Whose::Token)),
        "notifications" => match how % 3 {
            0 => {
                (json!({ "Owner-ID": mine, "Voicemail-Box": other }), Some(Whose::Document(mine.to_owned())))
            }
            1 => (json!({ "Voicemail-Box": other }), Some(Whose::Document(other.to_owned()))),
            _ => (json!({ "Mailbox": other }), None),
        },
        _ => (json!({ "Owner-ID": mine, "Custom-Channel-Vars": { "Owner-ID": mine } }), None),
    };
    if event.key.starts_with("conference.command.") {
        event.body["Custom-Channel-Vars"]["Owner-ID"] = mine.into();
    } else {
        add(&mut event.body, members);
    }
    event.whose = whose;
}

fn add(to: &mut Value, members: Value) {
    let (Some(to), Value::Object(members)) = (to.as_object_mut(), members) else { return };
    to.extend(members);
}
