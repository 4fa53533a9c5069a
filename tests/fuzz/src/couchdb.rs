//! What CouchDB answers.

use std::collections::{BTreeSet, HashSet};

use auth_svc::{
    couchdb::{
        documents::{self, AccountRow, DatabaseInfo, Line},
        numbers,
        table::Table,
    },
    dialling::Dialling,
};
use blackhole_common::wire::MAX_NUMBER_BYTES;
use serde_json::Value;

/// The first byte chooses the reader.
pub(crate) fn run(input: &[u8]) -> bool {
    let Some((reader, json)) = input.split_first() else { return false };
    match reader {
        b'a' => accounts(json),
        b'c' => change(json),
        b'd' => database(json),
        b'e' => dialling(json),
        b'i' => documents::ids(json).is_ok(),
        b'k' => matches!(documents::key_revision(json), Ok(Some(_))),
        b'n' => numbers::account(json).is_some(),
        b's' => settings(json),
        b'u' => documents::identity(json).is_ok(),
        _ => false,
    }
}

/// No two accounts have the same realm, and an account that is there may be an account's.
fn accounts(json: &[u8]) -> bool {
    let Ok(rows) = documents::account_rows(json) else { return false };
    for AccountRow { id, account, .. } in &rows {
        let Some(account) = account else { continue };
        assert_eq!(id, &account.id);
        assert!((1..=64).contains(&id.len()) && id.is_ascii());
        assert!(account.realm.as_ref().is_none_or(|realm| !realm.is_empty() && realm.is_ascii()));
        // What a parsed tree says is not less strict.
        let Ok(page) = serde_json::from_slice::<Value>(json) else { continue };
        let documents = page["rows"].as_array().unwrap().iter().map(|row| &row["doc"]);
        let is_one = |doc: &&Value| doc["pvt_type"] == "account";
        assert!(documents.into_iter().any(|doc| is_one(&doc)));
    }
    let count = rows.iter().filter(|row| row.account.is_some()).count();
    let (mut table, mut changed) = (Table::default(), BTreeSet::new());
    rows.iter().for_each(|row| table.apply(row.clone(), &mut changed));
    table.keep(|id| id.len() % 2 == 0, &mut changed);
    rows.into_iter().for_each(|row| table.apply(row, &mut changed));
    let mut realms = HashSet::new();
    for account in table.iter() {
        if let Some(realm) = &account.realm {
            assert!(realms.insert(realm.to_ascii_lowercase()), "{realm}");
        }
    }
    assert_eq!(table.iter().count(), table.count());
    count > 0
}

/// A sequence is given back as it came.
fn change(json: &[u8]) -> bool {
    match documents::line(json) {
        Ok(Line::Change(change)) => {
            if let Ok(line) = serde_json::from_slice::<Value>(json) {
                let text = change.sequence.text();
                let is_same = line["seq"] == text.as_str()
                    || serde_json::from_str(&text).ok() == Some(line["seq"].clone());
                assert!(is_same, "{text}");
            }
            true
        }
        Ok(Line::End) => true,
        Err(reason) => {
            assert!(!reason.is_empty());
            false
        }
    }
}

fn database(json: &[u8]) -> bool {
    serde_json::from_slice::<DatabaseInfo>(json).is_ok_and(|info| !info.update_seq.text().is_empty())
}

/// A secret is never empty, and of the sections that count.
fn settings(json: &[u8]) -> bool {
    let sections = ["zone".to_owned(), "default".to_owned()];
    let Ok(settings) = documents::auth_settings(json, &sections) else { return false };
    if let Some(secret) = &settings.server_secret {
        assert!(!secret.reveal().is_empty());
        let other = documents::auth_settings(json, &[]).unwrap();
        assert_eq!(other.server_secret, None);
    }
    settings.server_secret.is_some()
}

/// Whatever the patterns are: what comes of a number is a number, or none.
fn dialling(json: &[u8]) -> bool {
    let sections = ["zone".to_owned(), "default".to_owned()];
    let dialling = Dialling::read(Some(json), Some(json), &sections);
    let default = Dialling::default();
    let mut differs = false;
    for number in ["4155550123", "004930123456", "030123456", "+14155550123", "1002", "x#*"] {
        let normalized = dialling.normalized(number);
        if let Some(normalized) = &normalized {
            let digits = normalized.strip_prefix('+').unwrap_or(normalized);
            assert!(digits.len() >= 5 && digits.bytes().all(|byte| byte.is_ascii_digit()), "{normalized}");
            assert!(normalized.len() <= MAX_NUMBER_BYTES);
        }
        differs |= normalized != default.normalized(number);
    }
    differs
}
