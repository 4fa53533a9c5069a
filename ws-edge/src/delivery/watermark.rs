//! Up to which position of the stream a member has been served.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// A member that has left is served up to here, so that no replay that still knows it serves it again.
const LEFT: u64 = u64::MAX;

/// Up to which position of the stream a member has been served. It never gets an event at or below its watermark again,
/// whatever brings that event: a live message, a repair, or a replay.
///
/// In a NATS cluster a leader that dies may take live events with it; they are *late*. So there are two positions: up to
/// `served` the member had what came live, up to `complete` it had everything. What was read from the stream, and what
/// is older than the member, is complete.
#[derive(Debug)]
pub(crate) struct Watermark {
    served: AtomicU64,
    complete: AtomicU64,
}

/// The positions of a [`Watermark`] at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Positions {
    served: u64,
    complete: u64,
}

impl Positions {
    /// Of a member that is owed events after `position`.
    pub(crate) fn at(position: u64) -> Positions {
        Positions { served: position, complete: position }
    }

    /// These, but owed only events after `position`.
    pub(crate) fn after(self, position: u64) -> Positions {
        Positions { served: self.served.max(position), complete: self.complete.max(position) }
    }
}

impl Watermark {
    /// Of a member that has been served as far as that.
    pub(crate) fn of(Positions { served, complete }: Positions) -> Arc<Watermark> {
        Arc::new(Watermark { served: AtomicU64::new(served), complete: AtomicU64::new(complete) })
    }

    /// How far the member has been served.
    pub(crate) fn positions(&self) -> Positions {
        Positions { served: self.served(), complete: self.complete.load(Ordering::Relaxed) }
    }

    /// Up to which position the member has been served.
    pub(crate) fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Whether the member is owed a live or replayed event at this position.
    pub(crate) fn is_owed(&self, position: u64) -> bool {
        position > self.served()
    }

    /// Whether the member is owed a late event at this position.
    pub(crate) fn is_owed_late(&self, position: u64) -> bool {
        !self.is_complete(position)
    }

    /// Whether everything up to `position` has been served.
    pub(crate) fn is_complete(&self, position: u64) -> bool {
        position <= self.complete.load(Ordering::Relaxed)
    }

    /// The member has been served up to `position`; something before it may be late.
    pub(crate) fn raise(&self, position: u64) {
        self.served.fetch_max(position, Ordering::Relaxed);
    }

    /// Nothing up to `position` is late.
    pub(crate) fn complete(&self, position: u64) {
        self.complete.fetch_max(position, Ordering::Relaxed);
    }

    /// The member is owed events after `position`, whatever it was served before.
    pub(crate) fn set(&self, position: u64) {
        self.served.store(position, Ordering::Relaxed);
        self.complete.store(position, Ordering::Relaxed);
    }

    /// Positions after `position` are given anew.
    pub(crate) fn lower(&self, position: u64) {
        if self.served() != LEFT {
            self.served.fetch_min(position, Ordering::Relaxed);
            self.complete.fetch_min(position, Ordering::Relaxed);
        }
    }

    /// The member has left.
    pub(crate) fn leave(&self) {
        self.set(LEFT);
    }

    /// The stream was replaced: its positions begin anew.
    pub(crate) fn reset(&self) {
        if self.served() != LEFT {
            self.set(0);
        }
    }
}
