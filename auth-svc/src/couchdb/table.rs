//! All accounts, and which of them have the same realm.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::documents::{AccountRow, Revision};
use crate::directory::Account;

/// The accounts of the database `accounts`.
#[derive(Debug, Default)]
pub struct Table {
    by_id: HashMap<String, Entry>,
    /// The ids of the accounts that claim a realm (lower case): one, unless something is wrong.
    claims: HashMap<String, Vec<String>>,
    count: usize,
}

#[derive(Debug)]
struct Entry {
    revision: Revision,
    /// `None` if it was deleted, or is no account: so that an older answer does not bring it back.
    account: Option<Arc<Account>>,
}

impl Table {
    /// The account with this id. Without its realm while another account has the same one: some events name only a realm, and
    /// nobody could say whose they are.
    pub fn get(&self, id: &str) -> Option<Arc<Account>> {
        let account = self.by_id.get(id)?.account.as_ref()?;
        let is_disputed = account.realm.as_deref().is_some_and(|realm| self.is_disputed(realm));
        if is_disputed {
            return Some(Arc::new(Account { realm: None, ..Account::clone(account) }));
        }
        Some(Arc::clone(account))
    }

    /// All accounts.
    pub fn iter(&self) -> impl Iterator<Item = Arc<Account>> {
        self.by_id.keys().filter_map(|id| self.get(id))
    }

    /// The number of accounts.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The revision that is known of a document.
    pub fn revision(&self, id: &str) -> Revision {
        self.by_id.get(id).map(|entry| entry.revision).unwrap_or_default()
    }

    /// The realm that an account claims, and whether it has it alone.
    pub fn realm(&self, id: &str) -> Option<(&str, bool)> {
        let realm = self.by_id.get(id)?.account.as_ref()?.realm.as_deref()?;
        Some((realm, !self.is_disputed(realm)))
    }

    fn is_disputed(&self, realm: &str) -> bool {
        self.claims.get(&realm.to_ascii_lowercase()).is_some_and(|claims| claims.len() > 1)
    }

    /// Takes over a row, unless a newer one is known. Adds to `changed` the ids of the accounts that this changes something
    /// for.
    pub fn apply(&mut self, row: AccountRow, changed: &mut BTreeSet<String>) {
        let AccountRow { id, revision, account } = row;
        let before = match self.by_id.get(&id) {
            Some(entry) if entry.revision > revision => return,
            entry => entry.and_then(|entry| entry.account.clone()),
        };
        let has_same_realm = match (&before, &account) {
            (Some(before), Some(account)) => before.realm == account.realm,
            (None, None) => true,
            _ => false,
        };
        if !has_same_realm {
            let old = before.as_ref().and_then(|before| before.realm.clone());
            let new = account.as_ref().and_then(|account| account.realm.clone());
            self.release(&id, old.as_deref(), changed);
            self.claim(&id, new.as_deref(), changed);
        }
        if !is_alike(before.as_deref(), account.as_ref()) {
            changed.insert(id.clone());
        }
        self.count = self.count + usize::from(account.is_some()) - usize::from(before.is_some());
        self.by_id.insert(id, Entry { revision, account: account.map(Arc::new) });
    }

    /// Ends a claim.
    fn release(&mut self, id: &str, realm: Option<&str>, changed: &mut BTreeSet<String>) {
        let Some(realm) = realm.map(str::to_ascii_lowercase) else { return };
        let Some(claims) = self.claims.get_mut(&realm) else { return };
        claims.retain(|claim| claim != id);
        match claims.as_slice() {
            [] => drop(self.claims.remove(&realm)),
            [last] => {
                changed.insert(last.clone());
            }
            _ => {}
        }
    }

    fn claim(&mut self, id: &str, realm: Option<&str>, changed: &mut BTreeSet<String>) {
        let Some(realm) = realm else { return };
        let claims = self.claims.entry(realm.to_ascii_lowercase()).or_default();
        if let Some(other) = claims.first() {
            tracing::warn!(
                realm,
                account = id,
                other,
                "two accounts have the same realm: neither gets events that name only the realm"
            );
            changed.extend(claims.iter().cloned());
        }
        claims.push(id.to_owned());
    }

    /// Forgets how new the documents are: they are another database's.
    pub fn forget_revisions(&mut self) {
        self.by_id.values_mut().for_each(|entry| entry.revision = Revision::default());
    }

    /// Removes the accounts that are not `there` any more. Adds their ids to `changed`.
    pub fn keep(&mut self, there: impl Fn(&str) -> bool, changed: &mut BTreeSet<String>) {
        let gone: Vec<(String, Revision)> = self
            .by_id
            .iter()
            .filter(|(id, entry)| entry.account.is_some() && !there(id))
            .map(|(id, entry)| (id.clone(), entry.revision))
            .collect();
        for (id, revision) in gone {
            self.apply(AccountRow { id, revision, account: None }, changed);
        }
    }
}

/// Whether nothing that access depends on differs. Names do not matter.
fn is_alike(one: Option<&Account>, other: Option<&Account>) -> bool {
    let key = |account: &Account| (account.realm.clone(), account.superduper_admin, account.enabled);
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => key(one) == key(other) && one.ancestors == other.ancestors,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, number: u32, realm: Option<&str>) -> AccountRow {
        let account = realm.map(|realm| Account {
            id: id.into(),
            name: String::new(),
            realm: Some(realm.into()),
            ancestors: Vec::new(),
            superduper_admin: false,
            enabled: true,
        });
        AccountRow { id: id.into(), revision: Revision::of(&format!("{number}-a")), account }
    }

    fn apply(table: &mut Table, row: AccountRow) -> String {
        let mut changed = BTreeSet::new();
        table.apply(row, &mut changed);
        changed.into_iter().collect::<Vec<_>>().join(" ")
    }

    fn realm(table: &Table, id: &str) -> Option<String> {
        table.get(id).unwrap().realm.clone()
    }

    #[test]
    fn older_rows_change_nothing_and_deleted_accounts_do_not_come_back() {
        let mut table = Table::default();
        assert_eq!(apply(&mut table, row("a", 3, Some("one"))), "a");
        assert_eq!(apply(&mut table, row("a", 2, Some("two"))), "");
        assert_eq!(realm(&table, "a"), Some("one".into()));
        assert_eq!(apply(&mut table, row("a", 3, Some("one"))), "");
        assert_eq!(apply(&mut table, row("a", 4, None)), "a");
        assert_eq!(apply(&mut table, row("a", 3, Some("one"))), "");
        assert!(table.get("a").is_none());
        assert_eq!(table.count(), 0);
        assert_eq!(apply(&mut table, row("a", 5, Some("one"))), "a");
        assert_eq!((table.count(), table.revision("a")), (1, Revision::of("5-a")));
    }

    #[test]
    fn a_disputed_realm_is_nobodys_until_one_account_has_it_alone() {
        let mut table = Table::default();
        apply(&mut table, row("a", 1, Some("Same")));
        assert_eq!(apply(&mut table, row("b", 1, Some("same"))), "a b");
        assert_eq!((realm(&table, "a"), realm(&table, "b")), (None, None));
        assert_eq!(apply(&mut table, row("a", 2, Some("other"))), "a b");
        assert_eq!(realm(&table, "a"), Some("other".into()));
        assert_eq!(realm(&table, "b"), Some("same".into()));
        assert_eq!(apply(&mut table, row("b", 2, None)), "b");
        assert_eq!(apply(&mut table, row("a", 3, Some("same"))), "a");
        assert_eq!(realm(&table, "a"), Some("same".into()));
    }

    #[test]
    fn a_later_reading_finds_what_is_gone_and_keeps_what_is_newer() {
        let mut table = Table::default();
        for (id, number) in [("a", 1), ("b", 5), ("c", 1)] {
            apply(&mut table, row(id, number, Some(id)));
        }
        let read = |table: &mut Table| {
            let mut changed = BTreeSet::new();
            for row in [row("a", 2, Some("c")), row("b", 4, Some("old")), row("d", 1, Some("d"))] {
                table.apply(row, &mut changed);
            }
            table.keep(|id| ["a", "b", "d"].contains(&id), &mut changed);
            changed.into_iter().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(read(&mut table), "a c d");
        assert_eq!(realm(&table, "a"), Some("c".into()));
        assert_eq!(realm(&table, "b"), Some("b".into()));
        assert!(table.get("c").is_none());
        // Another database under the same name begins with first revisions.
        table.forget_revisions();
        assert_eq!(read(&mut table), "b");
        assert_eq!(realm(&table, "b"), Some("old".into()));
        assert_eq!(table.iter().count(), table.count());
    }
}
