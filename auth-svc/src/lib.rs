//! auth-svc: verifies tokens and decides which accounts they can access. A NATS micro service that scales
//! horizontally.
//!
//! | module | contents |
//! |---|---|
//! | [`config`] | configuration |
//! | [`service`] | requests and replies over NATS |
//! | [`authority`] | the decision on one request |
//! | [`verifier`], [`jwt_verifier`] | token verification: the trait, and the implementation with local keys |
//! | [`issuers`] | whose tokens are accepted |
//! | [`token`], [`members`], [`claims`], [`keys`] | parsing tokens, validating claims, loading keys |
//! | [`signatures`] | remembering which signatures are good or bad |
//! | [`directory`], [`accounts`] | account lookup: the trait, and the implementation with a file |
//! | [`couchdb`] | keys, accounts and secrets from KAZOO's CouchDB |
//! | [`crossbar`] | tokens and accounts from KAZOO's API |
//! | [`http`] | asking other servers |
//! | [`sources`] | the sources of accounts, in order |
//! | [`numbers`], [`dialling`] | whose a dialled number is, and which number that is |
//! | [`access`], [`users`] | the access rule: of accounts, and of users within theirs |
//! | [`realms`] | which account has which realm, and since when, also across restarts |
//! | [`announce`] | telling the edges what has changed |
//! | [`refusal`], [`error`] | errors for clients, and errors for operators |
//! | [`reload`] | reloading files that change |
//! | [`metrics`] | metrics |
//! | [`cli`], [`mint`], [`explain`], [`check_sources`] | the command line: minting development tokens, explaining tokens, asking the sources |

pub mod access;
pub mod accounts;
pub mod announce;
pub mod authority;
pub mod check_sources;
pub mod claims;
pub mod cli;
pub mod config;
pub mod couchdb;
pub mod crossbar;
pub mod dialling;
pub mod directory;
pub mod error;
pub mod explain;
pub mod http;
pub mod issuers;
pub mod jwt_verifier;
pub mod keys;
pub mod members;
pub mod metrics;
pub mod mint;
pub mod numbers;
pub mod realms;
pub mod refusal;
pub mod reload;
pub mod service;
pub mod signatures;
pub mod sources;
pub mod token;
pub mod users;
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
    announce::Announcer,
    authority::Authority,
    config::{AuthSvcConfig, Source},
    couchdb::{CouchDb, Databases, accounts::LiveAccounts, verifier::LiveVerifier},
    crossbar::{Crossbar, verifier::CrossbarVerifier},
    directory::{Account, AccountDirectory},
    error::Error,
    issuers::{Issuer, Reports},
    jwt_verifier::JwtVerifier,
    keys::Keys,
    metrics::Metrics,
    numbers::Numbers,
    realms::{Realms, store::RealmStore},
    reload::{FromFiles, Reloaded},
    sources::Sources,
    users::{UserDirectory, Users},
    verifier::TokenVerifier,
};

/// Capacity of the subscription, sized for several edges whose sessions all reconnect at once. Such a burst
/// is answered within a second and takes about 16 MiB, or 128 MiB if all tokens have the maximum length.
/// Further requests are dropped and counted.
const MAX_QUEUED_REQUESTS: usize = 16_384;

/// The service, with its files loaded and the admin server bound, but not serving yet.
#[derive(Debug)]
pub struct AuthSvc {
    config: AuthSvcConfig,
    accounts: Option<Arc<Reloaded<Accounts>>>,
    couchdb: Option<(Arc<CouchDb>, Databases)>,
    crossbar: Option<Arc<Crossbar>>,
    realms: Arc<Realms>,
    issuers: Vec<Issuer>,
    announcer: Announcer,
    metrics: Metrics,
    latches: Latches,
    admin: AdminServer,
}

#[derive(Clone, Debug)]
struct Latches {
    nats: nats::Latches,
    accounts: Latch,
    keys: Latch,
    subscription: Latch,
}

/// Starts the service and runs it until `shutdown` is cancelled.
///
/// # Errors
/// If it cannot start or continue. A lost connection to NATS is not an error.
pub async fn run(config: AuthSvcConfig, shutdown: CancellationToken) -> Result<(), Error> {
    AuthSvc::start(config).await?.run(shutdown).await
}

impl AuthSvc {
    /// Loads the files and binds the admin server. The configuration must be valid.
    ///
    /// # Errors
    /// If a file cannot be read, or the address is not available.
    pub async fn start(config: AuthSvcConfig) -> Result<AuthSvc, Error> {
        let mut registry = telemetry::registry("auth-svc");
        let metrics = Metrics::new(&mut registry);
        let readiness = Readiness::default();
        let announcer = Announcer::default();
        let realms = Arc::new(Realms::default());
        let couchdb = match config.auth.couchdb() {
            Some(settings) => {
                let couchdb = CouchDb::new(settings, &announcer, Arc::clone(&realms), &metrics)
                    .map_err(Error::CouchDb)?;
                Some((Arc::new(couchdb), Databases::new(&readiness, &metrics)))
            }
            None => None,
        };
        let crossbar = match config.auth.crossbar() {
            Some(settings) => {
                let latch = readiness.optional("crossbar");
                let crossbar = Crossbar::new(settings, Arc::clone(&realms), &metrics, latch);
                Some(Arc::new(crossbar.map_err(Error::Crossbar)?))
            }
            None => None,
        };
        let latches = Latches {
            nats: nats::Latches::new(&readiness, readiness.latch("nats")),
            accounts: readiness.latch("accounts"),
            keys: readiness.latch("keys"),
            subscription: readiness.latch("subscription"),
        };
        let accounts = config.auth.accounts_file().map(Reloaded::<Accounts>::open).transpose()?.map(Arc::new);
        // CouchDB and Crossbar have latches of their own.
        latches.accounts.set(true);
        metrics.accounts.set(accounts.as_ref().map_or(0, |accounts| gauge(accounts.current().count())));
        let reports =
            Reports { announcer: announcer.clone(), metrics: metrics.clone(), readiness: readiness.clone() };
        let issuers = Issuer::all(&config.auth, couchdb.as_ref().map(|(couchdb, _)| &**couchdb), &reports)?;
        let count = count_keys(&issuers);
        let has_others = has_others(&config, &issuers);
        latches.keys.set(has_others || count > 0);
        metrics.keys.set(gauge(count));
        let admin = AdminServer::bind(&config.admin, registry, readiness).await.map_err(Error::Admin)?;
        Ok(AuthSvc {
            config,
            accounts,
            couchdb,
            crossbar,
            realms,
            issuers,
            announcer,
            metrics,
            latches,
            admin,
        })
    }

    /// The address of the admin server.
    ///
    /// # Errors
    /// If the operating system does not report it.
    pub fn admin_address(&self) -> Result<SocketAddr, Error> {
        self.admin.address().map_err(Error::Admin)
    }

    /// Answers requests until `shutdown` is cancelled.
    ///
    /// # Errors
    /// If connecting to NATS fails permanently, or the service ends by itself.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        // Also stops the tasks when this returns an error.
        let tasks = CancellationToken::new();
        let _stop_tasks = tasks.clone().drop_guard();
        tokio::spawn(self.admin.serve(tasks.clone()));

        let announcer = self.announcer;
        let owners = Owners {
            accounts: self.accounts.clone(),
            couchdb: self.couchdb.as_ref().map(|(couchdb, _)| Arc::clone(&couchdb.accounts)),
            realms: Arc::clone(&self.realms),
        };
        if let Some(accounts) = &self.accounts {
            let (metrics, latch) = (self.metrics.clone(), self.latches.accounts.clone());
            let (changed, owners) = (announcer.clone(), owners.clone());
            tokio::spawn(Arc::clone(accounts).watch(tasks.clone(), move |result| {
                report_reload(&metrics, result, |accounts: &Accounts| {
                    metrics.accounts.set(gauge(accounts.count()));
                    latch.set(true);
                    owners.refresh();
                    changed.accounts(accounts.changed());
                    accounts.count()
                });
            }));
        }
        if let Some((couchdb, databases)) = &self.couchdb {
            couchdb.follow(databases, &tasks);
        }
        let has_secret = self.config.auth.jwt.hs256_secret.is_some();
        if has_secret {
            tracing::warn!(
                "auth.jwt.hs256_secret is set, for development only: anyone who knows it can mint any token"
            );
        }
        for remote in self.issuers.iter().filter_map(|issuer| issuer.remote.clone()) {
            let shutdown = tasks.clone();
            tokio::spawn(async move { shutdown.run_until_cancelled(remote.follow()).await });
        }
        let has_others = has_others(&self.config, &self.issuers);
        for keys in self.issuers.iter().filter_map(|issuer| issuer.keys.clone()) {
            let (metrics, latch) = (self.metrics.clone(), self.latches.keys.clone());
            let changed = announcer.clone();
            let issuers = self.issuers.clone();
            tokio::spawn(keys.watch(tasks.clone(), move |result| {
                report_reload(&metrics, result, |keys: &Keys| {
                    for error in keys.errors() {
                        metrics.reloaded(Keys::NAME, error.kind());
                        tracing::error!(%error, "key not loaded");
                    }
                    let count = count_keys(&issuers);
                    metrics.keys.set(gauge(count));
                    latch.set(has_others || count > 0);
                    changed.anything();
                    keys.len()
                });
            }));
        }

        let metrics = self.metrics.clone();
        let identities = self
            .couchdb
            .as_ref()
            .map(|(couchdb, _)| (Arc::clone(&couchdb.identities), Arc::clone(&couchdb.owned)));
        let options =
            nats::options(&self.config.nats, "auth-svc").await?.subscription_capacity(MAX_QUEUED_REQUESTS);
        let client =
            nats::connect_with(&self.config.nats, options, self.latches.nats.clone(), move |event| {
                if matches!(event, Event::SlowConsumer(_)) {
                    metrics.dropped();
                }
                if matches!(event, Event::SlowConsumer(_) | Event::Connected)
                    && let Some((identities, owned)) = &identities
                {
                    owned.missed();
                    identities.missed();
                }
            })
            .await?;
        let subjects = Subjects::new(&self.config.nats.prefix);
        let (sources, issuers) = (self.config.auth.sources(), self.issuers.clone());
        let verifier = JwtVerifier::new(self.issuers);
        let verifier: Arc<dyn TokenVerifier> = match &self.couchdb {
            None => Arc::new(verifier),
            Some((couchdb, databases)) => {
                couchdb.listen(client.clone(), subjects.clone(), self.config.auth.users, tasks.clone());
                // Another auth-svc can answer meanwhile.
                if shutdown.run_until_cancelled(databases.loaded()).await.is_none() {
                    return Ok(());
                }
                Arc::new(LiveVerifier::new(verifier, Arc::clone(couchdb)))
            }
        };
        let verifier = match &self.crossbar {
            None => verifier,
            Some(crossbar) => {
                let crossbar = Arc::clone(crossbar);
                Arc::new(CrossbarVerifier::new(crossbar, &sources, &issuers, verifier)) as _
            }
        };
        let directory = |source: &Source| match source {
            Source::CouchDb => self.couchdb.as_ref().map(|(couchdb, _)| Arc::clone(&couchdb.accounts) as _),
            Source::Crossbar => self.crossbar.clone().map(|crossbar| crossbar as _),
            Source::Files => self.accounts.clone().map(|accounts| accounts as _),
        };
        let directories: Vec<Arc<dyn AccountDirectory>> = sources.iter().filter_map(directory).collect();
        let user_directory = |source: &Source| match source {
            Source::CouchDb => self.couchdb.as_ref().map(|(couchdb, _)| Arc::clone(couchdb) as _),
            Source::Files => self.accounts.clone().map(|accounts| accounts as _),
            // It does not tell what a user owns.
            Source::Crossbar => None,
        };
        let users: Vec<Arc<dyn UserDirectory>> = sources.iter().filter_map(user_directory).collect();
        let live_numbers = self.couchdb.as_ref().map(|(couchdb, _)| &couchdb.numbers);
        let numbers = Numbers::of(&sources, live_numbers, self.accounts.as_ref());
        owners.refresh();
        if let Some(replicas) = self.config.history.kept() {
            let store = RealmStore::new(client.clone(), subjects.realms(), replicas);
            if shutdown.run_until_cancelled(store.load(&self.realms)).await.is_none() {
                return Ok(());
            }
            tokio::spawn(store.follow(Arc::clone(&self.realms), tasks.clone()));
        }
        let mut authority = Authority::new(verifier, Arc::new(Sources::new(directories)), self.realms);
        if self.config.auth.users == config::Users::Own {
            authority = authority.with_users(Users::new(users));
        }
        // Not before questions can be answered: edges ask when something is announced.
        tokio::spawn(announcer.run(client.clone(), subjects.auth_changed(), tasks.clone()));
        tracing::info!(subject = subjects.auth_check(), "answering requests");
        service::serve(
            &client,
            &subjects,
            (Arc::new(authority), Arc::new(numbers)),
            self.metrics,
            self.latches.subscription,
            shutdown,
        )
        .await
    }
}

/// The sources of who has which realm.
#[derive(Clone, Debug)]
struct Owners {
    accounts: Option<Arc<Reloaded<Accounts>>>,
    couchdb: Option<Arc<LiveAccounts>>,
    realms: Arc<Realms>,
}

impl Owners {
    /// Takes over what all sources say. Nothing is known before all of them have been read.
    fn refresh(&self) {
        if self.couchdb.as_ref().is_some_and(|couchdb| !couchdb.are_read()) {
            return;
        }
        let files = self.accounts.as_ref().map(|accounts| accounts.current());
        let files = files.iter().flat_map(|accounts| accounts.iter().cloned());
        let couchdb = self.couchdb.iter().flat_map(|couchdb| couchdb.all());
        let all: Vec<Arc<Account>> = files.chain(couchdb).collect();
        let owner = |account: &'_ Arc<Account>| Some((account.realm.clone()?, account.id.clone()));
        self.realms.replace(all.iter().filter_map(owner));
    }
}

/// Logs and counts a reload. `apply` receives the new value and returns the number of its items.
fn report_reload<T: FromFiles>(
    metrics: &Metrics,
    result: Result<Arc<T>, Error>,
    apply: impl FnOnce(&T) -> usize,
) {
    match result {
        Ok(value) => {
            metrics.reloaded(T::NAME, "ok");
            tracing::info!(what = T::NAME, count = apply(&value), "reloaded");
        }
        Err(error) => {
            metrics.reloaded(T::NAME, error.kind());
            tracing::error!(what = T::NAME, %error, "reload failed, keeping the previous version");
        }
    }
}

/// Whether there is anything that verifies tokens besides keys in files.
fn has_others(config: &AuthSvcConfig, issuers: &[Issuer]) -> bool {
    let auth = &config.auth;
    auth.jwt.hs256_secret.is_some()
        || auth.couchdb().is_some()
        || auth.crossbar().is_some()
        || issuers.iter().any(|issuer| issuer.remote.is_some())
}

/// The keys of all issuers in files.
fn count_keys(issuers: &[Issuer]) -> usize {
    issuers.iter().filter_map(|issuer| issuer.keys.as_ref()).map(|keys| keys.current().len()).sum()
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod testing;
