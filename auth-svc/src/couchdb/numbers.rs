//! Whose a dialled number is, from KAZOO's databases `numbers/…`, and the settings that say which number that is.
//!
//! A number is read when a call needs it, once at a time, and remembered for a moment, also that nobody has it. Nothing tells
//! of a change, so what is remembered is not used once that moment is over, even if CouchDB is away.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use blackhole_common::wire::NumberRequest;
use futures_util::future::BoxFuture;
use moka::future::Cache;
use parking_lot::RwLock;
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::{
    accounts::LiveAccounts,
    client::{Client, CouchError, encoded},
    documents::{Change, Loose},
};
use crate::{
    dialling::Dialling, directory::AccountDirectory, error::Error, metrics::Metrics, numbers::NumberDirectory,
};

/// The documents of `system_config` with the settings.
const STEPSWITCH: &str = "stepswitch";
const NUMBER_MANAGER: &str = "number_manager";
/// Numbers that are remembered: about 3 MB.
const MAX_KNOWN: u64 = 20_000;
/// How long. With what the ingest remembers, a number that moves to another account is the former one's for this long.
const REMEMBERED_FOR: Duration = Duration::from_secs(20);
/// Numbers that are read at once: tokens need CouchDB, too.
const MAX_QUESTIONS: usize = 64;
/// The states in which calls to a number are its account's.
const STATES: [&str; 4] = ["in_service", "port_in", "port_out", "reserved"];

/// The numbers.
#[derive(Debug)]
pub struct LiveNumbers {
    client: Arc<Client>,
    sections: Vec<String>,
    accounts: Arc<LiveAccounts>,
    dialling: RwLock<Arc<Dialling>>,
    /// The account that has a number.
    known: Cache<String, Option<String>>,
    permits: Semaphore,
    /// The databases may not be read; it was logged.
    was_refused: AtomicBool,
    metrics: Metrics,
}

impl LiveNumbers {
    pub(super) fn new(
        client: Arc<Client>,
        sections: Vec<String>,
        accounts: Arc<LiveAccounts>,
        metrics: Metrics,
    ) -> LiveNumbers {
        LiveNumbers {
            client,
            sections,
            accounts,
            dialling: RwLock::default(),
            known: Cache::builder().max_capacity(MAX_KNOWN).time_to_live(REMEMBERED_FOR).build(),
            permits: Semaphore::new(MAX_QUESTIONS),
            was_refused: AtomicBool::new(false),
            metrics,
        }
    }

    /// Reads the settings.
    ///
    /// # Errors
    /// If they cannot be read.
    pub(super) async fn load_settings(&self) -> Result<(), CouchError> {
        let (stepswitch, manager) =
            futures_util::try_join!(self.settings(STEPSWITCH), self.settings(NUMBER_MANAGER))?;
        let dialling = Dialling::read(stepswitch.as_deref(), manager.as_deref(), &self.sections);
        *self.dialling.write() = Arc::new(dialling);
        Ok(())
    }

    /// Reads the settings again if one of these changes of `system_config` is theirs.
    ///
    /// # Errors
    /// If they cannot be read.
    pub(super) async fn settings_changed(&self, changes: &[Change]) -> Result<(), CouchError> {
        if changes.iter().any(|change| [STEPSWITCH, NUMBER_MANAGER].contains(&change.id.as_str())) {
            self.load_settings().await?;
        }
        Ok(())
    }

    async fn settings(&self, document: &str) -> Result<Option<bytes::Bytes>, CouchError> {
        let answer = self.client.get(&format!("/system_config/{document}")).await;
        self.metrics
            .asked_couchdb("settings", answer.as_ref().map(Option::is_some).map_err(CouchError::kind));
        answer
    }

    /// The account that a number is assigned to.
    async fn assigned(&self, number: &str) -> Result<Option<String>, CouchError> {
        let Ok(_permit) = self.permits.acquire().await else { return Ok(None) };
        let answer = self.client.get(&path(number)).await;
        self.metrics.asked_couchdb("number", answer.as_ref().map(Option::is_some).map_err(CouchError::kind));
        match answer {
            // The user may read what tokens need. Then these databases are no source.
            Err(error @ CouchError::Status { status: 403, .. }) => {
                if !self.was_refused.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "the accounts of dialled numbers are not known");
                }
                Ok(None)
            }
            answer => Ok(answer?.and_then(|json| account(&json))),
        }
    }
}

/// The path of a number's document. Its database has the first five characters in its name.
pub fn path(number: &str) -> String {
    let prefix = number.get(..5).unwrap_or(number);
    format!("/{}/{}", encoded(&format!("numbers/{prefix}")), encoded(number))
}

/// The account in a number's document, if calls to the number are the account's.
pub fn account(json: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Raw {
        pvt_assigned_to: Option<Loose>,
        pvt_state: Option<Loose>,
        pvt_deleted: Option<Loose>,
    }
    let raw: Raw = serde_json::from_slice(json).ok()?;
    let is_used = raw.pvt_state.and_then(Loose::text).is_some_and(|state| STATES.contains(&state.as_str()));
    let is_deleted = raw.pvt_deleted.is_some_and(|deleted| !deleted.is_false());
    raw.pvt_assigned_to.and_then(Loose::text).filter(|_| is_used && !is_deleted)
}

impl NumberDirectory for LiveNumbers {
    fn has_numbers(&self) -> bool {
        true
    }

    fn account_of<'a>(&'a self, dialled: &'a NumberRequest) -> BoxFuture<'a, Result<Option<String>, Error>> {
        Box::pin(async move {
            let dialling = Arc::clone(&self.dialling.read());
            let number = dialling.dialled(dialled).and_then(|number| dialling.normalized(number));
            let Some(number) = number else { return Ok(None) };
            let assigned = self.known.try_get_with_by_ref(&number, self.assigned(&number)).await;
            let assigned = assigned
                .map_err(|error| Error::Unavailable { what: "couchdb numbers", reason: error.to_string() })?;
            let Some(id) = assigned else { return Ok(None) };
            let account = self.accounts.account(&id, "").await?;
            Ok(account.filter(|account| account.enabled).map(|account| account.id.clone()))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_number_is_in_the_database_of_its_first_five_characters() {
        assert_eq!(path("+14155550123"), "/numbers%2F%2B1415/%2B14155550123");
        assert_eq!(path("03012345"), "/numbers%2F03012/03012345");
    }

    #[test]
    fn only_numbers_in_use_are_their_accounts() {
        for (document, expected) in [
            (json!({ "pvt_assigned_to": "a", "pvt_state": "in_service" }), Some("a")),
            (json!({ "pvt_assigned_to": "a", "pvt_state": "port_in", "pvt_deleted": false }), Some("a")),
            (json!({ "pvt_assigned_to": "a", "pvt_state": "reserved" }), Some("a")),
            (json!({ "pvt_assigned_to": "a", "pvt_state": "available" }), None),
            (json!({ "pvt_assigned_to": "a", "pvt_state": ["in_service"] }), None),
            (json!({ "pvt_assigned_to": "a" }), None),
            (json!({ "pvt_assigned_to": 7, "pvt_state": "in_service" }), None),
            (json!({ "pvt_assigned_to": "a", "pvt_state": "in_service", "pvt_deleted": true }), None),
            (json!({ "pvt_state": "in_service" }), None),
            (json!([]), None),
        ] {
            assert_eq!(account(document.to_string().as_bytes()).as_deref(), expected, "{document}");
        }
    }
}
