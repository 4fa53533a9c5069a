//! `system_config/auth`: the server's secret, and the id of the key that signs. And the settings of numbers beside it.

use std::{sync::Arc, time::Duration};

use blackhole_common::config::Secret;
use parking_lot::RwLock;

use super::{
    client::{Client, CouchError},
    documents::{self, AuthSettings, Change},
    feed::Follower,
    keys::LiveKeys,
    numbers::LiveNumbers,
};
use crate::{announce::Announcer, error::Error, metrics::Metrics};

const DOCUMENT: &str = "auth";
/// How often a node is asked that answers an older document than was announced, and after which time.
const ATTEMPTS: u32 = 10;
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(200);

/// The settings.
#[derive(Debug)]
pub struct LiveSettings {
    client: Arc<Client>,
    sections: Vec<String>,
    /// `None` until they were read.
    current: RwLock<Option<AuthSettings>>,
    keys: Arc<LiveKeys>,
    /// Its settings are in the same database.
    numbers: Arc<LiveNumbers>,
    announcer: Announcer,
    metrics: Metrics,
}

impl LiveSettings {
    pub(super) fn new(
        client: Arc<Client>,
        sections: Vec<String>,
        (keys, numbers): (Arc<LiveKeys>, Arc<LiveNumbers>),
        announcer: Announcer,
        metrics: Metrics,
    ) -> LiveSettings {
        LiveSettings { client, sections, current: RwLock::default(), keys, numbers, announcer, metrics }
    }

    /// The server's secret, if there is one.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the settings have not been read yet.
    pub fn server_secret(&self) -> Result<Option<Secret>, Error> {
        match &*self.current.read() {
            Some(settings) => Ok(settings.server_secret.clone()),
            None => Err(Error::Unavailable {
                what: "couchdb system_config/auth",
                reason: "it has not been read yet".into(),
            }),
        }
    }

    /// The id of the key that signs, if it is known.
    pub fn system_key(&self) -> Option<String> {
        self.current.read().as_ref()?.system_key.clone()
    }

    async fn read(&self) -> Result<AuthSettings, CouchError> {
        let path = format!("/{}/{DOCUMENT}", Self::DATABASE);
        let answer = self.client.get(&path).await;
        self.metrics
            .asked_couchdb("settings", answer.as_ref().map(Option::is_some).map_err(CouchError::kind));
        let Some(json) = answer? else { return Ok(AuthSettings::default()) };
        documents::auth_settings(&json, &self.sections)
            .map_err(|error| CouchError::Malformed { path, reason: error.to_string() })
    }

    async fn replace(&self, settings: AuthSettings) {
        let before = self.current.write().replace(settings.clone());
        if settings.server_secret.is_none()
            && before.as_ref().is_none_or(|before| before.server_secret.is_some())
        {
            tracing::warn!(
                sections = ?self.sections,
                "system_config/auth has no secret_for_user_signature: tokens with an identity_sig are refused"
            );
        }
        if before.is_some_and(|before| before.server_secret != settings.server_secret) {
            tracing::info!("the server's secret in couchdb has changed");
            self.announcer.anything();
        }
        // So that the first token does not wait for it, and CouchDB may be away then.
        if let Some(id) = &settings.system_key
            && let Err(error) = self.keys.prepare(id).await
        {
            tracing::debug!(%error, "the key that signs is not known yet");
        }
    }
}

impl Follower for LiveSettings {
    const DATABASE: &'static str = "system_config";

    async fn load(&self, other: bool) -> Result<(), CouchError> {
        self.numbers.load_settings().await?;
        let settings = self.read().await?;
        let known = self.current.read().as_ref().map(|known| known.revision).unwrap_or_default();
        if other || settings.revision >= known {
            self.replace(settings).await;
        }
        Ok(())
    }

    async fn apply(&self, changes: Vec<Change>) -> Result<(), CouchError> {
        self.numbers.settings_changed(&changes).await?;
        let Some(change) = changes.into_iter().rfind(|change| change.id == DOCUMENT) else { return Ok(()) };
        let known = self.current.read().as_ref().map(|known| known.revision).unwrap_or_default();
        if change.revision < known {
            return Ok(());
        }
        if change.is_deleted {
            let settings = AuthSettings { revision: change.revision, ..Default::default() };
            self.replace(settings).await;
            return Ok(());
        }
        for _ in 0..ATTEMPTS {
            let settings = self.read().await?;
            if settings.revision >= change.revision {
                self.replace(settings).await;
                return Ok(());
            }
            tokio::time::sleep(ATTEMPT_INTERVAL).await;
        }
        Err(CouchError::Stale { path: format!("/{}/{DOCUMENT}", Self::DATABASE) })
    }
}
