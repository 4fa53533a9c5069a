//! Lagging sessions that can be brought further: nothing waits in their outbox any more.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Outbox;

/// Lagging sessions that wait for a replay.
#[derive(Debug, Default)]
pub struct LaggingSessions {
    /// A session is added only when something about it has changed, so it is in here a few times at most.
    sessions: Mutex<Vec<Arc<Outbox>>>,
    changed: Notify,
}

impl LaggingSessions {
    /// Adds a session.
    pub fn add(&self, session: Arc<Outbox>) {
        self.sessions.lock().push(session);
        self.changed.notify_one();
    }

    /// Waits until [`LaggingSessions::take`] may return something.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Takes all sessions out, each once.
    pub(crate) fn take(&self) -> Vec<Arc<Outbox>> {
        let mut sessions = std::mem::take(&mut *self.sessions.lock());
        sessions.sort_by_key(|session| session.number);
        sessions.dedup_by_key(|session| session.number);
        sessions
    }
}
