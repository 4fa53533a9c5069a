//! Keys, accounts and secrets from CouchDB, against the stand-in of `tests/couchdb`.

// Tests fail by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod accounts;
mod keys;
mod numbers;
mod proxy;
mod scale;
mod tls;
mod tokens;
mod users;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use auth_svc::{
    announce::Announcer,
    couchdb::{
        CouchDb, Databases, config::CouchDbConfig, documents::Revision, identities::Identity,
        verifier::LiveVerifier,
    },
    directory::{Account, AccountDirectory},
    issuers::{Issuer, Live},
    jwt_verifier::JwtVerifier,
    metrics::Metrics,
    realms::Realms,
};
use blackhole_common::{config::ServerUrl, readiness::Readiness};
use blackhole_couchdb::{CouchDb as StandIn, kazoo};
use prometheus_client::registry::Registry;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A time before all tokens end.
const NOW: u64 = 1_800_000_000;

/// The sources as auth-svc uses them, following the stand-in.
struct Sources {
    couchdb: Arc<CouchDb>,
    realms: Arc<Realms>,
    verifier: Arc<LiveVerifier>,
    readiness: Readiness,
    _stop: DropGuard,
}

fn config(url: &str) -> CouchDbConfig {
    let timeout = Duration::from_secs(2);
    CouchDbConfig { url: ServerUrl::new(url), timeout, ..CouchDbConfig::default() }
}

impl Sources {
    async fn of(server: &StandIn) -> Sources {
        Sources::with(&config(&server.url())).await
    }

    async fn with(config: &CouchDbConfig) -> Sources {
        let metrics = Metrics::new(&mut Registry::default());
        let readiness = Readiness::default();
        let realms = Arc::new(Realms::default());
        let couchdb =
            Arc::new(CouchDb::new(config, &Announcer::default(), Arc::clone(&realms), &metrics).unwrap());
        let databases = Databases::new(&readiness, &metrics);
        let stop = CancellationToken::new();
        couchdb.follow(&databases, &stop);
        soon("reading everything", databases.loaded()).await;
        let owner = |account: Arc<Account>| Some((account.realm.clone()?, account.id.clone()));
        realms.replace(couchdb.accounts.all().into_iter().filter_map(owner));
        let kazoo = Issuer {
            live: Some(Live { keys: Arc::clone(&couchdb.keys), is_first: true }),
            ..Issuer::kazoo(None, None)
        };
        let verifier = Arc::new(LiveVerifier::new(JwtVerifier::new(vec![kazoo]), Arc::clone(&couchdb)));
        let sources = Sources { couchdb, realms, verifier, readiness, _stop: stop.drop_guard() };
        sources.until_followed().await;
        sources
    }

    async fn until_followed(&self) {
        eventually("following all databases", async || self.readiness.degraded().is_empty()).await;
    }

    /// Why a token is refused, if it is.
    async fn refusal(&self, token: &str) -> Option<String> {
        self.verifier.verify_at(token, NOW).await.err().map(|error| error.to_string())
    }

    async fn account(&self, id: &str) -> Option<Arc<Account>> {
        self.couchdb.accounts.account(id, "").await.unwrap()
    }

    /// What an event of KAZOO about a document does.
    async fn told(&self, id: &str) {
        let identity = Identity { account_id: kazoo::ACME.into(), id: id.into() };
        self.couchdb.identities.changed(&identity, Revision::default()).await;
    }
}

/// Reads everything once.
async fn load(config: &CouchDbConfig) -> Result<(), String> {
    let metrics = Metrics::new(&mut Registry::default());
    let couchdb = CouchDb::new(config, &Announcer::default(), Arc::default(), &metrics)?;
    couchdb.load().await.map_err(|error| error.to_string())
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(20), future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen"),
    }
}

async fn eventually(what: &str, condition: impl AsyncFn() -> bool) -> Duration {
    let began = Instant::now();
    soon(what, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    began.elapsed()
}
