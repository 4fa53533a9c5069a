//! The time that passes: for deadlines and time limits.

use std::time::Instant;

/// The current time. Inside a runtime whose clock is paused it is the runtime's: the simulator's time is not the machine's.
#[must_use]
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
