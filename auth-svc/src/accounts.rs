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
    file_changes::Fingerprint,
    owner::Owner,
    wire::{MAX_NUMBER_BYTES, NumberRequest},
};
use futures_util::future::{self, BoxFuture};
use serde::Deserialize;

use crate::{
    dialling::Dialling,
    directory::{Account, AccountDirectory},
    error::Error,
    reload::{FromFiles, Reloaded},
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
mod tests;
