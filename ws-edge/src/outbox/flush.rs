//! Writing what waits in an outbox to its socket.

use std::{io::ErrorKind, sync::atomic::Ordering};

use blackhole_common::clock;
use parking_lot::MutexGuard;

use super::{Flushed, Outbox, State, delivery_state::Stage, queue::Queue};

impl Outbox {
    /// Writes what waits, as far as the socket takes it.
    pub fn flush(&self) -> Flushed {
        let mut state = self.state.lock();
        state.scheduled = false;
        if state.failed {
            return Flushed::Failed;
        }
        while !state.queue.is_empty() {
            if self.is_compressed && self.compress(&mut state) {
                if state.failed {
                    return Flushed::Failed;
                }
                continue;
            }
            match state.queue.write_to(&*self.socket) {
                Ok(0) => return self.fail(state),
                Ok(written) => {
                    let frames = state.queue.sent(written);
                    self.metrics.frames.inc_by(frames);
                    self.metrics.frame_bytes.inc_by(written as u64);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    state.blocked = true;
                    self.note_sent(&mut state);
                    drop(state);
                    self.session.wake();
                    return Flushed::Blocked;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.fail(state),
            }
        }
        state.blocked = false;
        state.queue.shrink();
        let is_waiting = state.delivery.lag().is_some_and(|lag| lag.stage == Stage::Waiting);
        self.note_sent(&mut state);
        drop(state);
        if is_waiting { Flushed::Lagging } else { Flushed::Empty }
    }

    /// Compresses the next frames, if they are to be compressed, without keeping others from queueing more, which this flush
    /// then finds. Returns whether there were any.
    // Kept out of the way of sessions without compression.
    #[cold]
    fn compress(&self, state: &mut MutexGuard<'_, State>) -> bool {
        let frames = state.queue.compressible();
        if frames.is_empty() {
            return false;
        }
        state.scheduled = true;
        MutexGuard::unlocked(state, || frames.iter().for_each(|frame| frame.compress(&self.metrics)));
        state.scheduled = false;
        state.queue.settle();
        true
    }

    /// Frees the memory of an empty queue: a session without events sends so rarely that it would show in what an idle
    /// session costs.
    pub(crate) fn shrink(&self) {
        self.state.lock().queue.shrink_wholly();
    }

    fn fail(&self, mut state: MutexGuard<'_, State>) -> Flushed {
        state.failed = true;
        state.queue = Queue::default();
        drop(state);
        self.session.wake();
        Flushed::Failed
    }

    fn note_sent(&self, state: &mut State) {
        if !std::mem::take(&mut state.has_events) {
            return;
        }
        let elapsed = u64::try_from((clock::now() - self.created).as_millis()).unwrap_or(u64::MAX);
        self.last_event.store(elapsed, Ordering::Relaxed);
    }
}
