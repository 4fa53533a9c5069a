//! auth-svc: says who bears a token, and what of an account it may see. A NATS micro service; as many as one likes.
//!
//! | module | idea |
//! |---|---|
//! | [`config`] | what it reads |
//! | [`service`] | requests and answers over NATS |
//! | [`authority`] | one token and one wish in, one verdict out |
//! | [`verifier`], [`jwt`] | who says whether a token is good: the trait, and keys of one's own |
//! | [`token`], [`claims`], [`keys`] | a token's form, what it says, what verifies it |
//! | [`directory`], [`accounts`] | who knows the accounts: the trait, and a file |
//! | [`access`] | the rule: what a good token may see |
//! | [`refusal`], [`error`] | what a client may read, and what the operator reads |
//! | [`reload`] | files that are read again when they change |
//! | [`metrics`] | what it counts |
//! | [`cli`], [`mint`], [`explain`] | the command line: development tokens, and a token explained |

pub mod access;
pub mod accounts;
pub mod authority;
pub mod claims;
pub mod cli;
pub mod config;
pub mod directory;
pub mod error;
pub mod explain;
pub mod jwt;
pub mod keys;
pub mod metrics;
pub mod mint;
pub mod refusal;
pub mod reload;
pub mod service;
pub mod token;
pub mod verifier;

use std::{net::SocketAddr, sync::Arc};

use async_nats::Event;
use blackhole_common::{
    admin::AdminServer,
    nats,
    readiness::{Latch, Readiness},
    telemetry,
    wire::Subjects,
};
use tokio_util::sync::CancellationToken;

use crate::{
    accounts::Accounts,
    authority::Authority,
    config::AuthSvcConfig,
    error::Error,
    jwt::JwtVerifier,
    keys::Keys,
    metrics::Metrics,
    reload::{FromFiles, Reloaded},
};

/// Requests that wait for their turn, at most: what several edges ask when all their sessions come back at once. A fraction
/// of a second answers them, and they take some 16 MiB; 128 MiB if each token is as long as edges pass on. More are
/// dropped and counted.
const MOST_WAITING: usize = 16_384;

/// The service, with its files read and its admin server listening, but not at work yet.
#[derive(Debug)]
pub struct AuthSvc {
    config: AuthSvcConfig,
    accounts: Arc<Reloaded<Accounts>>,
    keys: Option<Arc<Reloaded<Keys>>>,
    metrics: Metrics,
    latches: Latches,
    admin: AdminServer,
}

#[derive(Clone, Debug)]
struct Latches {
    nats: Latch,
    accounts: Latch,
    keys: Latch,
}

/// Starts the service and runs it until `shutdown`.
///
/// # Errors
/// When it cannot start, or cannot go on. NATS may be away at any time.
pub async fn run(config: AuthSvcConfig, shutdown: CancellationToken) -> Result<(), Error> {
    AuthSvc::start(config).await?.run(shutdown).await
}

impl AuthSvc {
    /// Reads the files and binds the admin server. The configuration has been checked.
    ///
    /// # Errors
    /// When a file cannot be read, or the address cannot be had.
    pub async fn start(config: AuthSvcConfig) -> Result<AuthSvc, Error> {
        let mut registry = telemetry::registry("auth-svc", env!("CARGO_PKG_VERSION"));
        let metrics = Metrics::new(&mut registry);
        let readiness = Readiness::default();
        let latches = Latches {
            nats: readiness.latch("nats"),
            accounts: readiness.latch("accounts"),
            keys: readiness.latch("keys"),
        };
        let file = config.auth.accounts_file.clone().unwrap_or_default();
        let accounts = Arc::new(Reloaded::<Accounts>::open(&file)?);
        latches.accounts.set(true);
        metrics.accounts.set(gauge(accounts.current().count()));
        let directory = config.auth.jwt.keys_dir.as_deref();
        let keys = directory.map(Reloaded::<Keys>::open).transpose()?.map(Arc::new);
        let count = keys.as_ref().map_or(0, |keys| keys.current().len());
        latches.keys.set(config.auth.jwt.hs256_secret.is_some() || count > 0);
        metrics.keys.set(gauge(count));
        let admin = AdminServer::bind(&config.admin, registry, readiness).await.map_err(Error::Admin)?;
        Ok(AuthSvc { config, accounts, keys, metrics, latches, admin })
    }

    /// Where `/metrics` and `/health/*` are.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn admin_address(&self) -> Result<SocketAddr, Error> {
        self.admin.address().map_err(Error::Admin)
    }

    /// Answers requests until `shutdown`.
    ///
    /// # Errors
    /// When the connection to NATS is impossible, rather than just away.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        // Whatever ends this, an error included, ends the tasks too.
        let tasks = CancellationToken::new();
        let _stop_tasks = tasks.clone().drop_guard();
        tokio::spawn(self.admin.serve(tasks.clone()));

        let (metrics, latch) = (self.metrics.clone(), self.latches.accounts.clone());
        tokio::spawn(Arc::clone(&self.accounts).watch(tasks.clone(), move |renewed| {
            tell_reload(&metrics, renewed, |accounts: &Accounts| {
                metrics.accounts.set(gauge(accounts.count()));
                latch.set(true);
                accounts.count()
            });
        }));
        let has_secret = self.config.auth.jwt.hs256_secret.is_some();
        if has_secret {
            tracing::warn!(
                "auth.jwt.hs256_secret is set: whoever knows it can make any token, development only"
            );
        }
        if let Some(keys) = self.keys.clone() {
            let (metrics, latch) = (self.metrics.clone(), self.latches.keys.clone());
            tokio::spawn(keys.watch(tasks.clone(), move |renewed| {
                tell_reload(&metrics, renewed, |keys: &Keys| {
                    for error in keys.broken() {
                        metrics.reloaded(Keys::NAME, error.kind());
                        tracing::error!(%error, "key not loaded");
                    }
                    metrics.keys.set(gauge(keys.len()));
                    latch.set(has_secret || !keys.is_empty());
                    keys.len()
                });
            }));
        }

        let metrics = self.metrics.clone();
        let options = nats::options(&self.config.nats, "auth-svc").await?.subscription_capacity(MOST_WAITING);
        let client =
            nats::connect_with(&self.config.nats, options, self.latches.nats.clone(), move |event| {
                if matches!(event, Event::SlowConsumer(_)) {
                    metrics.dropped();
                }
            })
            .await?;
        let verifier = JwtVerifier::new(self.config.auth.jwt.hs256_secret.as_ref(), self.keys);
        let authority = Arc::new(Authority::new(Arc::new(verifier), self.accounts));
        let subject = Subjects::new(&self.config.nats.prefix).auth_check();
        tracing::info!(subject, "answering");
        service::serve(&client, subject, authority, self.metrics, shutdown).await
    }
}

/// Logs and counts a reload. `take` puts a renewed value to use and says how many things it holds.
fn tell_reload<T: FromFiles>(
    metrics: &Metrics,
    renewed: Result<Arc<T>, Error>,
    take: impl FnOnce(&T) -> usize,
) {
    match renewed {
        Ok(renewed) => {
            metrics.reloaded(T::NAME, "ok");
            tracing::info!(what = T::NAME, count = take(&renewed), "reloaded");
        }
        Err(error) => {
            metrics.reloaded(T::NAME, error.kind());
            tracing::error!(what = T::NAME, %error, "not reloaded, the former ones stay in force");
        }
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod testing;
