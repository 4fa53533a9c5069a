//! `[auth.couchdb]`: KAZOO's database.

use std::{path::PathBuf, time::Duration};

use blackhole_common::config::{InvalidValue, Secret, ServerUrl};
use serde::{Deserialize, Serialize};
use url::Url;

use super::client::Client;

const URL: &str = "auth.couchdb.url";
/// More than this could not be told from a CouchDB that is gone.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// `[auth.couchdb]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CouchDbConfig {
    /// The server's URL, or several separated by commas, which are tried in turn.
    pub url: ServerUrl,
    /// The user, if it is not in the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The user's password, if it is not in the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// A PEM file with the CA certificates to trust, instead of the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// How long an answer may take.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// After this time, a user's or device's secret is read again when it is needed, should nobody have told of a change.
    #[serde(with = "humantime_serde")]
    pub poll_interval: Duration,
    /// The KAZOO node whose section of `system_config/auth` counts, such as `kazoo_apps@apps1.example.com`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The KAZOO zone whose section of `system_config/auth` counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

impl Default for CouchDbConfig {
    fn default() -> Self {
        CouchDbConfig {
            url: ServerUrl::new(""),
            user: None,
            password: None,
            ca_file: None,
            timeout: Duration::from_secs(5),
            poll_interval: Duration::from_secs(60),
            node: None,
            zone: None,
        }
    }
}

impl CouchDbConfig {
    /// The servers' URLs.
    ///
    /// # Errors
    /// If one is not an HTTP URL. The error does not contain it.
    pub fn urls(&self) -> Result<Vec<Url>, String> {
        let urls = self.url.reveal().split(',').map(|url| {
            let url = Url::parse(url.trim()).ok()?;
            let is_plain = url.query().is_none() && url.fragment().is_none() && url.has_host();
            (is_plain && matches!(url.scheme(), "http" | "https")).then_some(url)
        });
        urls.collect::<Option<Vec<Url>>>().ok_or_else(|| {
            "must be a URL such as http://127.0.0.1:5984, or several separated by commas".into()
        })
    }

    /// The sections of `system_config/auth` that count, the first one first.
    pub fn sections(&self) -> Vec<String> {
        let own = [&self.node, &self.zone].into_iter().flatten().cloned();
        own.chain(["default".to_owned()]).collect()
    }

    /// Part of the configuration's check. Does not connect.
    ///
    /// # Errors
    /// The first invalid value.
    pub fn check(&self) -> Result<(), InvalidValue> {
        self.urls().map_err(|reason| InvalidValue { key: URL, reason })?;
        let in_range = |time: Duration| !time.is_zero() && time <= MAX_TIMEOUT;
        InvalidValue::unless(in_range(self.timeout), "auth.couchdb.timeout", "must be 1ms to 1m")?;
        InvalidValue::unless(
            self.poll_interval >= Duration::from_secs(1),
            "auth.couchdb.poll_interval",
            "must be at least 1s",
        )?;
        InvalidValue::unless(
            self.password.is_none() || self.user.is_some(),
            "auth.couchdb.password",
            "needs auth.couchdb.user beside it",
        )?;
        Client::new(self).map(drop).map_err(|reason| InvalidValue { key: "auth.couchdb.ca_file", reason })
    }
}
