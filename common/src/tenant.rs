//! The owner of an event. The tenant is the first word of an event's subject, and an edge subscribes only
//! below tenants that auth-svc granted: the subject itself isolates accounts.

use std::fmt;

use crate::subject;

/// The owner of an event.
///
/// The first character distinguishes accounts and realms: accounts choose their realm freely, so a realm that
/// looks like another account's id must not map to that account.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Tenant {
    /// An account, by its id.
    Account(String),
    /// The account with this SIP realm (lower case), for events without an account. Written as `@` and the realm.
    Realm(String),
    /// No tenant: system documents and the like, visible only to superduper admins. Written as `_`.
    Nobody,
}

impl Tenant {
    /// The tenant for an account id, or [`Tenant::Nobody`] if it is empty.
    pub fn account(id: &str) -> Tenant {
        if id.is_empty() { Tenant::Nobody } else { Tenant::Account(id.to_owned()) }
    }

    /// The tenant for a SIP realm, or [`Tenant::Nobody`] if it is empty. Realms are case-insensitive (RFC
    /// 3261, 19.1.4).
    pub fn realm(realm: &str) -> Tenant {
        if realm.is_empty() { Tenant::Nobody } else { Tenant::Realm(realm.to_ascii_lowercase()) }
    }

    /// The account that owns a KAZOO database, from its percent-encoded name: `account%2F4b%2F31%2Fdd1d…`,
    /// with a suffix such as `-202611` for a monthly database. [`Tenant::Nobody`] for any other database.
    pub fn of_database(encoded: &str) -> Tenant {
        Tenant::database_account(encoded).map_or(Tenant::Nobody, Tenant::Account)
    }

    fn database_account(encoded: &str) -> Option<String> {
        let (first, rest) = encoded.strip_prefix("account%2F")?.split_once("%2F")?;
        let (second, rest) = rest.split_once("%2F")?;
        let rest = match rest.rsplit_once('-') {
            Some((rest, month)) if month.len() == 6 && month.bytes().all(|b| b.is_ascii_digit()) => rest,
            _ => rest,
        };
        let is_part =
            |text: &str, length| text.len() == length && text.bytes().all(|b| b.is_ascii_alphanumeric());
        (is_part(first, 2) && is_part(second, 2) && is_part(rest, 28))
            .then(|| format!("{first}{second}{rest}"))
    }

    /// Appends the tenant's word to a subject.
    pub fn push_to(&self, subject: &mut String) {
        match self {
            Tenant::Account(id) => {
                let start = subject.len();
                subject::push_word(subject, id.as_bytes());
                // `_` and a leading `@` denote the other two variants.
                if id == "_" {
                    subject.truncate(start);
                    subject.push_str("=5F");
                } else if id.starts_with('@') {
                    subject.replace_range(start..=start, "=40");
                }
            }
            Tenant::Realm(realm) => {
                subject.push('@');
                subject::push_word(subject, realm.as_bytes());
            }
            Tenant::Nobody => subject.push('_'),
        }
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut word = String::new();
        self.push_to(&mut word);
        f.write_str(&word)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn account_databases_map_to_their_account() {
        let account = Tenant::account("4b31dd1d32ce6d249897c06332375d65");
        assert_eq!(Tenant::of_database("account%2F4b%2F31%2Fdd1d32ce6d249897c06332375d65"), account);
        assert_eq!(Tenant::of_database("account%2F4b%2F31%2Fdd1d32ce6d249897c06332375d65-202611"), account);
        for other in [
            "accounts",
            "system_config",
            "account%2F4b%2F31",
            "account%2F4b%2F31%2F",
            "account%2F*%2F31%2Fdd",
            "account%2F4%2F31%2Fdd1d32ce6d249897c06332375d65",
            "account%2F4b%2F3%2Fdd1d32ce6d249897c06332375d65",
            "account%2F4b%2F31%2Fdd1d32ce6d249897c06332375d6",
            "account%2F4b%2F31%2Fdd1d32ce6d249897c06332375d6*",
            "account%2F4b%2F31%2Fdd1d32ce6d249897c06332375d65-20261",
            "account%2F4b%2F31%2Fdd1d32ce6d249897c06332375d65-20261x",
            "account%2F4b%2F31%2Fdd1d32ce6d249897c06332375d6-202611",
        ] {
            assert_eq!(Tenant::of_database(other), Tenant::Nobody, "{other}");
        }
    }

    #[test]
    fn realms_are_case_insensitive() {
        assert_eq!(Tenant::realm("Kid.Example.COM"), Tenant::realm("kid.example.com"));
        assert_eq!(Tenant::realm("kid.example.com").to_string(), "@kid=2Eexample=2Ecom");
    }

    #[test]
    fn each_kind_of_tenant_has_its_own_form() {
        for (tenant, word) in [
            (Tenant::account("a"), "a"),
            (Tenant::account("_"), "=5F"),
            (Tenant::account("__"), "__"),
            (Tenant::account("@a"), "=40a"),
            (Tenant::account("a@"), "a@"),
            (Tenant::account(""), "_"),
            (Tenant::realm("a"), "@a"),
            (Tenant::realm("_"), "@_"),
            (Tenant::realm(""), "_"),
            (Tenant::Nobody, "_"),
        ] {
            let mut subject = "e.".to_owned();
            tenant.push_to(&mut subject);
            assert_eq!(subject, format!("e.{word}"), "{tenant:?}");
        }
    }

    fn any_tenant() -> impl Strategy<Value = Tenant> {
        prop_oneof![
            "[@_a=.*>]{0,4}".prop_map(|id| Tenant::account(&id)),
            "[@_a=.*>]{0,4}".prop_map(|realm| Tenant::realm(&realm)),
        ]
    }

    proptest! {
        #[test]
        fn different_tenants_have_different_words(one in any_tenant(), other in any_tenant()) {
            prop_assert_eq!(one == other, one.to_string() == other.to_string());
            prop_assert!(!one.to_string().contains(['.', '*', '>', ' ']));
        }
    }
}
