//! Flushing outboxes: writing what they hold to their sockets.
//!
//! Up to a thousand outboxes are flushed at once by the thread that filled them: their frames are in this processor's
//! cache, and waking another thread costs more than writing to many sockets. More are shared out to one task for each
//! worker thread, so that a fan-out to thousands of sessions uses all processors, and the event reader goes on reading
//! after some milliseconds. A session's own task is woken only when its socket is full.

use std::{num::NonZero, sync::Arc, thread::available_parallelism};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Flushed, Outbox, lagging_sessions::LaggingSessions};

/// The fewest outboxes that are worth waking a task; fewer are flushed at once.
const MIN_SHARE: usize = 1024;
/// Outboxes that a task flushes before it yields.
const FLUSH_BATCH: usize = 64;

/// Flushes outboxes, directly or through its tasks.
#[derive(Debug)]
pub struct Flusher {
    shares: Box<[Share]>,
    lagging: Arc<LaggingSessions>,
}

/// What one task flushes.
#[derive(Debug, Default)]
struct Share {
    /// Each outbox at most once: it is flagged as scheduled until it is flushed.
    waiting: Mutex<Vec<Arc<Outbox>>>,
    changed: Notify,
}

impl Flusher {
    /// One share for each processor. Sessions that lag go to `lagging` once their outbox is empty.
    pub fn new(lagging: Arc<LaggingSessions>) -> Flusher {
        let shares = available_parallelism().map_or(1, NonZero::get);
        Flusher { shares: (0..shares).map(|_| Share::default()).collect(), lagging }
    }

    /// The sessions that wait for a replay.
    pub(crate) fn lagging(&self) -> &LaggingSessions {
        &self.lagging
    }

    /// Flushes these outboxes, now or soon, and empties the list.
    pub fn flush(&self, outboxes: &mut Vec<Arc<Outbox>>) {
        if outboxes.len() <= MIN_SHARE {
            outboxes.drain(..).for_each(|outbox| self.flush_one(outbox));
            return;
        }
        let size = outboxes.len().div_ceil(self.shares.len()).max(MIN_SHARE);
        for share in &self.shares {
            if outboxes.is_empty() {
                break;
            }
            let rest = outboxes.len().saturating_sub(size);
            share.waiting.lock().extend(outboxes.drain(rest..));
            share.changed.notify_one();
        }
    }

    /// Flushes one outbox now.
    pub(crate) fn flush_one(&self, outbox: Arc<Outbox>) {
        if outbox.flush() == Flushed::Lagging {
            self.lagging.add(outbox);
        }
    }

    /// Runs the tasks until `shutdown`.
    pub(crate) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let tasks = TaskTracker::new();
        for index in 0..self.shares.len() {
            let (flusher, shutdown) = (Arc::clone(&self), shutdown.clone());
            tasks.spawn(async move {
                shutdown.run_until_cancelled(flusher.serve(index)).await;
            });
        }
        tasks.close();
        tasks.wait().await;
    }

    async fn serve(&self, index: usize) {
        let Some(share) = self.shares.get(index) else { return };
        loop {
            share.changed.notified().await;
            let waiting = std::mem::take(&mut *share.waiting.lock());
            for (index, outbox) in waiting.into_iter().enumerate() {
                self.flush_one(outbox);
                if index % FLUSH_BATCH == FLUSH_BATCH - 1 {
                    tokio::task::yield_now().await;
                }
            }
        }
    }
}
