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
//! numbers = ["+14155550123"]                     # to which inbound calls are this account's, the default is none
//!
//! [[user]]                                       # only for `auth.users = "own"`
//! id = "6b1c7e2f8a904d53b0e2a1f4c7d89e01"        # the token's `owner_id`
//! account = "4b31dd1d32ce6d249897c06332375d65"
//! admin = false                                  # the default; true: sees everything of the account
//! devices = ["d0d0beefd0d0beefd0d0beefd0d0beef"]  # ids of devices, the default is none
//! mailboxes = []                                 # ids of mailboxes, the default is none
//! presence = ["1001", "user_1001"]               # extensions, SIP user names, numbers of mailboxes
//! ```
//!
//! A file with a mistake is rejected as a whole, since half of a tree could grant access that the whole tree
//! does not.

use std::{collections::HashMap, fs, path::Path, sync::Arc};

use blackhole_common::{
    owner::Owner,
    wire::{MAX_NUMBER_BYTES, NumberRequest},
};
use futures_util::future::{self, BoxFuture};
use serde::Deserialize;

use crate::{
    dialling::Dialling,
    directory::{Account, AccountDirectory},
    error::Error,
    reload::{Fingerprint, FromFiles, Reloaded},
    users::User,
};

/// What a user may own at most: an edge keeps it for each session.
const MAX_OWNED: usize = 500;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    account: Vec<Entry>,
    #[serde(default)]
    user: Vec<UserEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserEntry {
    id: String,
    account: String,
    #[serde(default)]
    admin: bool,
    #[serde(default)]
    devices: Vec<String>,
    #[serde(default)]
    mailboxes: Vec<String>,
    #[serde(default)]
    presence: Vec<String>,
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
    #[serde(default)]
    numbers: Vec<String>,
}

fn enabled() -> bool {
    true
}

/// The accounts of a file, which form a valid tree.
#[derive(Debug)]
pub struct Accounts {
    by_id: HashMap<String, Arc<Account>>,
    /// By account and id.
    users: HashMap<String, HashMap<String, User>>,
    /// The account that has a number.
    numbers: HashMap<String, Arc<Account>>,
    dialling: Dialling,
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
        let users = users(file.user, &by_id)?;
        let numbers = numbers(file.account, &by_id)?;
        Ok(Accounts { by_id, users, numbers, dialling: Dialling::default(), changed: Vec::new() })
    }

    /// Accounts from elsewhere. Of those with the same id the first one counts.
    pub fn collect(accounts: impl IntoIterator<Item = Arc<Account>>) -> Accounts {
        let mut by_id = HashMap::new();
        for account in accounts {
            by_id.entry(account.id.clone()).or_insert(account);
        }
        let (users, numbers) = (HashMap::new(), HashMap::new());
        Accounts { by_id, users, numbers, dialling: Dialling::default(), changed: Vec::new() }
    }

    /// The account with this id.
    pub fn get(&self, id: &str) -> Option<&Arc<Account>> {
        self.by_id.get(id)
    }

    /// The user with this id in this account.
    pub fn user(&self, account_id: &str, id: &str) -> Option<&User> {
        self.users.get(account_id)?.get(id)
    }

    /// Whether an account has a number.
    pub fn has_numbers(&self) -> bool {
        !self.numbers.is_empty()
    }

    /// The account that has the dialled number, as it is written there or in E.164, if it is enabled.
    pub fn account_of(&self, dialled: &NumberRequest) -> Option<&Arc<Account>> {
        let number = self.dialling.dialled(dialled)?;
        let normalized = || self.numbers.get(&self.dialling.normalized(number)?);
        self.numbers.get(number).or_else(normalized).filter(|account| account.enabled)
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

/// The users by their accounts and ids.
fn users(
    entries: Vec<UserEntry>,
    accounts: &HashMap<String, Arc<Account>>,
) -> Result<HashMap<String, HashMap<String, User>>, String> {
    let mut users: HashMap<String, HashMap<String, User>> = HashMap::new();
    for UserEntry { id, account, admin, devices, mailboxes, presence } in entries {
        let error = |reason: &str| Err(format!("user {id:?}: {reason}"));
        if id.is_empty() {
            return error("the id is empty");
        }
        if !accounts.contains_key(&account) {
            return error(&format!("its account {account:?} does not exist"));
        }
        let documents = devices.into_iter().chain(mailboxes).map(Owner::Document);
        let phones = presence.iter().map(|address| Owner::presence(address));
        let user = User { is_admin: admin, owns: documents.chain(phones).collect() };
        if user.owns.len() > MAX_OWNED {
            return error(&format!("owns more than {MAX_OWNED} devices, mailboxes and phones"));
        }
        if users.entry(account).or_default().insert(id.clone(), user).is_some() {
            return error("is listed twice in its account");
        }
    }
    Ok(users)
}

/// The accounts by their numbers.
fn numbers(
    entries: Vec<Entry>,
    accounts: &HashMap<String, Arc<Account>>,
) -> Result<HashMap<String, Arc<Account>>, String> {
    let mut numbers: HashMap<String, Arc<Account>> = HashMap::new();
    for Entry { id, numbers: own, .. } in entries {
        for number in own {
            let digits = number.strip_prefix('+').unwrap_or(&number);
            let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            if !is_number || number.len() > MAX_NUMBER_BYTES {
                return Err(format!("account {id}: {number:?} is not a number such as \"+14155550123\""));
            }
            let Some(account) = accounts.get(&id) else { continue };
            if let Some(other) = numbers.insert(number.clone(), Arc::clone(account)) {
                return Err(format!("account {id}: account {} has the number {number} too", other.id));
            }
        }
    }
    Ok(numbers)
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
            if previous.get(id) != Some(account) || previous.users.get(id) != self.users.get(id) {
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
    fn users_belong_to_an_account_and_a_change_of_one_is_a_change_of_the_account() {
        let user = |more: &str| format!("{}[[user]]\n{more}\n", testing::ACCOUNTS);
        for (text, expected) in [
            (user("id = \"\"\naccount = \"child\""), "the id is empty"),
            (user("id = \"u\"\naccount = \"nobody\""), "user \"u\": its account \"nobody\" does not exist"),
            (user("id = \"u\"\naccount = \"child\"\nlevel = 1"), "unknown field `level`"),
            (
                user("id = \"u\"\naccount = \"child\"\n[[user]]\nid = \"u\"\naccount = \"child\""),
                "is listed twice",
            ),
            (
                user(&format!("id = \"u\"\naccount = \"child\"\ndevices = {:?}", vec!["d"; 501])),
                "owns more than 500",
            ),
        ] {
            let reason = Accounts::parse(&text).unwrap_err();
            assert!(reason.contains(expected), "{reason} instead of {expected}");
        }
        let before = Accounts::parse(testing::ACCOUNTS).unwrap();
        let text = user("id = \"u\"\naccount = \"child\"");
        let with_user = replaced(&before, &text);
        assert_eq!(changed(&with_user), ["child"]);
        assert_eq!(changed(&replaced(&with_user, &text)), [""; 0]);
        assert_eq!(changed(&replaced(&with_user, &(text + "admin = true"))), ["child"]);
        assert_eq!(changed(&replaced(&with_user, testing::ACCOUNTS)), ["child"]);
    }

    #[test]
    fn numbers_belong_to_one_enabled_account() {
        let account = |id: &str, more: &str| {
            format!("[[account]]\nid = {id:?}\nname = \"n\"\nrealm = \"{id}.example.com\"\n{more}\n")
        };
        let listed = account("a", "numbers = [\"+14155550123\", \"030123456\"]")
            + &account("b", "numbers = [\"+14155550199\"]\nenabled = false");
        let accounts = Accounts::parse(&listed).unwrap();
        let of = |number: &str| {
            let request = NumberRequest { to: Some(number.into()), ..NumberRequest::default() };
            accounts.account_of(&request).map(|account| account.id.as_str())
        };
        for number in ["+14155550123", "14155550123", "4155550123", "030123456"] {
            assert_eq!(of(number), Some("a"), "{number}");
        }
        for number in ["", "+14155550124", "+14155550199", "30123456"] {
            assert_eq!(of(number), None, "{number}");
        }
        assert!(accounts.has_numbers() && !Accounts::parse(&account("a", "")).unwrap().has_numbers());
        for (more, expected) in [
            ("numbers = [\"\"]", "account b: \"\" is not a number"),
            ("numbers = [\"+1 415\"]", "is not a number"),
            ("numbers = [\"+14155550123\"]", "account b: account a has the number +14155550123 too"),
            ("numbers = [5]", "invalid type"),
        ] {
            let text = account("a", "numbers = [\"+14155550123\"]") + &account("b", more);
            let reason = Accounts::parse(&text).unwrap_err();
            assert!(reason.contains(expected), "{reason} instead of {expected}");
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
