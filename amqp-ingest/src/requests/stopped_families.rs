//! The families that are stopped persistently: keys of a NATS key-value bucket, which the edges watch.

use std::time::Duration;

use async_nats::{Client, jetstream};
use blackhole_common::nats::bucket;
use tokio::time::timeout;

/// Must be less than the 2 s that KAZOO waits for a response.
const STORE_TIMEOUT: Duration = Duration::from_millis(1500);

/// The bucket.
#[derive(Clone, Debug)]
pub(super) struct StoppedFamilies {
    jetstream: jetstream::Context,
    bucket: String,
    replicas: usize,
}

impl StoppedFamilies {
    /// The bucket with this name. It is created with `replicas` when a family is first stored.
    pub(super) fn new(client: Client, bucket: String, replicas: usize) -> StoppedFamilies {
        StoppedFamilies { jetstream: jetstream::new(client), bucket, replicas }
    }

    /// Stores whether a family is running.
    ///
    /// # Errors
    /// Why it is not known to be stored.
    pub(super) async fn store(&self, family: &str, running: bool) -> Result<(), String> {
        let stored = async {
            let description = "binding families that are stopped";
            let store =
                bucket::open_or_create(&self.jetstream, &self.bucket, description, self.replicas).await?;
            if running {
                store.delete(family).await?;
            } else {
                store.put(family, "".into()).await?;
            }
            Ok::<(), async_nats::Error>(())
        };
        match timeout(STORE_TIMEOUT, stored).await {
            Ok(result) => result.map_err(|error| format!("bucket {}: {error}", self.bucket)),
            Err(_) => Err(format!("bucket {}: JetStream does not answer", self.bucket)),
        }
    }
}
