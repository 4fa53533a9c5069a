//! Flushing outboxes: writing what they hold to their sockets.
//!
//! Up to a thousand outboxes are flushed at once by the thread that filled them: their frames are in this processor's
//! cache, and waking another thread costs more than writing to many sockets. More are shared out to one task for each
//! worker thread, so that a fan-out to thousands of sessions uses all processors, and the event reader goes on reading
//! after some milliseconds. A session's own task is woken only when its socket is full.
//!
//! Outboxes whose frames are compressed always go to tasks, of their own: compressing a frame takes several times as long as
//! writing it, and meanwhile the event reader delivers to all others.

use std::{
    num::NonZero,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::available_parallelism,
};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Flushed, Outbox, lagging_sessions::LaggingSessions};

/// The fewest outboxes that are worth waking a task; fewer are flushed at once.
const MIN_SHARE: usize = 1024;
/// The same for outboxes whose frames are compressed. Neighbours often have the same frame, for which the second of two
/// tasks would wait.
const MIN_COMPRESSED_SHARE: usize = 32;
/// Outboxes that a task flushes before it yields.
const FLUSH_BATCH: usize = 64;

/// Flushes outboxes, directly or through its tasks.
#[derive(Debug)]
pub struct Flusher {
    shares: Box<[Share]>,
    /// Those of outboxes whose frames are compressed.
    compressed: Box<[Share]>,
    /// Which of these gets something next.
    next_compressed: AtomicUsize,
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
        let [shares, compressed] = [(); 2].map(|()| {
            let shares = available_parallelism().map_or(1, NonZero::get);
            (0..shares).map(|_| Share::default()).collect()
        });
        Flusher { shares, compressed, next_compressed: AtomicUsize::default(), lagging }
    }

    /// The sessions that wait for a replay.
    pub(crate) fn lagging(&self) -> &LaggingSessions {
        &self.lagging
    }

    /// Flushes these outboxes, now or soon, and empties the list.
    pub fn flush(&self, outboxes: &mut Vec<Arc<Outbox>>) {
        let mut compressed: Vec<_> = outboxes.extract_if(.., |outbox| outbox.is_compressed()).collect();
        if !compressed.is_empty() {
            // A few at a time would otherwise all go to the first.
            let first = self.next_compressed.fetch_add(1, Ordering::Relaxed) % self.compressed.len();
            let (before, from) = self.compressed.split_at(first);
            share_out(
                &mut compressed,
                from.iter().chain(before),
                MIN_COMPRESSED_SHARE,
                self.compressed.len(),
            );
        }
        if outboxes.len() > MIN_SHARE {
            share_out(outboxes, self.shares.iter(), MIN_SHARE, self.shares.len());
        } else {
            outboxes.drain(..).for_each(|outbox| self.flush_one(outbox));
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
        for index in 0..self.shares.len() + self.compressed.len() {
            let (flusher, shutdown) = (Arc::clone(&self), shutdown.clone());
            tasks.spawn(async move {
                shutdown.run_until_cancelled(flusher.serve(index)).await;
            });
        }
        tasks.close();
        tasks.wait().await;
    }

    async fn serve(&self, index: usize) {
        let Some(share) = self.shares.iter().chain(&self.compressed).nth(index) else { return };
        loop {
            share.changed.notified().await;
            let waiting = std::mem::take(&mut *share.waiting.lock());
            for (index, outbox) in waiting.into_iter().enumerate() {
                let is_compressed = outbox.is_compressed();
                self.flush_one(outbox);
                if is_compressed || index % FLUSH_BATCH == FLUSH_BATCH - 1 {
                    tokio::task::yield_now().await;
                }
            }
        }
    }
}

/// Gives each task one run of these outboxes, of at least `min`.
fn share_out<'s>(
    outboxes: &mut Vec<Arc<Outbox>>,
    shares: impl Iterator<Item = &'s Share>,
    min: usize,
    count: usize,
) {
    let size = outboxes.len().div_ceil(count).max(min);
    for share in shares {
        if outboxes.is_empty() {
            break;
        }
        let rest = outboxes.len().saturating_sub(size);
        share.waiting.lock().extend(outboxes.drain(rest..));
        share.changed.notify_one();
    }
}
