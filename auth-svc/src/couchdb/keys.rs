//! KAZOO's keys, from the database `system_auth`.
//!
//! The ids of all documents there are known, from the listing and the changes. So a token with another `kid` is refused
//! without a question. A key is read when a token names it, and again when its document changes. Of the private key in its
//! attachment only the public half is kept. The database also has live tokens: no document is read unless it is named.

use std::{
    collections::{HashMap, HashSet, hash_map::RandomState},
    hash::BuildHasher,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::RwLock;

use super::{
    client::{Client, CouchError, encoded},
    documents::{self, Change, Revision},
    feed::{Follower, missing},
};
use crate::{announce::Announcer, error::Error, keys::VerifyingKey, metrics::Metrics};

const ATTACHMENT: &str = "private_key.pem";
/// Ids read at once.
const PAGE: usize = 5000;
/// KAZOO has one key, or a few. More are not kept.
const MAX_KEYS: usize = 1000;
/// KAZOO's ids have 32 bytes.
const MAX_ID_BYTES: usize = 256;
/// A key without its attachment is asked for again after this time: the document is written first.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// The keys.
#[derive(Debug)]
pub struct LiveKeys {
    client: Arc<Client>,
    hasher: RandomState,
    state: RwLock<State>,
    /// Held while asking: one question at a time.
    asking: tokio::sync::Mutex<()>,
    announcer: Announcer,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct State {
    /// Hashes of the ids of all documents; `None` until they were read.
    ids: Option<HashSet<u64>>,
    known: HashMap<String, Known>,
    /// The document that is being read, and whether it has changed meanwhile.
    reading: Option<(String, bool)>,
}

/// What is known of a document.
#[derive(Clone, Debug)]
struct Known {
    /// `None` if it has no usable key.
    key: Option<VerifyingKey>,
    /// Whether that can change only if the document changes.
    is_final: bool,
    /// A node that answers an older one does not know of a change yet.
    revision: Revision,
    read_at: Instant,
}

impl Known {
    fn is_good(&self) -> bool {
        self.is_final || self.read_at.elapsed() < RETRY_INTERVAL
    }
}

impl LiveKeys {
    pub(super) fn new(client: Arc<Client>, announcer: Announcer, metrics: Metrics) -> LiveKeys {
        LiveKeys {
            client,
            hasher: RandomState::new(),
            state: RwLock::default(),
            asking: tokio::sync::Mutex::default(),
            announcer,
            metrics,
        }
    }

    /// The key with this id, if it was read.
    pub fn get(&self, id: &str) -> Option<VerifyingKey> {
        self.state.read().known.get(id)?.key.clone()
    }

    /// Whether there is a document with this id, key or not.
    pub fn contains(&self, id: &str) -> bool {
        let hash = self.hasher.hash_one(id);
        self.state.read().ids.as_ref().is_some_and(|ids| ids.contains(&hash))
    }

    /// Reads the key with this id, if there is such a document and its key is not known yet.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it cannot be read now.
    pub async fn prepare(&self, id: &str) -> Result<(), Error> {
        if self.is_settled(id)? {
            return Ok(());
        }
        let _one_at_a_time = self.asking.lock().await;
        if !self.is_settled(id)? {
            self.read(id, Revision::default()).await.map_err(|error| unavailable(error.to_string()))?;
        }
        Ok(())
    }

    /// Whether there is nothing to ask.
    fn is_settled(&self, id: &str) -> Result<bool, Error> {
        let state = self.state.read();
        if state.known.get(id).is_some_and(Known::is_good) || id.len() > MAX_ID_BYTES {
            return Ok(true);
        }
        let Some(ids) = &state.ids else { return Err(unavailable("they have not been read yet".into())) };
        Ok(!ids.contains(&self.hasher.hash_one(id)))
    }

    /// Reads a document, at least of this revision, and keeps its key. Returns whether that has changed.
    async fn read(&self, id: &str, least: Revision) -> Result<bool, CouchError> {
        let wanted = {
            let mut state = self.state.write();
            state.reading = Some((id.to_owned(), false));
            least.max(state.known.get(id).map(|known| known.revision).unwrap_or_default())
        };
        let answer = self.ask(id, wanted).await;
        self.metrics
            .asked_couchdb("key", answer.as_ref().map(|known| known.key.is_some()).map_err(CouchError::kind));
        let mut state = self.state.write();
        // What is not known any more must not be used.
        let before = state.known.remove(id).and_then(|known| known.key);
        let is_old = state.reading.take().is_some_and(|(_, has_changed)| has_changed);
        let mut known = answer?;
        if is_old {
            known = Known { key: None, is_final: false, ..known };
        }
        let has_changed = before.as_ref().map(VerifyingKey::fingerprint)
            != known.key.as_ref().map(VerifyingKey::fingerprint);
        if state.known.len() >= MAX_KEYS {
            state.known.retain(|_, known| known.key.is_some());
        }
        if state.known.len() < MAX_KEYS {
            state.known.insert(id.to_owned(), known);
        }
        self.count(&state);
        Ok(has_changed)
    }

    async fn ask(&self, id: &str, wanted: Revision) -> Result<Known, CouchError> {
        let known = |key, is_final, revision| Known { key, is_final, revision, read_at: Instant::now() };
        let path = format!("/{}/{}", Self::DATABASE, encoded(id));
        let Some(json) = self.client.get(&path).await? else {
            return Ok(known(None, !wanted.is_known(), wanted));
        };
        let revision = documents::key_revision(&json)
            .map_err(|error| CouchError::Malformed { path: path.clone(), reason: error.to_string() })?;
        let Some(text) = revision else { return Ok(known(None, true, wanted)) };
        let revision = Revision::of(&text);
        if revision < wanted {
            return Ok(known(None, false, wanted));
        }
        let path = format!("{path}/{ATTACHMENT}?rev={}", encoded(&text));
        let Some(pem) = self.client.get(&path).await? else {
            return Ok(known(None, false, revision));
        };
        match VerifyingKey::from_pem(&pem) {
            Ok(key) => Ok(known(Some(key), true, revision)),
            Err(reason) => {
                tracing::warn!(kid = %id.escape_debug(), reason, "a key in couchdb is not usable");
                Ok(known(None, true, revision))
            }
        }
    }

    fn count(&self, state: &State) {
        let count = state.known.values().filter(|known| known.key.is_some()).count();
        self.metrics.couchdb_keys.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    async fn listing(&self) -> Result<HashSet<u64>, CouchError> {
        let mut ids = HashSet::new();
        let mut start = String::new();
        loop {
            let path = format!("/{}/_all_docs?limit={PAGE}{start}", Self::DATABASE);
            let json = self.client.get(&path).await?.ok_or_else(|| missing(&self.client, &path))?;
            let page = documents::ids(&json)
                .map_err(|error| CouchError::Malformed { path, reason: error.to_string() })?;
            ids.extend(page.iter().map(|id| self.hasher.hash_one(id)));
            match page.last() {
                Some(last) if page.len() == PAGE => {
                    let key = serde_json::Value::from(last.as_str()).to_string();
                    start = format!("&skip=1&startkey={}", encoded(&key));
                }
                _ => return Ok(ids),
            }
        }
    }

    /// Reads these documents again, and tells the edges if something `has_changed`.
    async fn again(&self, ids: Vec<(String, Revision)>, mut has_changed: bool) -> Result<(), CouchError> {
        let mut result = Ok(());
        for (id, revision) in ids {
            let _one_at_a_time = self.asking.lock().await;
            match self.read(&id, revision).await {
                Ok(changed) => has_changed |= changed,
                Err(error) => (has_changed, result) = (true, Err(error)),
            }
        }
        if has_changed {
            tracing::info!("a key in couchdb has changed");
            self.announcer.anything();
        }
        result
    }
}

impl Follower for LiveKeys {
    const DATABASE: &'static str = "system_auth";

    async fn load(&self, other: bool) -> Result<(), CouchError> {
        let ids = self.listing().await?;
        let known = {
            let mut state = self.state.write();
            state.ids = Some(ids);
            if other {
                state.known.values_mut().for_each(|known| known.revision = Revision::default());
            }
            state.known.keys().cloned().map(|id| (id, Revision::default())).collect()
        };
        self.again(known, false).await
    }

    async fn apply(&self, changes: Vec<Change>) -> Result<(), CouchError> {
        let (mut known, mut has_changed) = (HashMap::new(), false);
        {
            let mut state = self.state.write();
            let State { ids: Some(ids), known: keys, reading } = &mut *state else { return Ok(()) };
            for Change { id, revision, is_deleted, .. } in changes {
                if let Some((_, has_changed)) = reading.as_mut().filter(|(reading, _)| *reading == id) {
                    *has_changed = true;
                }
                let hash = self.hasher.hash_one(&id);
                if is_deleted {
                    ids.remove(&hash)
                } else {
                    ids.insert(hash)
                };
                let Some(key) = keys.get_mut(&id).filter(|known| known.revision <= revision) else {
                    continue;
                };
                if is_deleted {
                    has_changed |= key.key.take().is_some();
                    key.is_final = false;
                    key.revision = revision;
                    known.remove(&id);
                } else {
                    known.insert(id, revision);
                }
            }
            self.count(&state);
        }
        if known.is_empty() && !has_changed {
            return Ok(());
        }
        self.again(known.into_iter().collect(), has_changed).await
    }
}

fn unavailable(reason: String) -> Error {
    Error::Unavailable { what: "couchdb keys", reason }
}
