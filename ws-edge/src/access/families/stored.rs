//! The families that were stopped for good: the keys of a key-value bucket, which amqp-ingest or an operator writes.
//!
//! Each change counts once: a family that was started after it was stored as stopped, but not stored as started,
//! stays started while the edge runs, however often the connection is lost.

use std::{sync::Arc, time::Duration};

use async_nats::{
    Client,
    jetstream::{self, kv::Operation},
};
use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;

use crate::access::families::Families;

/// How often it is looked for a bucket that is not there, or cannot be asked.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// What of the bucket has been done.
#[derive(Default)]
struct Done {
    /// Which bucket: a new one of the same name counts its changes anew.
    created: Option<String>,
    revision: u64,
}

/// Does what the bucket says, now and whenever it changes, until `shutdown`. There need not be a bucket, nor
/// JetStream: nothing is stopped then.
pub(crate) async fn follow(
    client: Client,
    bucket: String,
    families: Arc<Families>,
    shutdown: CancellationToken,
) {
    let jetstream = jetstream::new(client);
    let mut done = Done::default();
    let following = async {
        loop {
            if let Err(error) = changes(&jetstream, &bucket, &families, &mut done).await {
                tracing::debug!(%error, bucket, "the stopped families cannot be read at the moment");
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = following => {}
    }
}

/// Returns when the bucket cannot be watched any more.
async fn changes(
    jetstream: &jetstream::Context,
    bucket: &str,
    families: &Families,
    done: &mut Done,
) -> Result<(), async_nats::Error> {
    let store = jetstream.get_key_value(bucket).await?;
    let created = store.status().await?.info.created.to_string();
    if done.created.as_ref() != Some(&created) {
        *done = Done { created: Some(created), revision: 0 };
    }
    let mut entries = store.watch_with_history(">").await?;
    while let Some(entry) = entries.next().await {
        let entry = entry?;
        if entry.revision <= done.revision {
            continue;
        }
        done.revision = entry.revision;
        let stopped = entry.operation == Operation::Put;
        if let Err(unknown) = families.set(&entry.key, !stopped) {
            tracing::warn!(%unknown, bucket, "a stopped family that this edge does not have");
        }
    }
    Ok(())
}
