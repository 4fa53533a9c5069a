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
                Err(error) if started.elapsed() > TIMEOUT => break error,
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
        let read = stream::iter(0..SHARDS).map(|index| read(&store, index)).buffer_unordered(CONCURRENCY);
        for (index, stored) in read.try_collect::<Vec<_>>().await? {
            realms.merge(index, stored.as_ref());
        }
        Ok(())
    }

    /// Stores each change until `shutdown` is cancelled.
    pub async fn follow(self, realms: Arc<Realms>, shutdown: CancellationToken) {
        let mut is_failing = false;
        let follow = async {
            loop {
                match within_time(self.store(&realms)).await {
                    Ok(()) => {
                        is_failing = false;
                        realms.changed.notified().await;
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

/// The bucket's version of a shard. `None` if there is none.
async fn read(store: &Store, index: usize) -> Result<(usize, Option<Shard>), async_nats::Error> {
    let key = index.to_string();
    let Some(entry) = store.entry(&key).await? else { return Ok((index, None)) };
    // A key that was deleted has an empty value: no owners.
    let foreign = || format!("the value of {key} was not written by auth-svc: delete it");
    let shard = Shard::parse(&entry.value, entry.revision).ok_or_else(foreign)?;
    Ok((index, Some(shard)))
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
                let (_, stored) = read(store, index).await?;
                shard = realms.merge(index, stored.as_ref());
            }
            Err(error) => return Err(error.into()),
        }
    }
}
