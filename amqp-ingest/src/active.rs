//! Whether this process is the active consumer of a queue, or stands by while another ingest is.
//!
//! The broker does not tell. A process is active if nobody else consumed the queue when it connected, or once it has
//! received a delivery on its connection.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Of one queue. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct ActiveConsumer(Arc<AtomicBool>);

impl ActiveConsumer {
    /// Changes it.
    pub(crate) fn set(&self, is_active: bool) {
        self.0.store(is_active, Ordering::Relaxed);
    }

    /// Whether this process is the active consumer.
    pub(crate) fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
