//! The accounts, from the database `accounts`: read whole, and kept current by its changes.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, future::BoxFuture, stream};
use parking_lot::RwLock;

use super::{
    client::{Client, CouchError, encoded},
    documents::{self, AccountRow, Change},
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

    /// Reads all pages.
    async fn pages(&self) -> Result<Vec<AccountRow>, CouchError> {
        let mut rows: Vec<AccountRow> = Vec::new();
        let mut limit = PAGE;
        loop {
            let start = rows.last().map(|row| format!("&skip=1&startkey={}", encoded(&json_text(&row.id))));
            let from = format!("?limit={limit}{}", start.unwrap_or_default());
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
            rows.extend(page);
            if is_last {
                return Ok(rows);
            }
        }
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
    async fn announced(&self, wanted: &HashMap<String, u64>) -> Result<Vec<AccountRow>, CouchError> {
        let mut missing: Vec<String> = wanted.keys().cloned().collect();
        let mut rows = Vec::with_capacity(missing.len());
        for attempt in 1.. {
            let parts: Vec<Vec<String>> = missing.chunks(MAX_IDS).map(<[String]>::to_vec).collect();
            let parts = stream::iter(parts).map(|ids| async move { self.some(&ids).await });
            let read: Vec<Vec<AccountRow>> = parts.buffer_unordered(CONCURRENT).try_collect().await?;
            let is_new =
                |row: &AccountRow| wanted.get(&row.id).is_none_or(|wanted| row.generation >= *wanted);
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
        let rows = self.pages().await?;
        let changed = match &mut *self.table.write() {
            Some(table) => table.replaced_by(rows, other),
            none => {
                let mut table = Table::default();
                rows.into_iter().for_each(|row| table.apply(row, &mut BTreeSet::new()));
                tracing::info!(accounts = table.count(), "accounts read from couchdb");
                *none = Some(table);
                // Sessions may be open whose access has changed before this process started.
                self.announcer.anything();
                BTreeSet::new()
            }
        };
        self.announce(changed);
        Ok(())
    }

    async fn apply(&self, changes: Vec<Change>) -> Result<(), CouchError> {
        let mut wanted = HashMap::new();
        let mut rows = Vec::new();
        {
            let table = self.table.read();
            for change in changes {
                // At a reconnect much comes again.
                if table.as_ref().is_some_and(|table| table.generation(&change.id) >= change.generation) {
                    continue;
                }
                if change.is_deleted {
                    wanted.remove(&change.id);
                    rows.push(AccountRow { id: change.id, generation: change.generation, account: None });
                } else {
                    wanted.insert(change.id, change.generation);
                }
            }
        }
        if !wanted.is_empty() {
            rows.extend(self.announced(&wanted).await?);
        }
        let mut changed = BTreeSet::new();
        if let Some(table) = &mut *self.table.write() {
            rows.into_iter().for_each(|row| table.apply(row, &mut changed));
        }
        self.announce(changed);
        Ok(())
    }
}

impl AccountDirectory for LiveAccounts {
    fn account<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Arc<Account>>, Error>> {
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
