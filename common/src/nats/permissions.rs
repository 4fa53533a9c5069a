//! What the server refuses while the connection stays: subscriptions, and to publish.
//!
//! The server answers a refused subscription with an error, and the connection stays. So it does when a permission is
//! withdrawn later. async-nats does not subscribe again by itself.

use std::{
    sync::Arc,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use async_nats::{Client, ServerError, connection::State};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use crate::readiness::Latch;

/// How often refused subscriptions are tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// A server answers subscriptions within this time.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// After this time without another refusal to publish it is taken for mended: nothing tells it.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// Whether the error refuses to publish a message. What it was for is not done.
pub(super) fn is_refused_message(error: &ServerError) -> bool {
    let ServerError::Other(text) = error else { return false };
    text.to_ascii_lowercase().starts_with("permissions violation for publish")
}

/// Makes `latch` ready again a while after the last refusal to publish that is notified.
pub(super) async fn forget_refused_messages(refused: Arc<Notify>, latch: Latch) {
    loop {
        refused.notified().await;
        while timeout(FORGET_AFTER, refused.notified()).await.is_ok() {}
        latch.set(true);
    }
}

/// The subscriptions of a connection that were refused.
#[derive(Debug, Default)]
pub(super) struct RefusedSubscriptions {
    /// How many, since the last time that all were accepted.
    count: AtomicU64,
    refused: Notify,
}

impl RefusedSubscriptions {
    /// Whether the error refuses a subscription. Those that refuse to publish are for single messages.
    pub(super) fn is_one(error: &ServerError) -> bool {
        let ServerError::Other(text) = error else { return false };
        text.to_ascii_lowercase().starts_with("permissions violation for subscription")
    }

    /// One was refused.
    pub(super) fn add(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.refused.notify_one();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count() == 0
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Whenever one is refused, connects anew, which repeats all subscriptions, until none is refused. Then `latch` is ready
    /// again.
    pub(super) async fn retry(&self, client: Client, latch: Latch) {
        loop {
            self.refused.notified().await;
            while !self.is_empty() {
                sleep(RETRY_INTERVAL).await;
                if client.connection_state() != State::Connected {
                    continue;
                }
                let before = self.count();
                if client.force_reconnect().await.is_err() {
                    return;
                }
                sleep(ANSWER_TIME).await;
                if client.connection_state() == State::Connected && self.count() == before {
                    self.count.store(0, Ordering::Relaxed);
                    latch.set(true);
                    tracing::info!("nats accepts all subscriptions again");
                }
            }
        }
    }
}
