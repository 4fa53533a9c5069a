//! Databases, documents, revisions, sequences.

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    sync::atomic::{AtomicU64, Ordering},
};

use serde_json::{Value, json};

/// All databases.
#[derive(Clone, Debug, Default)]
pub struct Store {
    /// By their decoded names.
    pub databases: BTreeMap<String, Database>,
}

/// A database.
#[derive(Clone, Debug)]
pub struct Database {
    /// Its documents, also deleted ones.
    pub documents: BTreeMap<String, Document>,
    /// The ids of changed documents by the number of their latest change.
    pub changes: BTreeMap<u64, String>,
    /// The number of the latest change.
    pub sequence: u64,
    /// Differs between databases of the same name.
    pub instance: u64,
    /// Who may read it.
    pub security: Value,
}

/// A document.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its members except `_id`, `_rev` and `_attachments`, as JSON text.
    pub body: String,
    /// Its revision.
    pub revision: String,
    /// Whether it is deleted.
    pub is_deleted: bool,
    /// The number of its latest change.
    pub sequence: u64,
    /// Its attachments: content type and content.
    pub attachments: BTreeMap<String, (String, Vec<u8>)>,
}

/// The revision that was named is not the latest one.
#[derive(Debug)]
pub struct Conflict;

impl Store {
    /// Creates a database. Returns whether there was none.
    pub fn create(&mut self, name: &str) -> bool {
        static INSTANCES: AtomicU64 = AtomicU64::new(1_700_000_000);
        if self.databases.contains_key(name) {
            return false;
        }
        let database = Database {
            documents: BTreeMap::new(),
            changes: BTreeMap::new(),
            sequence: 0,
            instance: INSTANCES.fetch_add(1, Ordering::Relaxed),
            security: json!({ "admins": { "roles": ["_admin"] }, "members": { "roles": ["_admin"] } }),
        };
        self.databases.insert(name.to_owned(), database);
        true
    }

    /// Deletes a database. Returns whether there was one.
    pub fn drop_database(&mut self, name: &str) -> bool {
        self.databases.remove(name).is_some()
    }

    /// A document with `_id` and `_rev`, unless it is deleted.
    pub fn document(&self, database: &str, id: &str) -> Option<Value> {
        let document = self.databases.get(database)?.documents.get(id)?;
        (!document.is_deleted).then(|| serde_json::from_str(&document.json(id)).unwrap())
    }

    /// Writes a document over its latest revision.
    pub fn overwrite(&mut self, database: &str, id: &str, value: &Value) -> String {
        self.create(database);
        let latest = self.databases[database].documents.get(id).map(|document| document.revision.clone());
        self.put(database, id, value, latest.as_deref()).unwrap()
    }

    /// Writes a document whose latest revision is `revision`.
    ///
    /// # Errors
    /// If it is another.
    pub fn put(
        &mut self,
        database: &str,
        id: &str,
        value: &Value,
        revision: Option<&str>,
    ) -> Result<String, Conflict> {
        let mut value = value.clone();
        let members = value.as_object_mut().unwrap();
        // Attachments stay if they are named.
        let keeps_attachments = members.remove("_attachments").is_some();
        members.remove("_id");
        members.remove("_rev");
        let body = value.to_string();
        self.databases.get_mut(database).unwrap().write(id, revision, |document| {
            document.body = body;
            document.is_deleted = false;
            if !keeps_attachments {
                document.attachments.clear();
            }
        })
    }

    /// Says who may read a database.
    pub fn secure(&mut self, database: &str, security: Value) {
        self.databases.get_mut(database).unwrap().security = security;
    }

    /// Writes a document as replication does: with the revision that it has at another node, which wins if it has a greater
    /// number or, with the same number, a greater hash. The loser is not kept.
    pub fn replicate(&mut self, database: &str, value: &Value) {
        let mut value = value.clone();
        let members = value.as_object_mut().unwrap();
        let id = members.remove("_id").unwrap().as_str().unwrap().to_owned();
        let revision = members.remove("_rev").unwrap().as_str().unwrap().to_owned();
        let database = self.databases.get_mut(database).unwrap();
        let order = |revision: &str| {
            let (number, hash) = revision.split_once('-').unwrap();
            (number.parse::<u64>().unwrap(), hash.to_owned())
        };
        let before = database.documents.get(&id).filter(|document| !document.is_deleted);
        if before.is_some_and(|before| order(&before.revision) >= order(&revision)) {
            return;
        }
        let latest = before.map(|document| document.revision.clone());
        let body = value.to_string();
        database
            .write(&id, latest.as_deref(), |document| {
                document.body = body;
                document.is_deleted = false;
            })
            .unwrap();
        database.documents.get_mut(&id).unwrap().revision = revision;
    }

    /// Deletes a document; its latest revision if `revision` is absent.
    ///
    /// # Errors
    /// If it does not exist, or has another revision.
    pub fn delete(&mut self, database: &str, id: &str, revision: Option<&str>) -> Result<String, Conflict> {
        let database = self.databases.get_mut(database).ok_or(Conflict)?;
        let document = database.documents.get(id).filter(|document| !document.is_deleted).ok_or(Conflict)?;
        let latest = document.revision.clone();
        database.write(id, Some(revision.unwrap_or(&latest)), |document| {
            document.body = "{}".into();
            document.is_deleted = true;
            document.attachments.clear();
        })
    }

    /// Adds an attachment; to the latest revision if `revision` is absent.
    ///
    /// # Errors
    /// If the document does not exist, or has another revision.
    pub fn attach(
        &mut self,
        database: &str,
        id: &str,
        name: &str,
        content: Vec<u8>,
        revision: Option<&str>,
    ) -> Result<String, Conflict> {
        let database = self.databases.get_mut(database).ok_or(Conflict)?;
        let latest = database.documents.get(id).ok_or(Conflict)?.revision.clone();
        database.write(id, Some(revision.unwrap_or(&latest)), |document| {
            document.attachments.insert(name.to_owned(), ("application/x-pem-file".into(), content));
        })
    }
}

impl Database {
    fn write(
        &mut self,
        id: &str,
        revision: Option<&str>,
        change: impl FnOnce(&mut Document),
    ) -> Result<String, Conflict> {
        let before = self.documents.get(id);
        let is_latest = match before {
            None => revision.is_none(),
            // A deleted document may be written again without naming its revision.
            Some(before) => revision == Some(&before.revision) || (before.is_deleted && revision.is_none()),
        };
        if !is_latest {
            return Err(Conflict);
        }
        let mut document = before.cloned().unwrap_or_else(|| Document {
            body: String::new(),
            revision: "0-".into(),
            is_deleted: false,
            sequence: 0,
            attachments: BTreeMap::new(),
        });
        change(&mut document);
        let generation: u64 = document.revision.split_once('-').unwrap().0.parse().unwrap();
        let mut hasher = DefaultHasher::new();
        (&document.body, &document.revision, &document.attachments, document.is_deleted).hash(&mut hasher);
        document.revision = format!("{}-{1:016x}{1:016x}", generation + 1, hasher.finish());
        self.sequence += 1;
        self.changes.remove(&document.sequence);
        self.changes.insert(self.sequence, id.to_owned());
        document.sequence = self.sequence;
        let revision = document.revision.clone();
        self.documents.insert(id.to_owned(), document);
        Ok(revision)
    }

    /// A position as it is sent.
    pub fn position(&self, number: u64, as_array: bool) -> Value {
        if as_array { json!([number, "g2wAAAABaANkAA"]) } else { json!(format!("{number}-g1AAAACbeJzLYW")) }
    }

    /// The number in a position that a client sends; `None` if it is none.
    pub fn number(&self, since: &str) -> Option<u64> {
        if since == "now" {
            return Some(self.sequence);
        }
        if let Ok(Value::Array(array)) = serde_json::from_str(since) {
            return array.first()?.as_u64();
        }
        since.trim_matches('"').split('-').next()?.parse().ok()
    }
}

impl Document {
    /// The document as JSON text.
    pub fn json(&self, id: &str) -> String {
        let mut head = format!("{{\"_id\":{},\"_rev\":\"{}\"", json!(id), self.revision);
        if !self.attachments.is_empty() {
            let stubs = self.attachments.iter().map(|(name, (kind, content))| {
                let stub =
                    json!({ "content_type": kind, "length": content.len(), "stub": true, "revpos": 1 });
                (name.clone(), stub)
            });
            head += &format!(",\"_attachments\":{}", Value::Object(stubs.collect()));
        }
        let rest = self.body.trim_start_matches('{');
        if rest == "}" { head + rest } else { format!("{head},{rest}") }
    }
}
