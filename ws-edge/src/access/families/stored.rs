//! Families that stay stopped after a restart: the keys of a key-value bucket that amqp-ingest or an operator writes.
//!
//! Each change is applied once. So a family that was started only until the next restart stays started when the edge
//! reconnects and reads the bucket again.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_nats::{
    Client,
    jetstream::{
        self, ErrorCode,
        context::{GetStreamError, GetStreamErrorKind},
        kv::Operation,
    },
};
use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;

use crate::access::families::Families;

/// Pause after the bucket was missing or could not be watched.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// How often to look whether the bucket was deleted or made anew. A watch does not notice that.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Up to which change the bucket has been applied.
#[derive(Default)]
struct Applied {
    /// When the bucket was created: the revisions of a new bucket begin anew.
    created: Option<String>,
    revision: u64,
    /// The families that it has stopped.
    stopped: BTreeSet<String>,
}

impl Applied {
    /// The bucket is another one, or there is none: it stops nothing that it does not name.
    fn begin(&mut self, created: Option<String>, families: &Families) {
        for name in std::mem::take(&mut self.stopped) {
            if families.set(&name, true).is_ok() {
                tracing::info!(family = name, "the bucket that stopped the family is gone");
            }
        }
        *self = Applied { created, ..Applied::default() };
    }
}

/// Applies the bucket, now and whenever it changes, until `shutdown`. Without a bucket, or without JetStream, all
/// families run.
pub(crate) async fn follow(
    client: Client,
    bucket: String,
    families: Arc<Families>,
    shutdown: CancellationToken,
) {
    let jetstream = jetstream::new(client);
    let mut applied = Applied::default();
    let following = async {
        loop {
            if let Err(error) = watch(&jetstream, &bucket, &families, &mut applied).await {
                tracing::debug!(%error, bucket, "cannot read the stopped families");
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = following => {}
    }
}

/// Applies changes until the bucket cannot be watched any more.
async fn watch(
    jetstream: &jetstream::Context,
    bucket: &str,
    families: &Families,
    applied: &mut Applied,
) -> Result<(), async_nats::Error> {
    match jetstream.get_stream(format!("KV_{bucket}")).await {
        Err(error) if is_absent(&error) => {
            applied.begin(None, families);
            return Ok(());
        }
        other => drop(other?),
    }
    let store = jetstream.get_key_value(bucket).await?;
    let created = store.status().await?.info.created.to_string();
    if applied.created.as_ref() != Some(&created) {
        applied.begin(Some(created.clone()), families);
    }
    let mut entries = store.watch_with_history(">").await?;
    let mut checks = tokio::time::interval(CHECK_INTERVAL);
    loop {
        let entry = tokio::select! {
            entry = entries.next() => entry,
            _ = checks.tick() => {
                if store.status().await?.info.created.to_string() != created {
                    return Ok(());
                }
                continue;
            }
        };
        let Some(entry) = entry.transpose()? else { return Ok(()) };
        if entry.revision <= applied.revision {
            continue;
        }
        applied.revision = entry.revision;
        let is_stopped = entry.operation == Operation::Put;
        if let Err(unknown) = families.set(&entry.key, !is_stopped) {
            tracing::warn!(%unknown, bucket, "the bucket contains an unknown family");
        } else if is_stopped {
            applied.stopped.insert(entry.key);
        } else {
            applied.stopped.remove(&entry.key);
        }
    }
}

/// Whether the server knows that there is no such bucket.
fn is_absent(error: &GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}
