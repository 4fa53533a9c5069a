//! `[auth.crossbar]`: KAZOO's API.

use std::{path::PathBuf, time::Duration};

use blackhole_common::config::InvalidValue;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::http::{self, Asker, Limits};

/// More than this could not be told from a Crossbar that is gone.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);
/// What is taken away in KAZOO must end in time.
const MAX_CACHE: Duration = Duration::from_secs(300);

/// `[auth.crossbar]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CrossbarConfig {
    /// Crossbar's URL, such as `http://127.0.0.1:8000`.
    pub url: String,
    /// The ids of KAZOO's keys, as in the header of its tokens. Others are not passed on: KAZOO would make such a key.
    pub key_ids: Vec<String>,
    /// A PEM file with the CA certificates to trust, instead of the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// How long an answer may take.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// How long answers are remembered.
    #[serde(with = "humantime_serde")]
    pub cache: Duration,
}

impl Default for CrossbarConfig {
    fn default() -> Self {
        CrossbarConfig {
            url: String::new(),
            key_ids: Vec::new(),
            ca_file: None,
            timeout: Duration::from_secs(5),
            cache: Duration::from_secs(30),
        }
    }
}

impl CrossbarConfig {
    /// Crossbar's URL.
    ///
    /// # Errors
    /// If it is none. The error does not contain it.
    pub fn base(&self) -> Result<Url, String> {
        http::plain_url(&self.url)
    }

    /// Part of the configuration's check. Does not connect.
    ///
    /// # Errors
    /// The first invalid value.
    pub fn check(&self) -> Result<(), InvalidValue> {
        self.base().map_err(|reason| InvalidValue { key: "auth.crossbar.url", reason })?;
        InvalidValue::unless(
            !self.key_ids.is_empty() && self.key_ids.iter().all(|id| !id.is_empty()),
            "auth.crossbar.key_ids",
            "must list the ids of KAZOO's keys: the kid in the header of its tokens, which auth-svc check-token shows",
        )?;
        InvalidValue::unless(
            !self.timeout.is_zero() && self.timeout <= MAX_TIMEOUT,
            "auth.crossbar.timeout",
            "must be 1ms to 1m",
        )?;
        InvalidValue::unless(
            self.cache >= Duration::from_secs(1) && self.cache <= MAX_CACHE,
            "auth.crossbar.cache",
            "must be 1s to 5m",
        )?;
        let limits = Limits { timeout: self.timeout, answer_bytes: 0, at_once: 1 };
        Asker::new(false, self.ca_file.as_deref(), limits)
            .map(drop)
            .map_err(|reason| InvalidValue { key: "auth.crossbar.ca_file", reason })
    }
}
