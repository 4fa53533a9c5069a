//! Accounts from a TOML file.
//!
//! ```toml
//! [[account]]
//! id = "4b31dd1d32ce6d249897c06332375d65"
//! name = "reseller"
//! realm = "reseller.example.com"
//! parent = "ffffffffffffffffffffffffffffffff"   # absent for an account at the top
//! superduper_admin = false                       # the default
//! enabled = true                                 # the default
//! ```
//!
//! A file with a mistake is rejected as a whole, since half of a tree could grant access that the whole tree
//! does not.

use std::{collections::HashMap, fs, path::Path, sync::Arc};

use futures_util::future::{self, BoxFuture};
use serde::Deserialize;

use crate::{
    directory::{Account, AccountDirectory},
    error::Error,
    reload::{Fingerprint, FromFiles, Reloaded},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    account: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    name: String,
    realm: String,
    parent: Option<String>,
    #[serde(default)]
    superduper_admin: bool,
    #[serde(default = "enabled")]
    enabled: bool,
}

fn enabled() -> bool {
    true
}

/// The accounts of a file, which form a valid tree.
#[derive(Debug)]
pub struct Accounts {
    by_id: HashMap<String, Arc<Account>>,
    changed: Vec<String>,
}

impl Accounts {
    /// Parses the text of an accounts file.
    ///
    /// # Errors
    /// The first mistake, on one line.
    pub fn parse(text: &str) -> Result<Accounts, String> {
        let file: File = toml::from_str(text).map_err(|error| in_one_line(text, &error))?;
        if file.account.is_empty() {
            // More likely a file that is still being written than an installation without accounts.
            return Err("contains no [[account]]".into());
        }
        let mut entries: HashMap<&str, &Entry> = HashMap::with_capacity(file.account.len());
        let mut realms: HashMap<String, &str> = HashMap::with_capacity(file.account.len());
        for entry in &file.account {
            check(entry)?;
            if entries.insert(&entry.id, entry).is_some() {
                return Err(format!("account {}: the id is used twice", entry.id));
            }
            // Presence events name only a realm: two accounts that share one would see each other's events.
            if let Some(other) = realms.insert(entry.realm.to_ascii_lowercase(), &entry.id) {
                return Err(format!("account {}: account {other} has the same realm", entry.id));
            }
        }
        let mut by_id = HashMap::with_capacity(file.account.len());
        for entry in &file.account {
            let account = Account {
                id: entry.id.clone(),
                name: entry.name.clone(),
                realm: Some(entry.realm.clone()),
                ancestors: ancestors(entry, &entries)?,
                superduper_admin: entry.superduper_admin,
                enabled: entry.enabled,
            };
            by_id.insert(entry.id.clone(), Arc::new(account));
        }
        Ok(Accounts { by_id, changed: Vec::new() })
    }

    /// Accounts from elsewhere. Of those with the same id the first one counts.
    pub fn collect(accounts: impl IntoIterator<Item = Arc<Account>>) -> Accounts {
        let mut by_id = HashMap::new();
        for account in accounts {
            by_id.entry(account.id.clone()).or_insert(account);
        }
        Accounts { by_id, changed: Vec::new() }
    }

    /// The account with this id.
    pub fn get(&self, id: &str) -> Option<&Arc<Account>> {
        self.by_id.get(id)
    }

    /// The realms, each with the id of the account that has it.
    pub fn realms(&self) -> impl Iterator<Item = (&str, &str)> {
        self.iter().filter_map(|account| Some((account.realm.as_deref()?, account.id.as_str())))
    }

    /// All accounts, in arbitrary order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Account>> {
        self.by_id.values()
    }

    /// The ids of the accounts that differ from those of the file before, or are only in one of both.
    pub fn changed(&self) -> &[String] {
        &self.changed
    }

    /// The number of accounts, at least one.
    pub fn count(&self) -> usize {
        self.by_id.len()
    }
}

/// Validates id and realm. KAZOO's ids are 32 hexadecimal digits; a realm is a host name.
fn check(entry: &Entry) -> Result<(), String> {
    let plain = |text: &str, extra: &[u8]| {
        text.bytes().all(|byte| byte.is_ascii_alphanumeric() || extra.contains(&byte))
    };
    if !(1..=64).contains(&entry.id.len()) || !plain(&entry.id, b"_-") {
        return Err(format!("account {:?}: an id must be 1 to 64 letters, digits, `_` or `-`", entry.id));
    }
    if !(1..=253).contains(&entry.realm.len()) || !plain(&entry.realm, b"_-.:[]") {
        return Err(format!("account {}: {:?} is not a valid realm", entry.id, entry.realm));
    }
    Ok(())
}

/// The ids of the account's ancestors, from the top.
fn ancestors(entry: &Entry, entries: &HashMap<&str, &Entry>) -> Result<Vec<String>, String> {
    let mut ancestors = Vec::new();
    let mut child = entry;
    while let Some(parent_id) = &child.parent {
        let Some(parent) = entries.get(parent_id.as_str()) else {
            return Err(format!("account {}: its parent {parent_id:?} does not exist", child.id));
        };
        // A path longer than the number of accounts contains a cycle.
        if parent.id == entry.id || ancestors.len() >= entries.len() {
            return Err(format!("account {}: is its own ancestor", parent.id));
        }
        ancestors.push(parent.id.clone());
        child = parent;
    }
    ancestors.reverse();
    Ok(ancestors)
}

fn in_one_line(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
    match error.span().and_then(|span| text.get(..span.start)) {
        Some(before) => format!("line {}: {message}", before.matches('\n').count() + 1),
        None => message,
    }
}

impl FromFiles for Accounts {
    const NAME: &'static str = "accounts";

    fn fingerprint(file: &Path) -> Fingerprint {
        Fingerprint::of([file.to_owned()])
    }

    fn read(file: &Path) -> Result<Accounts, Error> {
        let text = fs::read_to_string(file).map_err(|reason| Error::unreadable(file, reason))?;
        Accounts::parse(&text).map_err(|reason| Error::invalid(file, reason))
    }

    fn replace(&mut self, previous: &Accounts) {
        for (id, account) in &self.by_id {
            if previous.get(id) != Some(account) {
                self.changed.push(id.clone());
            }
        }
        let is_gone = |id: &&String| !self.by_id.contains_key(*id);
        self.changed.extend(previous.by_id.keys().filter(is_gone).cloned());
    }
}

impl AccountDirectory for Reloaded<Accounts> {
    fn account<'a>(
        &'a self,
        id: &'a str,
        _token: &'a str,
    ) -> BoxFuture<'a, Result<Option<Arc<Account>>, Error>> {
        Box::pin(future::ready(Ok(self.current().get(id).cloned())))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing;

    #[test]
    fn ancestors_start_at_the_top() {
        let accounts = Accounts::parse(testing::ACCOUNTS).unwrap();
        assert_eq!(accounts.count(), 5);
        let child = accounts.get("child").unwrap();
        assert_eq!(child.ancestors, ["system", "reseller"]);
        assert_eq!(child.realm.as_deref(), Some("child.example.com"));
        assert!(child.enabled && !child.superduper_admin);
        assert!(accounts.get("system").unwrap().superduper_admin);
        assert!(!accounts.get("closed").unwrap().enabled);
    }

    #[test]
    fn errors_name_the_account() {
        let account = |id: &str, more: &str| {
            format!("[[account]]\nid = {id:?}\nname = \"n\"\nrealm = \"{id}.example.com\"\n{more}\n")
        };
        for (text, expected) in [
            (String::new(), "contains no [[account]]"),
            ("[account]\nid = 1".into(), "line 1: "),
            (account("a", "enable = true"), "line 5: unknown field `enable`"),
            (account("a", "") + "[other]\n", "line 6: unknown field `other`"),
            (account("a", "enabled = \"yes\""), "line 5: invalid type"),
            ("[[account]]\nid = \"a\"\nname = \"n\"".into(), "missing field `realm`"),
            (account("a", "") + &account("a", ""), "account a: the id is used twice"),
            (account("a", "parent = \"b\""), "account a: its parent \"b\" does not exist"),
            (account("a", "parent = \"a\""), "account a: is its own ancestor"),
            (account("a", "parent = \"b\"") + &account("b", "parent = \"a\""), "is its own ancestor"),
            (account("*", ""), "account \"*\": an id must be"),
            (account("", ""), "account \"\": an id must be"),
            (account("a.b", ""), "account \"a.b\": an id must be"),
            (
                "[[account]]\nid = \"a\"\nname = \"n\"\nrealm = \"a b\"".into(),
                "account a: \"a b\" is not a valid realm",
            ),
            (
                account("a", "") + "[[account]]\nid = \"b\"\nname = \"n\"\nrealm = \"A.EXAMPLE.com\"",
                "account b: account a has the same realm",
            ),
        ] {
            let reason = Accounts::parse(&text).unwrap_err();
            assert!(reason.contains(expected), "{reason} instead of {expected}");
            assert!(!reason.contains('\n'));
        }
    }

    #[test]
    fn ids_and_realms_have_a_maximum_length() {
        let parse = |id: usize, realm: usize| {
            let (id, realm) = ("a".repeat(id), "r".repeat(realm));
            Accounts::parse(&format!("[[account]]\nid = {id:?}\nname = \"n\"\nrealm = {realm:?}\n")).map(drop)
        };
        parse(64, 253).unwrap();
        assert!(parse(65, 253).unwrap_err().ends_with("an id must be 1 to 64 letters, digits, `_` or `-`"));
        assert!(parse(64, 254).unwrap_err().ends_with("is not a valid realm"));
        assert!(parse(64, 0).unwrap_err().ends_with("is not a valid realm"));
    }

    fn replaced(before: &Accounts, text: &str) -> Accounts {
        let mut accounts = Accounts::parse(text).unwrap();
        accounts.replace(before);
        accounts
    }

    fn changed(accounts: &Accounts) -> Vec<&str> {
        let mut changed: Vec<&str> = accounts.changed().iter().map(String::as_str).collect();
        changed.sort_unstable();
        changed
    }

    #[test]
    fn a_new_file_tells_what_has_changed() {
        let before = Accounts::parse(testing::ACCOUNTS).unwrap();
        assert_eq!(changed(&replaced(&before, testing::ACCOUNTS)), [""; 0]);
        let disabled = testing::ACCOUNTS.replace("name = \"Child\"", "name = \"Child\"\nenabled = false");
        assert_eq!(changed(&replaced(&before, &disabled)), ["child"]);
        let moved = testing::ACCOUNTS.replacen("parent = \"system\"\n", "", 1);
        assert_eq!(changed(&replaced(&before, &moved)), ["below-closed", "child", "closed", "reseller"]);
        let other = "[[account]]\nid = \"new\"\nname = \"n\"\nrealm = \"r\"\n";
        assert_eq!(changed(&replaced(&before, other)).len(), 6, "the new one, and five that are gone");
    }

    #[test]
    fn a_changed_file_is_reloaded() {
        let dir = testing::TempDir::new();
        let file = dir.write("accounts.toml", testing::ACCOUNTS);
        let accounts = Reloaded::<Accounts>::open(&file).unwrap();
        dir.write("accounts.toml", "[[account]]\nid = \"new\"\nname = \"n\"\nrealm = \"r\"\n");
        assert!(accounts.poll().unwrap().is_none());
        assert!(accounts.poll().unwrap().is_some());
        let ids: Vec<String> = accounts.current().iter().map(|account| account.id.clone()).collect();
        assert_eq!(ids, ["new"]);
    }

    #[test]
    fn a_cycle_further_up_is_found() {
        let text = ["a b", "b c", "c b"]
            .map(|pair| {
                let (id, parent) = pair.split_once(' ').unwrap();
                format!("[[account]]\nid = {id:?}\nname = \"n\"\nrealm = {id:?}\nparent = {parent:?}\n")
            })
            .concat();
        assert!(Accounts::parse(&text).unwrap_err().contains("is its own ancestor"));
    }

    proptest! {
        /// A file is accepted exactly if every path of parents ends, according to a reference that follows each.
        #[test]
        fn files_are_accepted_exactly_if_they_have_no_cycle(
            parents in prop::collection::vec(prop::option::of(0usize..6), 1..6)
        ) {
            let mut text = String::new();
            for (id, parent) in parents.iter().enumerate() {
                text += &format!("[[account]]\nid = \"{id}\"\nname = \"\"\nrealm = \"r{id}\"\n");
                if let Some(parent) = parent {
                    text += &format!("parent = \"{parent}\"\n");
                }
            }
            let valid = (0..parents.len()).all(|start| {
                let mut current = Some(start);
                for _ in 0..=parents.len() {
                    current = match current {
                        None => return true,
                        Some(id) if id >= parents.len() => return false,
                        Some(id) => parents[id],
                    };
                }
                current.is_none()
            });
            prop_assert_eq!(Accounts::parse(&text).is_ok(), valid, "{}", text);
        }
    }
}
