//! What the server refuses while the connection stays: subscriptions, and to publish.
//!
//! The server answers a refused subscription with an error, and the connection stays. So it does when a permission is
//! withdrawn later. async-nats does not subscribe again by itself.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
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

/// What the server may refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// A subscription, until it is tried again.
    Subscription,
    /// A message. What it was for is not done.
    Message,
}

impl Refused {
    /// What the error refuses for want of a permission, if that is what it says.
    pub(super) fn by(error: &ServerError) -> Option<Refused> {
        let ServerError::Other(text) = error else { return None };
        let text = text.to_ascii_lowercase();
        match text.strip_prefix("permissions violation for ")? {
            rest if rest.starts_with("subscription") => Some(Refused::Subscription),
            rest if rest.starts_with("publish") => Some(Refused::Message),
            _ => None,
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_by_their_texts() {
        let refused = |text: &str| Refused::by(&ServerError::Other(text.to_owned()));
        // As nats-server 2.9 and 2.15 write them.
        assert_eq!(
            refused("Permissions Violation for Subscription to \"a\" (sid \"1\")"),
            Some(Refused::Subscription)
        );
        assert_eq!(refused("Permissions Violation for Publish to \"a\""), Some(Refused::Message));
        assert_eq!(refused("maximum subscriptions exceeded"), None);
    }
}
