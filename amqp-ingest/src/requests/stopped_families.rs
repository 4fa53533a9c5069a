//! The families that are stopped persistently: keys of a NATS key-value bucket, which the edges watch.

use std::time::Duration;

use async_nats::{
    Client,
    jetstream::{
        self, ErrorCode,
        context::{CreateStreamError, CreateStreamErrorKind},
        kv::Store,
        stream::{Config, DiscardPolicy},
    },
};
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
            let store = self.open_or_create().await?;
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

    async fn open_or_create(&self) -> Result<Store, async_nats::Error> {
        if let Ok(store) = self.jetstream.get_key_value(&self.bucket).await {
            return Ok(store);
        }
        // The stream that `create_key_value` would create. That function first requests the account's info, and cannot
        // parse the reply of nats-server 2.9.
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
        match self.jetstream.create_stream(&config).await {
            // A single server keeps one copy.
            Err(error) if is_without_replicas(&error) => {
                self.jetstream.create_stream(Config { num_replicas: 1, ..config }).await?;
            }
            created => drop(created?),
        }
        Ok(self.jetstream.get_key_value(&self.bucket).await?)
    }
}

fn is_without_replicas(error: &CreateStreamError) -> bool {
    matches!(error.kind(), CreateStreamErrorKind::JetStream(error)
        if error.error_code() == ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED)
}
