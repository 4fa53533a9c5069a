//! A runtime of one thread that takes events together while there are many.
//!
//! To wake a thread for a socket that has become readable costs more than to carry an event. While events come one after
//! the other, the thread therefore pauses for [`PAUSE`] before it looks at its sockets again, and finds all that has come
//! meanwhile at once: so do those to whom it writes. Network cards do the same with interrupts. An event that comes after
//! some silence is not delayed.

use std::{
    cell::Cell,
    io, thread,
    time::{Duration, Instant},
};

use tokio::runtime::{Builder, Runtime};

/// How long a busy thread does not look at its sockets: by so much an event comes later at most.
pub const PAUSE: Duration = Duration::from_micros(400);

/// A thread that last looked longer ago is not busy.
const BUSY: Duration = Duration::from_millis(1);

thread_local! {
    static LOOKED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Such a runtime, with timers and sockets.
///
/// # Errors
/// Those of the system.
pub fn of_one_thread() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().on_thread_park(pause).build()
}

/// Called when the thread has done what there was to do.
fn pause() {
    if LOOKED.get().is_some_and(|looked| looked.elapsed() < BUSY) {
        thread::sleep(PAUSE);
    }
    LOOKED.set(Some(Instant::now()));
}
