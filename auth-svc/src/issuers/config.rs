//! `[[auth.issuers]]`: issuers besides KAZOO.

use std::{path::PathBuf, time::Duration};

use blackhole_common::config::InvalidValue;
use jsonwebtoken::Algorithm;
use serde::{Deserialize, Serialize};
use url::Url;

use super::remote::RemoteKeys;
use crate::{access, http, keys::ASYMMETRIC};

const ISSUERS: &str = "auth.issuers";
/// More than this could not be told from an issuer that is gone.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// `[[auth.issuers]]`: an issuer besides KAZOO. Its keys come from one of `jwks_url`, `discovery_url` and `keys_dir`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// Its name, as in the claim `iss`.
    pub iss: String,
    /// The URL of its JWK Set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<String>,
    /// The URL of its OpenID configuration, which names the URL of its JWK Set. Its `issuer` must be `iss`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discovery_url: Option<String>,
    /// A directory of its public keys, one `<kid>.pem` each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys_dir: Option<PathBuf>,
    /// The ids of the accounts that its tokens may name and see. `*`: all.
    pub accounts: Vec<String>,
    /// Whether the accounts below these count as listed.
    #[serde(default)]
    pub descendants: bool,
    /// The claim that names the account.
    #[serde(default = "account_claim")]
    pub account_claim: String,
    /// The audience that its tokens must name in `aud`. If absent, they must have no `aud`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// The algorithms that its tokens may have.
    #[serde(default = "algorithms")]
    pub algorithms: Vec<Algorithm>,
    /// A PEM file with the CA certificates to trust, instead of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// How long an answer may take.
    #[serde(default = "timeout", with = "humantime_serde")]
    pub timeout: Duration,
    /// How often its keys are read.
    #[serde(default = "refresh_interval", with = "humantime_serde")]
    pub refresh_interval: Duration,
    /// How long keys are used that cannot be read again.
    #[serde(default = "keep_keys", with = "humantime_serde")]
    pub keep_keys: Duration,
    /// Allows `http` for a server that is not on this machine: whoever is on the way can then sign for the accounts.
    #[serde(default)]
    pub dangerous_http: bool,
}

/// KAZOO's name for it.
fn account_claim() -> String {
    "account_id".to_owned()
}

fn algorithms() -> Vec<Algorithm> {
    ASYMMETRIC.to_vec()
}

fn timeout() -> Duration {
    Duration::from_secs(5)
}

fn refresh_interval() -> Duration {
    Duration::from_secs(300)
}

fn keep_keys() -> Duration {
    Duration::from_secs(24 * 60 * 60)
}

/// Where an issuer's keys are over HTTP.
#[derive(Clone, Debug)]
pub(super) enum Location {
    Jwks(Url),
    Discovery(Url),
}

impl IssuerConfig {
    /// Where the keys are, if they are not in files.
    ///
    /// # Errors
    /// If the URL is not usable. The error does not contain it.
    pub(super) fn location(&self) -> Result<Option<Location>, String> {
        let (url, key, location): (_, _, fn(Url) -> Location) = match (&self.jwks_url, &self.discovery_url) {
            (Some(url), _) => (url, "jwks_url", Location::Jwks),
            (None, Some(url)) => (url, "discovery_url", Location::Discovery),
            (None, None) => return Ok(None),
        };
        let url = http::plain_url(url).map_err(|reason| format!("{key} {reason}"))?;
        if !self.dangerous_http && !is_safe(&url) {
            return Err(format!(
                "{key} must begin with https, unless it is on this machine (or set dangerous_http = true)"
            ));
        }
        Ok(Some(location(url)))
    }

    /// Part of the configuration's check. Does not connect, and does not look at `keys_dir`.
    ///
    /// # Errors
    /// The first invalid value.
    pub fn check(&self) -> Result<(), InvalidValue> {
        let invalid =
            |reason: String| InvalidValue { key: ISSUERS, reason: format!("{}: {reason}", self.iss) };
        let unless = |is_valid: bool, reason: &str| match is_valid {
            true => Ok(()),
            false => Err(invalid(reason.to_owned())),
        };
        unless(
            !self.accounts.is_empty() && self.accounts.iter().all(|id| !id.is_empty()),
            "accounts must list the ids of the accounts that its tokens may name, or \"*\"",
        )?;
        let is_all = self.accounts.iter().any(|id| id == access::ALL);
        unless(!is_all || self.accounts.len() == 1, "accounts must be \"*\" alone, or ids")?;
        let places = [self.jwks_url.is_some(), self.discovery_url.is_some(), self.keys_dir.is_some()];
        unless(
            places.into_iter().filter(|is_there| *is_there).count() == 1,
            "needs one of jwks_url, discovery_url and keys_dir",
        )?;
        unless(!self.account_claim.is_empty(), "account_claim is empty")?;
        unless(
            !self.algorithms.is_empty() && self.algorithms.iter().all(|one| ASYMMETRIC.contains(one)),
            "algorithms must list some of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA",
        )?;
        unless(!self.timeout.is_zero() && self.timeout <= MAX_TIMEOUT, "timeout must be 1ms to 1m")?;
        unless(self.refresh_interval >= Duration::from_secs(1), "refresh_interval must be at least 1s")?;
        unless(self.keep_keys >= self.refresh_interval, "keep_keys must not be below refresh_interval")?;
        if self.location().map_err(invalid)?.is_some() {
            RemoteKeys::asker(self).map(drop).map_err(|reason| invalid(format!("ca_file: {reason}")))?;
        }
        Ok(())
    }
}

/// Whether nobody on the way can change an answer.
fn is_safe(url: &Url) -> bool {
    let is_here = match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    };
    url.scheme() == "https" || is_here
}
