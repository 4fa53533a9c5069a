//! Whether the history can be read. Sessions that resume or lag wait until it can, so the operator is told.

use std::time::{Duration, Instant};

use blackhole_common::{clock, readiness::Latch};
use parking_lot::Mutex;

use crate::upstream::stream_info::StreamError;

/// Failures for this long are no passing disturbance.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether the history can be read.
#[derive(Debug)]
pub(super) struct Health {
    latch: Latch,
    /// Since when nothing but failures.
    failing_since: Mutex<Option<Instant>>,
}

impl Health {
    /// `latch` is ready until reading has failed for a while.
    pub(super) fn new(latch: Latch) -> Health {
        Health { latch, failing_since: Mutex::default() }
    }

    /// A replay was read.
    pub(super) fn succeeded(&self) {
        if self.failing_since.lock().take().is_some() && self.latch.set(true) {
            tracing::info!("the history can be read again");
        }
    }

    /// A replay could not be read.
    pub(super) fn failed(&self, error: &StreamError) {
        let since = *self.failing_since.lock().get_or_insert_with(clock::now);
        if clock::now() - since >= PATIENCE && self.latch.set(false) {
            tracing::error!(
                %error,
                "the history cannot be read, sessions that resume or lag wait: does the user have all permissions?"
            );
        }
    }
}
