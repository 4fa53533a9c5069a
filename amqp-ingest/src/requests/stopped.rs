//! The families that are stopped for good: the keys of a key-value bucket, which the edges follow.

use std::time::Duration;

use async_nats::{
    Client,
    jetstream::{
        self,
        kv::Store,
        stream::{Config, DiscardPolicy},
    },
};
use tokio::time::timeout;

/// KAZOO waits 2 s for an answer.
const WITHIN: Duration = Duration::from_millis(1500);

/// The bucket.
#[derive(Clone, Debug)]
pub(super) struct StoppedFamilies {
    jetstream: jetstream::Context,
    bucket: String,
    replicas: usize,
}

impl StoppedFamilies {
    /// `bucket`, which is made on so many servers where it is missing.
    pub(super) fn new(client: Client, bucket: String, replicas: usize) -> StoppedFamilies {
        StoppedFamilies { jetstream: jetstream::new(client), bucket, replicas }
    }

    /// Stores that a family serves from now on, or does not.
    ///
    /// # Errors
    /// Why it could not be stored, or is not known to be.
    pub(super) async fn store(&self, family: &str, running: bool) -> Result<(), String> {
        let stored = async {
            let store = self.store_or_make().await?;
            if running {
                store.delete(family).await?;
            } else {
                store.put(family, "".into()).await?;
            }
            Ok::<(), async_nats::Error>(())
        };
        match timeout(WITHIN, stored).await {
            Ok(result) => result.map_err(|error| format!("bucket {}: {error}", self.bucket)),
            Err(_) => Err(format!("bucket {}: JetStream does not answer", self.bucket)),
        }
    }

    async fn store_or_make(&self) -> Result<Store, async_nats::Error> {
        if let Ok(store) = self.jetstream.get_key_value(&self.bucket).await {
            return Ok(store);
        }
        // What `create_key_value` makes. That asks for the account first, whose answer of nats-server 2.9 it
        // cannot read.
        let config = Config {
            name: format!("KV_{}", self.bucket),
            description: Some("binding families that are stopped".into()),
            subjects: vec![format!("$KV.{}.>", self.bucket)],
            max_messages_per_subject: 1,
            discard: DiscardPolicy::New,
            allow_rollup: true,
            deny_delete: true,
            allow_direct: true,
            num_replicas: self.replicas,
            ..Config::default()
        };
        self.jetstream.create_stream(config).await?;
        Ok(self.jetstream.get_key_value(&self.bucket).await?)
    }
}
