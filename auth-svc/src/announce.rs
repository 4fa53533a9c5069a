//! Tells the edges over NATS what has changed, so that what was taken away ends in sessions that are open.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_nats::{Client, connection::State};
use blackhole_common::wire::AuthChanged;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;

/// With more accounts than this, the announcement says that any may have changed.
const MAX_ACCOUNTS: usize = 1000;
/// How often a lost connection is looked at.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// What has changed and was not announced yet.
#[derive(Clone, Debug)]
pub struct Announcer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pending: Mutex<Pending>,
    changed: Notify,
}

#[derive(Debug, PartialEq, Eq)]
enum Pending {
    Nothing,
    Accounts(BTreeSet<String>),
    Anything,
}

impl Default for Announcer {
    /// With what may have changed before this process started.
    fn default() -> Self {
        let changed = Notify::new();
        changed.notify_one();
        Announcer { inner: Arc::new(Inner { pending: Mutex::new(Pending::Anything), changed }) }
    }
}

impl Announcer {
    /// These accounts have changed.
    pub fn accounts(&self, ids: &[String]) {
        if ids.is_empty() {
            return;
        }
        let mut pending = self.inner.pending.lock();
        let mut all = match std::mem::replace(&mut *pending, Pending::Anything) {
            Pending::Nothing => BTreeSet::new(),
            Pending::Accounts(all) => all,
            Pending::Anything => return,
        };
        all.extend(ids.iter().cloned());
        if all.len() <= MAX_ACCOUNTS {
            *pending = Pending::Accounts(all);
        }
        drop(pending);
        self.inner.changed.notify_one();
    }

    /// Anything may have changed, such as a key.
    pub fn anything(&self) {
        *self.inner.pending.lock() = Pending::Anything;
        self.inner.changed.notify_one();
    }

    /// Publishes announcements on `subject` until `shutdown`. While NATS is away they wait, and become one.
    pub async fn run(self, client: Client, subject: String, shutdown: CancellationToken) {
        let announce = async {
            loop {
                self.inner.changed.notified().await;
                while client.connection_state() != State::Connected {
                    sleep(RETRY_INTERVAL).await;
                }
                let Some(message) = self.take() else { continue };
                let Ok(json) = serde_json::to_vec(&message) else { continue };
                match client.publish(subject.clone(), json.into()).await {
                    Ok(()) => tracing::debug!(accounts = ?message.accounts, "change announced"),
                    Err(error) => tracing::warn!(%error, "cannot announce a change to the edges"),
                }
            }
        };
        shutdown.run_until_cancelled(announce).await;
    }

    fn take(&self) -> Option<AuthChanged> {
        match std::mem::replace(&mut *self.inner.pending.lock(), Pending::Nothing) {
            Pending::Nothing => None,
            Pending::Accounts(accounts) => {
                Some(AuthChanged { accounts: Some(accounts.into_iter().collect()) })
            }
            Pending::Anything => Some(AuthChanged { accounts: None }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts(ids: &[&str]) -> Option<AuthChanged> {
        Some(AuthChanged { accounts: Some(ids.iter().map(|&id| id.to_owned()).collect()) })
    }

    fn anything() -> Option<AuthChanged> {
        Some(AuthChanged { accounts: None })
    }

    #[test]
    fn what_changed_before_the_start_is_unknown() {
        let announcer = Announcer::default();
        announcer.accounts(&["a".to_owned()]);
        assert_eq!(announcer.take(), anything());
        assert_eq!(announcer.take(), None);
    }

    #[test]
    fn changes_that_wait_become_one_announcement() {
        let announcer = Announcer::default();
        announcer.take();
        announcer.accounts(&[]);
        assert_eq!(announcer.take(), None);
        announcer.accounts(&["b".to_owned(), "a".to_owned()]);
        announcer.accounts(&["b".to_owned()]);
        assert_eq!(announcer.take(), accounts(&["a", "b"]));
        announcer.accounts(&["a".to_owned()]);
        announcer.anything();
        assert_eq!(announcer.take(), anything());
    }

    #[test]
    fn an_announcement_has_a_largest_size() {
        let ids: Vec<String> = (0..=MAX_ACCOUNTS).map(|id| id.to_string()).collect();
        let announcer = Announcer::default();
        announcer.take();
        announcer.accounts(&ids[1..]);
        announcer.accounts(&ids[..1]);
        assert_eq!(announcer.take(), anything());
    }
}
