//! The accounts file.

use std::collections::HashSet;

use auth_svc::accounts::Accounts;

/// Whatever is accepted is a tree, in which no two accounts share a realm.
pub(crate) fn run(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let accounts = match Accounts::parse(text) {
        Ok(accounts) => accounts,
        Err(reason) => {
            assert!(!reason.is_empty() && !reason.contains('\n'), "{reason:?}");
            return false;
        }
    };
    let mut realms = HashSet::new();
    for account in accounts.iter() {
        assert!(!account.ancestors.contains(&account.id), "{account:?}");
        if let Some((parent, above)) = account.ancestors.split_last() {
            assert_eq!(accounts.get(parent).unwrap().ancestors, above);
        }
        assert!(realms.insert(account.realm.as_ref().unwrap().to_ascii_lowercase()), "{account:?}");
    }
    accounts.count() > 0 && accounts.count() == realms.len()
}
