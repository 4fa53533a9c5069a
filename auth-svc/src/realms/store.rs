//! The bucket in which the owners of realms are remembered: a key for each shard.

use std::{sync::Arc, time::Duration};

use async_nats::{
    Client,
    jetstream::{
        self,
        kv::{Store, UpdateErrorKind},
    },
};
use blackhole_common::nats::bucket;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Realms, SHARDS, shard::Shard};

/// How many shards are read or written at a time.
const CONCURRENCY: usize = 16;
/// How long reading or storing all shards may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is looked whether somebody else has changed the bucket.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// How long a start tries to read the bucket.
const LOAD_TIMEOUT: Duration = Duration::from_secs(15);
/// How long after a failure at the start it is tried again.
const LOAD_INTERVAL: Duration = Duration::from_millis(500);
/// How long after a failure to store it is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// The bucket.
#[derive(Clone, Debug)]
pub struct RealmStore {
    client: Client,
    jetstream: jetstream::Context,
    bucket: String,
    replicas: usize,
}

impl RealmStore {
    /// The bucket with this name. It is created with `replicas` copies if it does not exist.
    pub fn new(client: Client, bucket: String, replicas: usize) -> RealmStore {
        RealmStore { jetstream: jetstream::new(client.clone()), client, bucket, replicas }
    }

    /// Reads since when the present owners have their realms, as soon as NATS is connected. If that is not possible, they
    /// have them since now.
    pub async fn load(&self, realms: &Realms) {
        let _ = self.client.flush().await;
        let started = Instant::now();
        let error = loop {
            match within_time(self.try_load(realms)).await {
                Ok(()) => return,
                Err(error) if started.elapsed() > LOAD_TIMEOUT => break error,
                // JetStream of a server that has just started is not there yet.
                Err(_) => sleep(LOAD_INTERVAL).await,
            }
        };
        let bucket = &self.bucket;
        tracing::warn!(%error, bucket, "cannot read who had which realm, so past events of realms are withheld");
        realms.distrust();
    }

    async fn try_load(&self, realms: &Realms) -> Result<(), async_nats::Error> {
        let store = self.open().await?;
        realms.begin(&read_all(&store).await?);
        Ok(())
    }

    /// Stores each change, and takes over what other instances store, until `shutdown` is cancelled.
    pub async fn follow(self, realms: Arc<Realms>, shutdown: CancellationToken) {
        let mut is_failing = false;
        let mut seen = Seen::default();
        let follow = async {
            loop {
                let looked_and_stored = async {
                    self.look(&realms, &mut seen).await?;
                    self.store(&realms).await
                };
                match within_time(looked_and_stored).await {
                    Ok(()) => {
                        is_failing = false;
                        let _ = timeout(LOOK_INTERVAL, realms.changed.notified()).await;
                    }
                    Err(error) => {
                        if !std::mem::replace(&mut is_failing, true) {
                            let bucket = &self.bucket;
                            tracing::warn!(%error, bucket, "cannot store who has which realm, retrying");
                        }
                        sleep(RETRY_INTERVAL).await;
                    }
                }
            }
        };
        shutdown.run_until_cancelled(follow).await;
    }

    /// Finds what others have stored, or that somebody has emptied or deleted the bucket.
    async fn look(&self, realms: &Realms, seen: &mut Seen) -> Result<(), async_nats::Error> {
        let store = self.open().await?;
        let info = store.status().await?.info;
        let now = Seen {
            created: Some(info.created.to_string()),
            last: info.state.last_sequence,
            messages: info.state.messages,
        };
        if *seen == now {
            return Ok(());
        }
        let is_same = seen.created.is_none() || seen.created == now.created;
        if !is_same || now.messages < seen.messages {
            tracing::warn!(
                bucket = self.bucket,
                "somebody has emptied or deleted the bucket, storing all again"
            );
            realms.forgotten();
        } else {
            for (index, stored) in read_all(&store).await?.iter().enumerate() {
                if let Some(stored) = stored {
                    realms.merge(index, stored);
                }
            }
        }
        *seen = now;
        Ok(())
    }

    async fn store(&self, realms: &Realms) -> Result<(), async_nats::Error> {
        let changed = realms.changed_shards();
        if changed.is_empty() {
            return Ok(());
        }
        let store = self.open().await?;
        let write = |(index, shard)| write(&store, realms, index, shard);
        stream::iter(changed).map(write).buffer_unordered(CONCURRENCY).try_collect().await
    }

    async fn open(&self) -> Result<Store, async_nats::Error> {
        let description = "which account has which realm, and since when";
        bucket::open_or_create(&self.jetstream, &self.bucket, description, self.replicas).await
    }
}

async fn within_time(
    work: impl Future<Output = Result<(), async_nats::Error>>,
) -> Result<(), async_nats::Error> {
    timeout(TIMEOUT, work).await.unwrap_or_else(|_| Err("JetStream does not answer".into()))
}

/// What the bucket was like when it was last looked at.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    created: Option<String>,
    last: u64,
    messages: u64,
}

/// All shards that the bucket has.
async fn read_all(store: &Store) -> Result<Vec<Option<Shard>>, async_nats::Error> {
    stream::iter(0..SHARDS).map(|index| read(store, index)).buffered(CONCURRENCY).try_collect().await
}

/// The bucket's version of a shard. `None` if there is none.
async fn read(store: &Store, index: usize) -> Result<Option<Shard>, async_nats::Error> {
    let key = index.to_string();
    let Some(entry) = store.entry(&key).await? else { return Ok(None) };
    // A key that was deleted has an empty value: no owners.
    let foreign = || format!("the value of {key} was not written by auth-svc: delete it");
    Ok(Some(Shard::parse(&entry.value, entry.revision).ok_or_else(foreign)?))
}

/// Stores a shard. If another instance has stored one since, both become one.
async fn write(store: &Store, realms: &Realms, index: usize, shard: Shard) -> Result<(), async_nats::Error> {
    let mut shard = shard;
    loop {
        match store.update(index.to_string(), shard.to_text().into(), shard.revision).await {
            Ok(revision) => {
                realms.stored(index, &shard, revision);
                return Ok(());
            }
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {
                match read(store, index).await? {
                    Some(stored) => shard = realms.merge(index, &stored),
                    None => shard.revision = 0,
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}
