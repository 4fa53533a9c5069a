//! An issuer's keys, from its JWK Set over HTTP.
//!
//! They are read in the background, whole, and kept until they are read again. While that fails, those that are known go on
//! being used, up to `keep_keys`. A `kid` that is not known has them read at once, but not more often than every
//! [`UNKNOWN_INTERVAL`], however many tokens name one, and only if the token says that it is this issuer's. There is one
//! question at a time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use blackhole_common::readiness::Latch;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, StatusCode,
    header::{self, HeaderValue},
};
use parking_lot::RwLock;
use serde::Deserialize;
use url::Url;

use super::config::{IssuerConfig, Location};
use crate::{
    announce::Announcer,
    error::Error,
    http::{Asker, HttpError, Limits},
    keys::{
        VerifyingKey,
        jwk::{KeySet, MAX_ID_BYTES},
    },
    metrics::IssuerMetrics,
};

/// Two certificates per key included, documents have less than 16 KiB.
pub const MAX_ANSWER_BYTES: usize = 256 * 1024;
/// Unknown ids have the keys read again at most this often.
pub const UNKNOWN_INTERVAL: Duration = Duration::from_secs(10);
/// After a failure the keys are read again after this time, or after `refresh_interval` if that is shorter.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// What could not be asked.
const WHAT: &str = "issuer keys";

/// The keys.
#[derive(Debug)]
pub struct RemoteKeys {
    iss: String,
    location: Location,
    asker: Asker,
    refresh_interval: Duration,
    keep_keys: Duration,
    state: RwLock<State>,
    /// Held while asking: one question at a time.
    asking: tokio::sync::Mutex<()>,
    announcer: Announcer,
    metrics: IssuerMetrics,
    current: Latch,
}

#[derive(Debug, Default)]
struct State {
    keys: Arc<KeySet>,
    /// When they were read.
    read_at: Option<Instant>,
    /// The last attempt, and why it has failed.
    attempt: Option<(Instant, Option<HttpError>)>,
}

/// What is needed of an OpenID configuration.
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl RemoteKeys {
    /// The keys of this issuer; `None` if they are in files. Nothing is read yet. What changes is announced.
    ///
    /// # Errors
    /// If the configuration is not usable.
    pub fn new(
        config: &IssuerConfig,
        announcer: Announcer,
        metrics: IssuerMetrics,
        current: Latch,
    ) -> Result<Option<RemoteKeys>, String> {
        let Some(location) = config.location()? else { return Ok(None) };
        Ok(Some(RemoteKeys {
            iss: config.iss.clone(),
            location,
            asker: RemoteKeys::asker(config)?,
            refresh_interval: config.refresh_interval,
            keep_keys: config.keep_keys,
            state: RwLock::default(),
            asking: tokio::sync::Mutex::default(),
            announcer,
            metrics,
            current,
        }))
    }

    pub(super) fn asker(config: &IssuerConfig) -> Result<Asker, String> {
        let limits = Limits { timeout: config.timeout, answer_bytes: MAX_ANSWER_BYTES, at_once: 1 };
        // An OpenID configuration may name an https URL, whatever its own is.
        Asker::new(true, config.ca_file.as_deref(), limits)
    }

    /// The keys with this id, unless they are too old.
    pub fn get(&self, id: &str) -> Vec<VerifyingKey> {
        let state = self.state.read();
        match state.read_at {
            Some(at) if at.elapsed() <= self.keep_keys => state.keys.get(id).to_vec(),
            _ => Vec::new(),
        }
    }

    /// All keys that were read.
    pub fn current(&self) -> Arc<KeySet> {
        Arc::clone(&self.state.read().keys)
    }

    /// Reads the keys if none has this id, and they have not just been read.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if nobody can tell whether there is such a key.
    pub async fn prepare(&self, id: &str) -> Result<(), Error> {
        if id.len() > MAX_ID_BYTES || !self.get(id).is_empty() {
            return Ok(());
        }
        if self.is_due(UNKNOWN_INTERVAL) {
            let _one_at_a_time = self.asking.lock().await;
            if self.get(id).is_empty() && self.is_due(UNKNOWN_INTERVAL) {
                self.read().await;
            }
        }
        let state = self.state.read();
        match &state.attempt {
            Some((_, None)) => Ok(()),
            Some((_, Some(failure))) if self.get(id).is_empty() => Err(unavailable(failure.to_string())),
            Some(_) => Ok(()),
            None => Err(unavailable("they have not been read yet".into())),
        }
    }

    /// Reads the keys once.
    ///
    /// # Errors
    /// If they cannot be read.
    pub async fn load(&self) -> Result<Arc<KeySet>, HttpError> {
        let _one_at_a_time = self.asking.lock().await;
        self.read().await;
        let state = self.state.read();
        match &state.attempt {
            Some((_, Some(failure))) => Err(failure.clone()),
            _ => Ok(Arc::clone(&state.keys)),
        }
    }

    /// Reads the keys again and again. Never ends.
    pub async fn follow(self: Arc<Self>) {
        loop {
            let interval = match self.state.read().attempt {
                Some((_, None)) => self.refresh_interval,
                _ => self.refresh_interval.min(RETRY_INTERVAL),
            };
            if self.is_due(interval) {
                let _one_at_a_time = self.asking.lock().await;
                if self.is_due(interval) {
                    self.read().await;
                    continue;
                }
            }
            let since = self.state.read().attempt.as_ref().map_or(Duration::ZERO, |(at, _)| at.elapsed());
            tokio::time::sleep(interval.saturating_sub(since)).await;
        }
    }

    /// Whether the last attempt was before this time.
    fn is_due(&self, interval: Duration) -> bool {
        self.state.read().attempt.as_ref().is_none_or(|(at, _)| at.elapsed() >= interval)
    }

    async fn read(&self) {
        let read = self.ask().await;
        self.metrics.fetched(&self.iss, read.as_ref().map(KeySet::len).map_err(HttpError::kind));
        let now = Instant::now();
        let is_changed = {
            let mut state = self.state.write();
            match read {
                Ok(keys) => {
                    let is_changed = !keys.is_same(&state.keys);
                    if is_changed {
                        for reason in keys.unusable() {
                            tracing::warn!(iss = self.iss, reason, "a key of an issuer is not used");
                        }
                        tracing::info!(iss = self.iss, keys = keys.len(), "an issuer has other keys");
                    }
                    *state = State { keys: Arc::new(keys), read_at: Some(now), attempt: Some((now, None)) };
                    self.current.set(true);
                    is_changed
                }
                Err(error) => {
                    if self.current.set(false) {
                        tracing::error!(iss = self.iss, %error, "the keys of an issuer cannot be read");
                    }
                    state.attempt = Some((now, Some(error)));
                    false
                }
            }
        };
        if is_changed {
            self.announcer.anything();
        }
    }

    async fn ask(&self) -> Result<KeySet, HttpError> {
        let url = match &self.location {
            Location::Jwks(url) => url.clone(),
            Location::Discovery(url) => self.discover(url).await?,
        };
        let json = self.get_json(&url).await?;
        KeySet::parse(&json).map_err(|reason| malformed(&url, reason))
    }

    async fn discover(&self, url: &Url) -> Result<Url, HttpError> {
        let json = self.get_json(url).await?;
        let Ok(found) = serde_json::from_slice::<Discovery>(&json) else {
            return Err(malformed(url, "it is not an OpenID configuration".into()));
        };
        if found.issuer != self.iss {
            return Err(malformed(url, "its issuer is another than iss".into()));
        }
        let jwks = Url::parse(&found.jwks_uri).ok();
        // It may not have this machine ask just anything.
        let is_usable = |jwks: &Url| jwks.scheme() == "https" || jwks.origin() == url.origin();
        jwks.filter(is_usable)
            .ok_or_else(|| malformed(url, "its jwks_uri is neither https nor on the same server".into()))
    }

    async fn get_json(&self, url: &Url) -> Result<Bytes, HttpError> {
        let mut request = Request::new(Full::default());
        *request.uri_mut() = url.as_str().parse().map_err(|_| malformed(url, "it is no address".into()))?;
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("application/json, */*"));
        match self.asker.ask(request).await? {
            (StatusCode::OK, json) => Ok(json),
            (status, _) => Err(HttpError::Status { url: shown(url), status: status.as_u16() }),
        }
    }
}

fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.to_string()
}

fn malformed(url: &Url, reason: String) -> HttpError {
    HttpError::Malformed { url: shown(url), reason }
}

fn unavailable(reason: String) -> Error {
    Error::Unavailable { what: WHAT, reason }
}
