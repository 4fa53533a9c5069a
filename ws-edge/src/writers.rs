//! Flushing outboxes that have something to send.
//!
//! Up to a thousand are flushed at once, by whoever filled them: what they are made of is in this processor's cache, and
//! waking somebody else costs more than writing to many. More are shared out over one task for each worker thread, so
//! that a fan-out to thousands uses all of them and the reader of NATS goes on reading after some milliseconds. A
//! session's own task is only woken where its socket is full.

use std::{num::NonZero, sync::Arc, thread::available_parallelism};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    catchup::Wants,
    outbox::{Flushed, Outbox},
};

/// A task that is woken gets at least so many; fewer are flushed at once.
const LEAST_SHARE: usize = 1024;
/// A task that has flushed so many lets others have the thread.
const AT_ONCE: usize = 64;

/// The tasks that flush.
#[derive(Debug)]
pub struct Writers {
    shares: Box<[Share]>,
    wants: Arc<Wants>,
}

#[derive(Debug, Default)]
struct Share {
    /// Each outbox at most once: it is flagged until it is flushed.
    waiting: Mutex<Vec<Arc<Outbox>>>,
    changed: Notify,
}

impl Writers {
    /// One share for each processor. Sessions that lag and have nothing waiting any more go to `wants`.
    pub fn new(wants: Arc<Wants>) -> Writers {
        let shares = available_parallelism().map_or(1, NonZero::get);
        Writers { shares: (0..shares).map(|_| Share::default()).collect(), wants }
    }

    /// Who want to be brought up to date.
    pub fn wants(&self) -> &Wants {
        &self.wants
    }

    /// Flushes these, now or soon; leaves the list empty.
    pub fn flush(&self, outboxes: &mut Vec<Arc<Outbox>>) {
        if outboxes.len() <= LEAST_SHARE {
            outboxes.drain(..).for_each(|outbox| self.flush_one(outbox));
            return;
        }
        let size = outboxes.len().div_ceil(self.shares.len()).max(LEAST_SHARE);
        for share in &self.shares {
            if outboxes.is_empty() {
                break;
            }
            let rest = outboxes.len().saturating_sub(size);
            share.waiting.lock().extend(outboxes.drain(rest..));
            share.changed.notify_one();
        }
    }

    /// Flushes one, now.
    pub fn flush_one(&self, outbox: Arc<Outbox>) {
        if outbox.flush() == Flushed::Lagging {
            self.wants.add(outbox);
        }
    }

    /// Serves the shares until `shutdown`.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let tasks = tokio_util::task::TaskTracker::new();
        for index in 0..self.shares.len() {
            let (writers, shutdown) = (Arc::clone(&self), shutdown.clone());
            tasks.spawn(async move {
                shutdown.run_until_cancelled(writers.serve(index)).await;
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
                if index % AT_ONCE == AT_ONCE - 1 {
                    tokio::task::yield_now().await;
                }
            }
        }
    }
}
