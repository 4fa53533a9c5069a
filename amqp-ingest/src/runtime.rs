//! A single-threaded runtime that batches I/O under load.
//!
//! Waking the thread for each readable socket costs more than forwarding an event. While events follow each other
//! closely, the thread therefore sleeps (`amqp.batch_delay`) before it polls its sockets again, and then handles
//! everything that has arrived as one batch. Its peers receive batches in turn. Network cards do the same (interrupt
//! coalescing). An event that arrives after an idle period is not delayed.

use std::{
    cell::Cell,
    io, thread,
    time::{Duration, Instant},
};

use tokio::runtime::{Builder, Runtime};

/// The thread is busy if it last parked less than this ago.
const BUSY_WINDOW: Duration = Duration::from_millis(1);

thread_local! {
    static LAST_PARK: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Builds the runtime, with timers and I/O enabled. While it is busy, it delays each event by at most `batch_delay`.
///
/// # Errors
/// Returns the operating system's error if the I/O driver cannot be created.
pub fn single_threaded(batch_delay: Duration) -> io::Result<Runtime> {
    let mut runtime = Builder::new_current_thread();
    if !batch_delay.is_zero() {
        runtime.on_thread_park(move || sleep_if_busy(batch_delay));
    }
    runtime.enable_all().build()
}

/// Called when the thread has no task left to run.
fn sleep_if_busy(batch_delay: Duration) {
    if LAST_PARK.get().is_some_and(|last| last.elapsed() < BUSY_WINDOW) {
        thread::sleep(batch_delay);
    }
    LAST_PARK.set(Some(Instant::now()));
}
