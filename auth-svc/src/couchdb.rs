//! KAZOO's own keys, accounts and secrets, live from its CouchDB.
//!
//! | module | contents |
//! |---|---|
//! | [`config`] | `[auth.couchdb]` |
//! | [`client`] | questions over HTTP |
//! | [`documents`] | reading the answers |
//! | [`feed`] | following the changes of a database |
//! | [`accounts`], [`table`] | the accounts, from `accounts` |
//! | [`keys`] | the keys, from `system_auth` |
//! | [`settings`] | the server's secret, from `system_config` |
//! | [`identities`] | users', devices' and accounts' secrets, from the accounts' own databases |
//! | [`numbers`] | whose numbers are, from the databases of numbers |
//! | [`owned`] | what users own, from the accounts' own databases |
//! | [`events`] | documents that KAZOO has told of |
//! | [`verifier`] | tokens as KAZOO means them |

pub mod accounts;
pub mod client;
pub mod config;
pub mod documents;
pub mod events;
pub mod feed;
pub mod identities;
pub mod keys;
pub mod numbers;
pub mod owned;
pub mod settings;
pub mod table;
pub mod verifier;

use std::sync::Arc;

use blackhole_common::{readiness::Readiness, wire::Subjects};
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use self::{
    accounts::LiveAccounts,
    client::{Client, CouchError},
    config::CouchDbConfig,
    feed::{Followed, Follower},
    identities::{Identities, Identity},
    keys::LiveKeys,
    numbers::LiveNumbers,
    owned::Owned,
    settings::LiveSettings,
};
use crate::{
    announce::Announcer,
    config::Users,
    error::Error,
    metrics::Metrics,
    realms::Realms,
    users::{User, UserDirectory},
};

/// What is read from CouchDB.
#[derive(Debug)]
pub struct CouchDb {
    client: Arc<Client>,
    /// The accounts.
    pub accounts: Arc<LiveAccounts>,
    /// The keys.
    pub keys: Arc<LiveKeys>,
    /// The server's secret.
    pub settings: Arc<LiveSettings>,
    /// The secrets of users, devices and accounts.
    pub identities: Arc<Identities>,
    /// What users own, with `auth.users = "own"`.
    pub owned: Arc<Owned>,
    /// Whose numbers are.
    pub numbers: Arc<LiveNumbers>,
}

/// What others see of the databases that are followed.
#[derive(Clone, Debug)]
pub struct Databases {
    accounts: Followed,
    keys: Followed,
    settings: Followed,
}

impl CouchDb {
    /// Sources in this CouchDB. Nothing is read yet. What changes is announced by `announcer`, and noted in `realms`.
    ///
    /// # Errors
    /// If the configuration is not usable.
    pub fn new(
        config: &CouchDbConfig,
        announcer: &Announcer,
        realms: Arc<Realms>,
        metrics: &Metrics,
    ) -> Result<CouchDb, String> {
        let client = Arc::new(Client::new(config)?);
        let (announcer, metrics) = (|| announcer.clone(), || metrics.clone());
        let keys = Arc::new(LiveKeys::new(Arc::clone(&client), announcer(), metrics()));
        let identities = Identities::new(Arc::clone(&client), config.poll_interval, announcer(), metrics());
        let owned = Owned::new(Arc::clone(&client), config.poll_interval, announcer(), metrics());
        let accounts = Arc::new(LiveAccounts::new(Arc::clone(&client), announcer(), realms, metrics()));
        let sections = config.sections();
        let numbers =
            LiveNumbers::new(Arc::clone(&client), sections.clone(), Arc::clone(&accounts), metrics());
        let numbers = Arc::new(numbers);
        let settings = LiveSettings::new(
            Arc::clone(&client),
            sections,
            (Arc::clone(&keys), Arc::clone(&numbers)),
            announcer(),
            metrics(),
        );
        Ok(CouchDb {
            client,
            accounts,
            keys,
            settings: Arc::new(settings),
            identities: Arc::new(identities),
            owned: Arc::new(owned),
            numbers,
        })
    }

    /// The client.
    pub fn client(&self) -> &Arc<Client> {
        &self.client
    }

    /// Reads everything once, without following it.
    ///
    /// # Errors
    /// If something cannot be read.
    pub async fn load(&self) -> Result<(), CouchError> {
        // The key that signs is read with the settings, once the ids of keys are known.
        self.keys.load(false).await?;
        self.settings.load(false).await?;
        self.accounts.load(false).await
    }

    /// Follows all changes until `shutdown`.
    pub fn follow(&self, databases: &Databases, shutdown: &CancellationToken) {
        let spawn = |task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
            let shutdown = shutdown.clone();
            tokio::spawn(async move { shutdown.run_until_cancelled(task).await });
        };
        let client = || Arc::clone(&self.client);
        let Databases { accounts, keys, settings } = databases.clone();
        spawn(Box::pin(feed::follow(client(), Arc::clone(&self.accounts), accounts)));
        spawn(Box::pin(feed::follow(client(), Arc::clone(&self.keys), keys)));
        spawn(Box::pin(feed::follow(client(), Arc::clone(&self.settings), settings)));
    }

    /// Reads again what KAZOO tells of over AMQP and NATS, until `shutdown`. With `users`, also what users own.
    pub fn listen(
        &self,
        nats: async_nats::Client,
        subjects: Subjects,
        users: Users,
        shutdown: CancellationToken,
    ) {
        let owned = (users == Users::Own).then(|| Arc::clone(&self.owned));
        let task = events::follow(nats, subjects, Arc::clone(&self.identities), owned);
        tokio::spawn(async move { shutdown.run_until_cancelled(task).await });
    }
}

impl UserDirectory for CouchDb {
    fn user<'a>(&'a self, account_id: &'a str, id: &'a str) -> BoxFuture<'a, Result<Option<User>, Error>> {
        Box::pin(async move {
            let identity = Identity { account_id: account_id.to_owned(), id: id.to_owned() };
            let Some(document) = self.identities.document(&identity).await? else { return Ok(None) };
            if document.is_admin {
                return Ok(Some(User { is_admin: true, owns: Vec::new() }));
            }
            let owned = self.owned.of(&identity).await?;
            let owns = document.phones.into_iter().chain(owned.iter().cloned()).collect();
            Ok(Some(User { is_admin: false, owns }))
        })
    }
}

impl Databases {
    /// The databases, not read yet.
    pub fn new(readiness: &Readiness, metrics: &Metrics) -> Databases {
        let followed = |loaded, current, database| {
            Followed::new(readiness.latch(loaded), readiness.optional(current), metrics.heard_at(database))
        };
        Databases {
            accounts: followed("couchdb accounts", "couchdb changes of accounts", LiveAccounts::DATABASE),
            keys: followed("couchdb system_auth", "couchdb changes of system_auth", LiveKeys::DATABASE),
            settings: followed(
                "couchdb system_config",
                "couchdb changes of system_config",
                LiveSettings::DATABASE,
            ),
        }
    }

    /// Waits until everything was read.
    pub async fn loaded(&self) {
        for database in [&self.accounts, &self.keys, &self.settings] {
            database.loaded().await;
        }
    }
}
