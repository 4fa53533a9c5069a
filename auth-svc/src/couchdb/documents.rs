//! What CouchDB answers: pages of documents, single documents, lines of a changes feed.
//!
//! Documents are KAZOO's, and customers choose some of what is in them. So an odd value affects its own document at most, and
//! what is not needed is skipped without recursion, however deep it is.

mod loose;
mod revision;

use std::collections::BTreeMap;

use blackhole_common::{config::Secret, owner::Owner};
use serde::Deserialize;
use serde_json::value::RawValue;

pub(in crate::couchdb) use self::loose::Loose;
pub use self::revision::Revision;
use crate::directory::Account;

/// What `accounts` has under an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountRow {
    /// The document's id.
    pub id: String,
    /// Its revision.
    pub revision: Revision,
    /// The account; `None` if it is deleted, or no account, or not readable.
    pub account: Option<Account>,
}

#[derive(Deserialize)]
struct Page {
    rows: Vec<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Row {
    id: Option<String>,
    key: Option<String>,
    value: Option<RowValue>,
}

#[derive(Deserialize)]
struct RowValue {
    rev: Revision,
}

#[derive(Deserialize)]
struct RowDocument {
    doc: Option<AccountDocument>,
}

#[derive(Deserialize)]
struct AccountDocument {
    name: Option<Loose>,
    realm: Option<Loose>,
    enabled: Option<Loose>,
    pvt_enabled: Option<Loose>,
    pvt_tree: Option<Loose>,
    pvt_superduper_admin: Option<Loose>,
    pvt_deleted: Option<Loose>,
    pvt_type: Option<Loose>,
}

/// The rows of `_all_docs`, with documents if they were asked for. A row without a document has no account.
///
/// # Errors
/// If it is no such page.
pub fn account_rows(json: &[u8]) -> Result<Vec<AccountRow>, serde_json::Error> {
    let page: Page = serde_json::from_slice(json)?;
    let mut rows = Vec::with_capacity(page.rows.len());
    for row in page.rows {
        let Row { id, key, value } = serde_json::from_str(row.get())?;
        // A document that never existed has only a key.
        let Some(id) = id.or(key) else { continue };
        let revision = value.map(|value| value.rev).unwrap_or_default();
        let account = match serde_json::from_str(row.get()) {
            Ok(RowDocument { doc: Some(document) }) => account(&id, document),
            Ok(RowDocument { doc: None }) => None,
            Err(error) => {
                tracing::warn!(%id, %error, "an account's document is not readable, its tokens are refused");
                None
            }
        };
        rows.push(AccountRow { id, revision, account });
    }
    Ok(rows)
}

/// The ids of a page of `_all_docs`.
///
/// # Errors
/// If it is no such page.
pub fn ids(json: &[u8]) -> Result<Vec<String>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Ids {
        rows: Vec<Id>,
    }
    #[derive(Deserialize)]
    struct Id {
        id: String,
    }
    let page: Ids = serde_json::from_slice(json)?;
    Ok(page.rows.into_iter().map(|row| row.id).collect())
}

/// The account in a document, unless it is deleted or no account.
fn account(id: &str, document: AccountDocument) -> Option<Account> {
    let is_account = document.pvt_type.and_then(Loose::text).is_some_and(|kind| kind == "account");
    let is_deleted = document.pvt_deleted.is_some_and(|deleted| !deleted.is_false());
    if !is_account || is_deleted || !(1..=64).contains(&id.len()) || !is_plain(id, b"_-") {
        return None;
    }
    // KAZOO 4.3 has both flags, later releases have the second one.
    let is_enabled = |flag: &Option<Loose>| flag.as_ref().is_none_or(Loose::is_true);
    Some(Account {
        id: id.to_owned(),
        name: document.name.and_then(Loose::text).unwrap_or_default(),
        realm: document.realm.and_then(Loose::text).filter(|realm| is_realm(realm)),
        ancestors: document.pvt_tree.and_then(Loose::texts).unwrap_or_default(),
        superduper_admin: document.pvt_superduper_admin.as_ref().is_some_and(Loose::is_true),
        enabled: is_enabled(&document.enabled) && is_enabled(&document.pvt_enabled),
    })
}

/// Whether a text can be a SIP realm.
pub(crate) fn is_realm(text: &str) -> bool {
    (1..=253).contains(&text.len()) && is_plain(text, b"_-.:[]")
}

fn is_plain(text: &str, extra: &[u8]) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || extra.contains(&byte))
}

/// A line of a continuous changes feed.
#[derive(Debug)]
pub enum Line {
    /// A document has changed.
    Change(Change),
    /// The feed has ended regularly.
    End,
}

/// A document has changed.
#[derive(Debug)]
pub struct Change {
    /// The position of this change.
    pub sequence: Sequence,
    /// The document's id.
    pub id: String,
    /// Its new revision.
    pub revision: Revision,
    /// Whether it was deleted.
    pub is_deleted: bool,
}

/// A position in a changes feed: any JSON value, which is given back as it came.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub struct Sequence(Box<RawValue>);

impl Sequence {
    /// As the value of `since`: a string without its quotes, anything else as JSON.
    pub fn text(&self) -> String {
        serde_json::from_str(self.0.get()).unwrap_or_else(|_| self.0.get().to_owned())
    }
}

/// Reads a line of a changes feed.
///
/// # Errors
/// If it is none.
pub fn line(json: &[u8]) -> Result<Line, String> {
    #[derive(Deserialize)]
    struct Raw {
        seq: Option<Sequence>,
        id: Option<String>,
        #[serde(default)]
        changes: Vec<RowValue>,
        #[serde(default)]
        deleted: bool,
        last_seq: Option<Sequence>,
    }
    let raw: Raw = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    match (raw.seq, raw.id) {
        (Some(sequence), Some(id)) => {
            let revision = raw.changes.iter().map(|change| change.rev).max().unwrap_or_default();
            Ok(Line::Change(Change { sequence, id, revision, is_deleted: raw.deleted }))
        }
        _ if raw.last_seq.is_some() => Ok(Line::End),
        _ => Err("neither a change nor the end of the feed".into()),
    }
}

/// What a database says about itself.
#[derive(Clone, Debug, Deserialize)]
pub struct DatabaseInfo {
    /// Its position.
    pub update_seq: Sequence,
    /// Identifies it, in releases that say so: a database that was deleted and made again has another.
    #[serde(default)]
    pub instance_start_time: Option<Box<RawValue>>,
}

/// The document of a user, device or account in the account's own database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityDocument {
    /// Its revision.
    pub revision: Revision,
    /// The secret; `None` if it has none.
    pub secret: Option<Secret>,
    /// Whether it is softly deleted.
    pub is_deleted: bool,
    /// Whether it is a user who is an admin of the account.
    pub is_admin: bool,
    /// Its phones.
    pub phones: Vec<Owner>,
}

/// What a document says of its phones: `presence_id`, a device's `sip.username`, a mailbox's number. KAZOO names one of them in
/// events about presence.
struct Phones {
    presence_id: Option<Loose>,
    sip: Option<Box<RawValue>>,
    mailbox: Option<Loose>,
}

impl Phones {
    fn owners(self) -> Vec<Owner> {
        #[derive(Deserialize)]
        struct Sip {
            username: Option<Loose>,
        }
        let sip = self.sip.and_then(|sip| serde_json::from_str::<Sip>(sip.get()).ok());
        [self.presence_id, sip.and_then(|sip| sip.username), self.mailbox]
            .into_iter()
            .filter_map(|text| text.and_then(Loose::text))
            .filter(|text| !text.is_empty())
            .map(|text| Owner::presence(&text))
            .collect()
    }
}

/// Reads the rows of the view `attributes/owned`: of each document of `owner`, itself and its phones.
///
/// # Errors
/// If they are none.
pub fn owned(json: &[u8], owner: &str) -> Result<Vec<Vec<Owner>>, serde_json::Error> {
    #[derive(Deserialize)]
    struct OwnedRow {
        id: String,
        doc: Option<Box<RawValue>>,
    }
    #[derive(Deserialize)]
    struct Raw {
        owner_id: Option<Loose>,
        pvt_deleted: Option<Loose>,
        presence_id: Option<Loose>,
        sip: Option<Box<RawValue>>,
        mailbox: Option<Loose>,
    }
    let page: Page = serde_json::from_slice(json)?;
    let mut owned = Vec::with_capacity(page.rows.len());
    for row in page.rows {
        let OwnedRow { id, doc } = serde_json::from_str(row.get())?;
        // The view may lag behind the documents.
        let Some(Ok(raw)) = doc.map(|doc| serde_json::from_str::<Raw>(doc.get())) else { continue };
        let is_deleted = raw.pvt_deleted.is_some_and(|deleted| !deleted.is_false());
        if is_deleted || raw.owner_id.and_then(Loose::text).is_none_or(|id| id != owner) {
            continue;
        }
        let phones = Phones { presence_id: raw.presence_id, sip: raw.sip, mailbox: raw.mailbox };
        owned.push(phones.owners().into_iter().chain([Owner::Document(id)]).collect());
    }
    Ok(owned)
}

/// Reads the document of a user, device or account.
///
/// # Errors
/// If it is none.
pub fn identity(json: &[u8]) -> Result<IdentityDocument, serde_json::Error> {
    #[derive(Deserialize)]
    struct Raw {
        _rev: Revision,
        pvt_signature_secret: Option<Loose>,
        pvt_deleted: Option<Loose>,
        pvt_type: Option<Loose>,
        priv_level: Option<Loose>,
        presence_id: Option<Loose>,
        sip: Option<Box<RawValue>>,
    }
    let raw: Raw = serde_json::from_slice(json)?;
    let has = |value: Option<Loose>, expected: &str| {
        value.and_then(Loose::text).is_some_and(|text| text == expected)
    };
    Ok(IdentityDocument {
        revision: raw._rev,
        secret: secret(raw.pvt_signature_secret),
        is_deleted: raw.pvt_deleted.is_some_and(|deleted| !deleted.is_false()),
        is_admin: has(raw.pvt_type, "user") && has(raw.priv_level, "admin"),
        phones: Phones { presence_id: raw.presence_id, sip: raw.sip, mailbox: None }.owners(),
    })
}

/// Reads a document of `system_auth`: its revision, if it is a key's.
///
/// # Errors
/// If it is no document.
pub fn key_revision(json: &[u8]) -> Result<Option<String>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Raw {
        _rev: String,
        pvt_type: Option<Loose>,
        pvt_deleted: Option<Loose>,
    }
    let raw: Raw = serde_json::from_slice(json)?;
    let is_key = raw.pvt_type.and_then(Loose::text).is_some_and(|kind| kind == "system_key");
    Ok((is_key && raw.pvt_deleted.is_none_or(|deleted| deleted.is_false())).then_some(raw._rev))
}

/// What counts of `system_config/auth`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthSettings {
    /// Its revision.
    pub revision: Revision,
    /// `secret_for_user_signature`.
    pub server_secret: Option<Secret>,
    /// `system_key`: the id of the key that signs.
    pub system_key: Option<String>,
}

/// Reads `system_config/auth`: of each setting, the value in the first of these sections that has it.
///
/// # Errors
/// If it is no document.
pub fn auth_settings(json: &[u8], sections: &[String]) -> Result<AuthSettings, serde_json::Error> {
    #[derive(Deserialize)]
    struct Section {
        secret_for_user_signature: Option<Loose>,
        system_key: Option<Loose>,
    }
    let members: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(json)?;
    let revision = members.get("_rev").and_then(|json| serde_json::from_str(json.get()).ok());
    let mut settings = AuthSettings { revision: revision.unwrap_or_default(), ..Default::default() };
    if members.get("pvt_deleted").is_some_and(|deleted| !matches!(deleted.get(), "false" | "null")) {
        return Ok(settings);
    }
    for name in sections {
        let section = members.get(name).and_then(|json| serde_json::from_str::<Section>(json.get()).ok());
        let Some(section) = section else { continue };
        settings.server_secret = settings.server_secret.or_else(|| secret(section.secret_for_user_signature));
        settings.system_key = settings.system_key.or_else(|| section.system_key.and_then(Loose::text));
    }
    Ok(settings)
}

fn secret(value: Option<Loose>) -> Option<Secret> {
    value.and_then(Loose::text).filter(|text| !text.is_empty()).map(|text| Secret::new(&text))
}

#[cfg(test)]
mod tests;
