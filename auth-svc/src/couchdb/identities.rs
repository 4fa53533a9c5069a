//! The secrets of users, devices and accounts, which sign the identity of a token. They are in the account's own database.
//!
//! A secret is read when a token needs it, once at a time, and kept. A change is told over NATS ([`super::events`]). Should
//! nobody tell, a secret that is older than `auth.couchdb.poll_interval` is used once more, and read again behind that. So
//! those that are known go on while CouchDB is away.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use blackhole_common::config::Secret;
use moka::{
    future,
    ops::compute::{CompResult, Op},
    sync,
};
use parking_lot::Mutex;

use super::{
    client::{Client, CouchError, account_database, encoded},
    documents::{self, IdentityDocument, Revision},
};
use crate::{announce::Announcer, error::Error, metrics::Metrics};

/// Users, devices and accounts whose secrets are kept: about 15 MB.
const MAX_KNOWN: u64 = 50_000;
/// Changes that were told, and for how long they are remembered: longer than an answer may take.
const MAX_TOLD: u64 = 10_000;
const TOLD_FOR: Duration = Duration::from_secs(120);
/// Edges are not told more often than this that anything may have changed.
const MISSED_INTERVAL: Duration = Duration::from_secs(10);
/// KAZOO's ids have 32 bytes.
const MAX_ID_BYTES: usize = 256;
/// How often a node is asked that answers an older document than was announced, and after which time.
const ATTEMPTS: u32 = 10;
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(100);
/// A secret that could not be read again is not asked for before this time.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// A user, device or account, in an account's own database.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The account.
    pub account_id: String,
    /// The document's id.
    pub id: String,
}

/// What is known of an identity.
#[derive(Clone, Debug)]
struct Known {
    /// `None` if the document does not exist or is deleted.
    document: Option<IdentityDocument>,
    /// The oldest revision that is not older than what is known.
    revision: Revision,
    read_at: Instant,
    /// When it was asked for last, by whoever has this.
    asked_at: Arc<Mutex<Instant>>,
}

impl Known {
    /// Whether nothing has changed that counts.
    fn is_same(&self, other: &Known) -> bool {
        let content = |known: &Known| {
            known
                .document
                .clone()
                .map(|document| IdentityDocument { revision: Revision::default(), ..document })
        };
        content(self) == content(other)
    }
}

/// What was told of a document.
#[derive(Clone, Copy, Debug)]
struct Told {
    /// The revision that it has, if that was told.
    revision: Revision,
    at: Instant,
}

/// The secrets.
#[derive(Debug, Clone)]
pub struct Identities {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: Arc<Client>,
    poll_interval: Duration,
    known: sync::Cache<Identity, Known>,
    /// Documents that have changed lately, so that an answer that was on its way meanwhile does not count.
    told: sync::Cache<Identity, Told>,
    /// Questions that are being asked. Answers are not kept in it.
    asking: future::Cache<Identity, Known>,
    /// What was read before may have changed without being told.
    untold_since: Mutex<Option<Instant>>,
    announced_at: Mutex<Option<Instant>>,
    announcer: Announcer,
    metrics: Metrics,
}

impl Identities {
    pub(super) fn new(
        client: Arc<Client>,
        poll_interval: Duration,
        announcer: Announcer,
        metrics: Metrics,
    ) -> Identities {
        let inner = Inner {
            client,
            poll_interval,
            known: sync::Cache::new(MAX_KNOWN),
            told: sync::Cache::builder().max_capacity(MAX_TOLD).time_to_live(TOLD_FOR).build(),
            asking: future::Cache::builder()
                .max_capacity(10_000)
                .time_to_live(Duration::from_millis(1))
                .build(),
            untold_since: Mutex::default(),
            announced_at: Mutex::default(),
            announcer,
            metrics,
        };
        Identities { inner: Arc::new(inner) }
    }

    /// The secret of an identity. `None` if its document does not exist or is deleted; an inner `None` if it has no secret.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it is not known and cannot be read now.
    pub async fn secret(&self, identity: &Identity) -> Result<Option<Option<Secret>>, Error> {
        Ok(self.document(identity).await?.map(|document| document.secret))
    }

    /// The document of an identity. `None` if it does not exist or is deleted.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it is not known and cannot be read now.
    pub async fn document(&self, identity: &Identity) -> Result<Option<IdentityDocument>, Error> {
        if let Some(known) = self.inner.known.get(identity) {
            self.refresh_if_old(identity, &known);
            return Ok(known.document);
        }
        let (inner, key) = (Arc::clone(&self.inner), identity.clone());
        let read = async move { inner.read(&key).await };
        match self.inner.asking.try_get_with_by_ref(identity, read).await {
            Ok(known) => Ok(known.document),
            Err(error) => {
                Err(Error::Unavailable { what: "couchdb signature secrets", reason: error.to_string() })
            }
        }
    }

    /// Reads again what is too old to be believed for long.
    fn refresh_if_old(&self, identity: &Identity, known: &Known) {
        let was_missed = self.inner.untold_since.lock().is_some_and(|since| known.read_at <= since);
        let is_old = was_missed || known.read_at.elapsed() >= self.inner.poll_interval;
        let mut asked_at = known.asked_at.lock();
        if !is_old || asked_at.elapsed() < RETRY_INTERVAL {
            return;
        }
        *asked_at = Instant::now();
        let (inner, identity) = (Arc::clone(&self.inner), identity.clone());
        tokio::spawn(async move {
            if let Err(error) = inner.again(&identity).await {
                tracing::debug!(%error, "a signature secret cannot be read again");
            }
        });
    }

    /// Its document has changed, and has at least this revision now. Reads it if it is known. Then the edges are told.
    pub async fn changed(&self, identity: &Identity, revision: Revision) {
        let inner = &self.inner;
        inner.told.insert(identity.clone(), Told { revision, at: Instant::now() });
        let Some(known) = inner.known.get(identity) else {
            // Nobody has asked for it here, unless it was forgotten for lack of space.
            inner.known.run_pending_tasks();
            if inner.known.entry_count() >= MAX_KNOWN {
                inner.announcer.accounts(std::slice::from_ref(&identity.account_id));
            }
            return;
        };
        if revision.is_known() && known.revision >= revision {
            return;
        }
        if inner.again(identity).await.is_ok() {
            return;
        }
        // It has changed, and what is known must not be used any more.
        inner.known.invalidate(identity);
        inner.asking.invalidate(identity).await;
        inner.announcer.accounts(std::slice::from_ref(&identity.account_id));
    }

    /// Changes may have been missed. What is known is read again as it is used.
    pub fn missed(&self) {
        let now = Instant::now();
        *self.inner.untold_since.lock() = Some(now);
        let mut announced_at = self.inner.announced_at.lock();
        if announced_at.is_none_or(|at| now - at >= MISSED_INTERVAL) {
            *announced_at = Some(now);
            self.inner.announcer.anything();
        }
    }
}

impl Inner {
    /// Reads the document again, and tells the edges if its secret has changed.
    async fn again(&self, identity: &Identity) -> Result<(), CouchError> {
        let before = self.known.get(identity);
        let known = self.read(identity).await?;
        if before.is_some_and(|before| !before.is_same(&known)) {
            tracing::debug!(account = identity.account_id, "an identity has changed");
            self.announcer.accounts(std::slice::from_ref(&identity.account_id));
        }
        Ok(())
    }

    /// Reads the document until it is as new as was told, and keeps it.
    async fn read(&self, identity: &Identity) -> Result<Known, CouchError> {
        for _ in 0..ATTEMPTS {
            let asked_at = Instant::now();
            let answer = self.ask(identity).await;
            let label = answer.as_ref().map(Option::is_some).map_err(CouchError::kind);
            self.metrics.asked_couchdb("identity", label);
            let document = answer?;
            let told = self.told.get(identity);
            let least = self.known.get(identity).map(|known| known.revision).unwrap_or_default();
            let least = least.max(told.map(|told| told.revision).unwrap_or_default());
            let found = document.as_ref().map(|document| document.revision);
            let was_told_meanwhile =
                told.is_some_and(|told| !told.revision.is_known() && told.at >= asked_at);
            if was_told_meanwhile {
                continue;
            }
            if found.is_some_and(|found| found < least) {
                // A node that does not know yet.
                tokio::time::sleep(ATTEMPT_INTERVAL).await;
                continue;
            }
            let read_at = Instant::now();
            let document = document.filter(|document| !document.is_deleted);
            let revision = found.unwrap_or_default().max(least);
            let known = Known { document, revision, read_at, asked_at: Arc::new(Mutex::new(read_at)) };
            // Another answer may have come meanwhile.
            let kept = self.known.entry_by_ref(identity).and_compute_with(|entry| match entry {
                Some(entry) if entry.value().revision > revision => Op::Nop,
                _ => Op::Put(known.clone()),
            });
            let newer = match kept {
                CompResult::Unchanged(entry) => Some(entry.into_value()),
                _ => None,
            };
            return Ok(newer.unwrap_or(known));
        }
        Err(CouchError::Stale { path: format!("the document {}", identity.id) })
    }

    async fn ask(&self, identity: &Identity) -> Result<Option<IdentityDocument>, CouchError> {
        let database = account_database(&identity.account_id);
        let Some(database) = database.filter(|_| identity.id.len() <= MAX_ID_BYTES) else { return Ok(None) };
        // `_design` and the like are no users.
        if identity.id.starts_with('_') {
            return Ok(None);
        }
        let path = format!("/{database}/{}", encoded(&identity.id));
        let Some(json) = self.client.get(&path).await? else { return Ok(None) };
        documents::identity(&json)
            .map(Some)
            .map_err(|error| CouchError::Malformed { path, reason: error.to_string() })
    }
}
