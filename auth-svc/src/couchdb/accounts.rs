//! The accounts, from the database `accounts`: read whole, and kept current by its changes.

use std::{
    collections::{BTreeSet, HashMap, HashSet, hash_map::RandomState},
    hash::BuildHasher,
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, future::BoxFuture, stream};
use parking_lot::RwLock;

use super::{
    client::{Client, CouchError, encoded},
    documents::{self, AccountRow, Change, Revision},
    feed::{Follower, missing},
    table::Table,
};
use crate::{
    announce::Announcer,
    directory::{Account, AccountDirectory},
    error::Error,
    metrics::Metrics,
    realms::Realms,
};

/// Accounts read at once: about 1 MB.
const PAGE: usize = 500;
/// Changed accounts asked for at once: their ids fit into a URL of 4 KB.
const MAX_IDS: usize = 50;
/// How many of these questions are asked at the same time.
const CONCURRENT: usize = 8;
/// How often a node is asked that answers older documents than were announced, and after which time.
const ATTEMPTS: u32 = 10;
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(200);

/// The accounts.
#[derive(Debug)]
pub struct LiveAccounts {
    client: Arc<Client>,
    /// `None` until it was read.
    table: RwLock<Option<Table>>,
    announcer: Announcer,
    realms: Arc<Realms>,
    metrics: Metrics,
}

impl LiveAccounts {
    pub(super) fn new(
        client: Arc<Client>,
        announcer: Announcer,
        realms: Arc<Realms>,
        metrics: Metrics,
    ) -> LiveAccounts {
        LiveAccounts { client, table: RwLock::default(), announcer, realms, metrics }
    }

    /// Whether they have been read.
    pub fn are_read(&self) -> bool {
        self.table.read().is_some()
    }

    /// All accounts.
    pub fn all(&self) -> Vec<Arc<Account>> {
        self.table.read().as_ref().map(|table| table.iter().collect()).unwrap_or_default()
    }

    /// Reads all pages, and hands over each of them.
    async fn pages(&self, mut take: impl FnMut(Vec<AccountRow>) + Send) -> Result<(), CouchError> {
        let (mut limit, mut start) = (PAGE, String::new());
        loop {
            let from = format!("?limit={limit}{start}");
            let page = match self.rows(&format!("{from}&include_docs=true")).await {
                Err(CouchError::TooLarge { .. }) if limit > 1 => {
                    limit = limit.div_ceil(4);
                    continue;
                }
                // A single document that is too large is no account. Its id is known without it.
                Err(CouchError::TooLarge { .. }) => self.rows(&from).await?,
                page => page?,
            };
            let is_last = page.len() < limit;
            if let Some(last) = page.last() {
                start = format!("&skip=1&startkey={}", encoded(&json_text(&last.id)));
            }
            take(page);
            if is_last {
                return Ok(());
            }
        }
    }

    /// Reads all accounts for the first time.
    async fn read(&self) -> Result<(), CouchError> {
        let mut table = Table::default();
        let take = |page: Vec<AccountRow>| {
            page.into_iter().for_each(|row| table.apply(row, &mut BTreeSet::new()));
        };
        self.pages(take).await?;
        tracing::info!(accounts = table.count(), "accounts read from couchdb");
        *self.table.write() = Some(table);
        // Edges are told of a start anyway.
        self.announce(BTreeSet::new());
        Ok(())
    }

    /// Reads all accounts again, page by page: there is never a second copy of them.
    async fn read_again(&self) -> Result<(), CouchError> {
        let hasher = RandomState::new();
        let mut there = HashSet::new();
        self.pages(|page| {
            there.extend(page.iter().map(|row| hasher.hash_one(&*row.id)));
            self.take(page);
        })
        .await?;
        let mut changed = BTreeSet::new();
        if let Some(table) = &mut *self.table.write() {
            table.keep(|id| there.contains(&hasher.hash_one(id)), &mut changed);
        }
        self.announce(changed);
        Ok(())
    }

    /// Takes over what was read, and announces what has changed.
    fn take(&self, rows: Vec<AccountRow>) {
        let mut changed = BTreeSet::new();
        if let Some(table) = &mut *self.table.write() {
            rows.into_iter().for_each(|row| table.apply(row, &mut changed));
        }
        self.announce(changed);
    }

    /// Reads these accounts.
    async fn some(&self, ids: &[String]) -> Result<Vec<AccountRow>, CouchError> {
        let keys = serde_json::to_string(ids).unwrap_or_default();
        let query = format!("?keys={}", encoded(&keys));
        match self.rows(&format!("{query}&include_docs=true")).await {
            Err(CouchError::TooLarge { .. }) if ids.len() > 1 => {
                let mut rows = Vec::with_capacity(ids.len());
                for id in ids {
                    rows.extend(Box::pin(self.some(std::slice::from_ref(id))).await?);
                }
                Ok(rows)
            }
            Err(CouchError::TooLarge { .. }) => self.rows(&query).await,
            rows => rows,
        }
    }

    async fn rows(&self, query: &str) -> Result<Vec<AccountRow>, CouchError> {
        let path = format!("/{}/_all_docs{query}", Self::DATABASE);
        let answer = self.client.get(&path).await;
        self.metrics
            .asked_couchdb("accounts", answer.as_ref().map(Option::is_some).map_err(CouchError::kind));
        let json = answer?.ok_or_else(|| missing(&self.client, &path))?;
        documents::account_rows(&json)
            .map_err(|error| CouchError::Malformed { path, reason: error.to_string() })
    }

    /// Reads these accounts until they are as new as announced.
    async fn announced(&self, wanted: &HashMap<String, Revision>) -> Result<Vec<AccountRow>, CouchError> {
        let mut missing: Vec<String> = wanted.keys().cloned().collect();
        let mut rows = Vec::with_capacity(missing.len());
        for attempt in 1.. {
            let parts: Vec<Vec<String>> = missing.chunks(MAX_IDS).map(<[String]>::to_vec).collect();
            let parts = stream::iter(parts).map(|ids| async move { self.some(&ids).await });
            let read: Vec<Vec<AccountRow>> = parts.buffer_unordered(CONCURRENT).try_collect().await?;
            let is_new = |row: &AccountRow| wanted.get(&row.id).is_none_or(|wanted| row.revision >= *wanted);
            let (new, old): (Vec<_>, Vec<_>) = read.into_iter().flatten().partition(is_new);
            rows.extend(new);
            missing = old.into_iter().map(|row| row.id).collect();
            if missing.is_empty() {
                break;
            }
            if attempt >= ATTEMPTS {
                return Err(CouchError::Stale { path: format!("/{}", Self::DATABASE) });
            }
            tokio::time::sleep(ATTEMPT_INTERVAL).await;
        }
        Ok(rows)
    }

    fn announce(&self, changed: BTreeSet<String>) {
        if let Some(table) = &*self.table.read() {
            self.metrics.couchdb_accounts.set(i64::try_from(table.count()).unwrap_or(i64::MAX));
            for id in &changed {
                if let Some((realm, is_alone)) = table.realm(id) {
                    self.realms.set(realm, is_alone.then_some(id));
                }
            }
        }
        self.announcer.accounts(&changed.into_iter().collect::<Vec<_>>());
    }
}

fn json_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

impl Follower for LiveAccounts {
    const DATABASE: &'static str = "accounts";

    async fn load(&self, other: bool) -> Result<(), CouchError> {
        let is_known = match &mut *self.table.write() {
            Some(table) if other => {
                table.forget_revisions();
                true
            }
            table => table.is_some(),
        };
        if is_known { self.read_again().await } else { self.read().await }
    }

    async fn apply(&self, changes: Vec<Change>) -> Result<(), CouchError> {
        let mut wanted = HashMap::new();
        let mut rows = Vec::new();
        {
            let table = self.table.read();
            for change in changes {
                // At a reconnect much comes again.
                if table.as_ref().is_some_and(|table| table.revision(&change.id) >= change.revision) {
                    continue;
                }
                if change.is_deleted {
                    wanted.remove(&change.id);
                    rows.push(AccountRow { id: change.id, revision: change.revision, account: None });
                } else {
                    wanted.insert(change.id, change.revision);
                }
            }
        }
        if !wanted.is_empty() {
            rows.extend(self.announced(&wanted).await?);
        }
        self.take(rows);
        Ok(())
    }
}

impl AccountDirectory for LiveAccounts {
    fn account<'a>(
        &'a self,
        id: &'a str,
        _token: &'a str,
    ) -> BoxFuture<'a, Result<Option<Arc<Account>>, Error>> {
        Box::pin(async move {
            match &*self.table.read() {
                Some(table) => Ok(table.get(id)),
                None => Err(Error::Unavailable {
                    what: "couchdb accounts",
                    reason: "they have not been read yet".into(),
                }),
            }
        })
    }
}
