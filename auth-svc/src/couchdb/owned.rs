//! What users own: devices, mailboxes and the like, from the view `attributes/owned` of the account's own database, which
//! KAZOO keeps there for itself.
//!
//! It is read when a token needs it, once at a time, and kept. KAZOO tells when a device or a mailbox has changed, but not
//! whose it is: then everything that is known of its account is forgotten, and the edges are told. What nobody tells of is read
//! again after `auth.couchdb.poll_interval`, behind the next question. So what is known goes on while CouchDB is away.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use blackhole_common::owner::Owner;
use moka::{future, sync};
use parking_lot::Mutex;
use serde_json::json;

use super::{
    client::{Client, CouchError, account_database, encoded},
    documents,
    identities::Identity,
};
use crate::{announce::Announcer, error::Error, metrics::Metrics};

/// Users of whom is kept what they own: about 10 MB, with ten things each.
const MAX_KNOWN: u64 = 20_000;
/// Further things of one user do not count.
const MAX_OWNED: usize = 500;
/// Accounts in which something has changed, and for how long they are remembered: longer than an answer may take.
const MAX_TOLD: u64 = 10_000;
const TOLD_FOR: Duration = Duration::from_secs(120);
/// How often is asked again because something has changed while the answer was on its way.
const ATTEMPTS: u32 = 10;
/// What could not be read again is not asked for before this time.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
struct Known {
    owns: Arc<[Owner]>,
    /// When CouchDB was asked.
    read_at: Instant,
    /// When it was asked for last, by whoever has this.
    asked_at: Arc<Mutex<Instant>>,
}

/// What users own.
#[derive(Clone, Debug)]
pub struct Owned {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: Arc<Client>,
    poll_interval: Duration,
    known: sync::Cache<Identity, Known>,
    /// Accounts in which something has changed lately, so that an answer that was on its way meanwhile does not count.
    told: sync::Cache<String, Instant>,
    /// Questions that are being asked. Answers are not kept in it.
    asking: future::Cache<Identity, Known>,
    /// What was read before may have changed without being told.
    untold_since: Mutex<Option<Instant>>,
    announcer: Announcer,
    metrics: Metrics,
}

impl Owned {
    pub(super) fn new(
        client: Arc<Client>,
        poll_interval: Duration,
        announcer: Announcer,
        metrics: Metrics,
    ) -> Owned {
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
            announcer,
            metrics,
        };
        Owned { inner: Arc::new(inner) }
    }

    /// What a user owns.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it is not known and cannot be read now.
    pub async fn of(&self, user: &Identity) -> Result<Arc<[Owner]>, Error> {
        if let Some(known) =
            self.inner.known.get(user).filter(|known| !self.inner.was_told(user, known.read_at))
        {
            self.refresh_if_old(user, &known);
            return Ok(known.owns);
        }
        let (inner, key) = (Arc::clone(&self.inner), user.clone());
        let read = async move { inner.read(&key).await };
        match self.inner.asking.try_get_with_by_ref(user, read).await {
            // An answer stays there for a moment, in which something may have changed.
            Ok(known) if self.inner.was_told(user, known.read_at) => {
                self.inner.asking.invalidate(user).await;
                self.inner.read(user).await.map(|known| known.owns).map_err(|error| unavailable(&error))
            }
            Ok(known) => Ok(known.owns),
            Err(error) => Err(unavailable(&error)),
        }
    }

    /// Something that a user may own has changed in this account.
    pub fn changed(&self, account_id: &str) {
        let inner = &self.inner;
        inner.told.insert(account_id.to_owned(), Instant::now());
        let of_account = inner.known.iter().filter(|(user, _)| user.account_id == account_id);
        of_account.for_each(|(user, _)| inner.known.invalidate(&*user));
        inner.announcer.accounts(&[account_id.to_owned()]);
    }

    /// Changes may have been missed. What is known is read again as it is used.
    pub fn missed(&self) {
        *self.inner.untold_since.lock() = Some(Instant::now());
    }

    /// Reads again what is too old to be believed for long.
    fn refresh_if_old(&self, user: &Identity, known: &Known) {
        let was_missed = self.inner.untold_since.lock().is_some_and(|since| known.read_at <= since);
        let is_old = was_missed || known.read_at.elapsed() >= self.inner.poll_interval;
        let mut asked_at = known.asked_at.lock();
        if !is_old || asked_at.elapsed() < RETRY_INTERVAL {
            return;
        }
        *asked_at = Instant::now();
        let (inner, user, before) = (Arc::clone(&self.inner), user.clone(), Arc::clone(&known.owns));
        tokio::spawn(async move {
            match inner.read(&user).await {
                Ok(known) if known.owns != before => {
                    inner.announcer.accounts(std::slice::from_ref(&user.account_id));
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "what a user owns cannot be read again"),
            }
        });
    }
}

fn unavailable(error: &CouchError) -> Error {
    Error::Unavailable { what: "couchdb owned documents", reason: error.to_string() }
}

/// The question for what a user owns, in an account's own database (as a path segment).
pub fn question(database: &str, user: &str) -> String {
    // An object comes after every text: all types of documents.
    let (start, end) = (json!([user]).to_string(), json!([user, {}]).to_string());
    format!(
        "/{database}/_design/attributes/_view/owned?startkey={}&endkey={}&include_docs=true&limit={}",
        encoded(&start),
        encoded(&end),
        MAX_OWNED + 1
    )
}

impl Inner {
    /// Whether something has changed in the user's account since then.
    fn was_told(&self, user: &Identity, since: Instant) -> bool {
        self.told.get(&user.account_id).is_some_and(|told| told >= since)
    }

    async fn read(&self, user: &Identity) -> Result<Known, CouchError> {
        for _ in 0..ATTEMPTS {
            let read_at = Instant::now();
            let answer = self.ask(user).await;
            self.metrics.asked_couchdb("owned", answer.as_ref().map(|_| true).map_err(CouchError::kind));
            let owns = answer?;
            if self.was_told(user, read_at) {
                continue;
            }
            let known = Known { owns: owns.into(), read_at, asked_at: Arc::new(Mutex::new(read_at)) };
            self.known.insert(user.clone(), known.clone());
            // It may have been told just now, before this was there to be forgotten.
            if self.was_told(user, read_at) {
                self.known.invalidate(user);
                continue;
            }
            return Ok(known);
        }
        Err(CouchError::Stale { path: format!("what user {} owns", user.id) })
    }

    async fn ask(&self, user: &Identity) -> Result<Vec<Owner>, CouchError> {
        let Some(database) = account_database(&user.account_id) else { return Ok(Vec::new()) };
        let path = question(&database, &user.id);
        let Some(json) = self.client.get(&path).await? else {
            tracing::warn!(%database, "has no view attributes/owned: nobody there is known to own anything");
            return Ok(Vec::new());
        };
        let mut owned = documents::owned(&json, &user.id)
            .map_err(|error| CouchError::Malformed { path, reason: error.to_string() })?;
        if owned.len() > MAX_OWNED {
            tracing::warn!(%database, user = %user.id, "owns more than {MAX_OWNED} documents, the rest does not count");
            owned.truncate(MAX_OWNED);
        }
        Ok(owned.into_iter().flatten().collect())
    }
}
