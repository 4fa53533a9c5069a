//! Whose an event is within its account, for tokens that may see only their own user's events (`auth.users`).
//!
//! The ingest finds the owner where the catalogue says, and writes it into the header [`OWNER`](crate::wire::OWNER).
//! auth-svc lists what a user owns in the same texts. The edge compares the two, and understands neither.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::wire::push_header_text;

/// The owner of an event within its account.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A document in the account's own database, by its id: a user, or what belongs to a user, such as a device or a
    /// mailbox. Written as `id:` and the id.
    Document(String),
    /// A phone or mailbox, by the user part of its SIP address. Written as `presence:` and that.
    Presence(String),
    /// A token, by its own id. Written as `token:` and the id.
    Token(String),
}

impl Owner {
    /// Whose SIP address this is: `1001`, `1001@realm` or `sip:1001@realm`.
    pub fn presence(address: &str) -> Owner {
        let address = address.strip_prefix("sip:").or(address.strip_prefix("sips:")).unwrap_or(address);
        let user = address.rsplit_once('@').map_or(address, |(user, _)| user);
        Owner::Presence(user.to_owned())
    }

    /// The owner as in the header.
    pub fn to_text(&self) -> String {
        let (kind, value) = match self {
            Owner::Document(id) => ("id:", id),
            Owner::Presence(user) => ("presence:", user),
            Owner::Token(id) => ("token:", id),
        };
        let mut text = String::with_capacity(kind.len() + value.len());
        text.push_str(kind);
        push_header_text(&mut text, value);
        text
    }
}

/// All that a user owns, as texts of [`Owner`]s. Copies share it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Vec<Box<str>>", into = "Vec<Box<str>>")]
pub struct Own(Arc<[Box<str>]>);

impl Own {
    /// Whether an event with this header is the user's own. One without the header is nobody's own.
    pub fn has(&self, owner: &[u8]) -> bool {
        self.0.binary_search_by(|own| own.as_bytes().cmp(owner)).is_ok()
    }

    /// About how many bytes of memory it takes.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|own| size_of::<Box<str>>() + own.len()).sum()
    }

    /// The texts, in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|own| &**own)
    }
}

impl From<Vec<Box<str>>> for Own {
    fn from(mut texts: Vec<Box<str>>) -> Own {
        texts.sort_unstable();
        texts.dedup();
        Own(texts.into())
    }
}

impl From<Own> for Vec<Box<str>> {
    fn from(own: Own) -> Vec<Box<str>> {
        own.0.to_vec()
    }
}

impl FromIterator<Owner> for Own {
    fn from_iter<I: IntoIterator<Item = Owner>>(owners: I) -> Own {
        let texts: Vec<Box<str>> = owners.into_iter().map(|owner| owner.to_text().into()).collect();
        texts.into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_phone_is_known_by_the_user_part_of_its_address() {
        for address in ["1001", "1001@kid.example.com", "sip:1001@kid.example.com", "sips:1001@x"] {
            assert_eq!(Owner::presence(address).to_text(), "presence:1001", "{address}");
        }
        assert_eq!(Owner::presence("a@b@c").to_text(), "presence:a@b");
    }

    #[test]
    fn an_event_without_an_owner_is_nobodys_own() {
        let own: Own = [Owner::Document(String::new()), Owner::Document("u".into())].into_iter().collect();
        assert!(own.has(b"id:u") && own.has(b"id:") && !own.has(b"") && !own.has(b"presence:u"));
        assert!(!Own::default().has(b"") && !Own::default().has(b"id:"));
    }

    fn any_owner() -> impl Strategy<Value = Owner> {
        let text = "[a:@\" é]{0,3}";
        prop_oneof![
            text.prop_map(Owner::Document),
            text.prop_map(Owner::Presence),
            text.prop_map(Owner::Token),
        ]
    }

    proptest! {
        #[test]
        fn exactly_what_is_listed_is_owned(owned in prop::collection::vec(any_owner(), 0..6), other in any_owner()) {
            let own: Own = owned.iter().cloned().collect();
            for owner in owned.iter().chain([&other]) {
                prop_assert_eq!(own.has(owner.to_text().as_bytes()), owned.contains(owner));
            }
            let json = serde_json::to_string(&own).unwrap();
            prop_assert_eq!(serde_json::from_str::<Own>(&json).unwrap(), own);
        }
    }
}
