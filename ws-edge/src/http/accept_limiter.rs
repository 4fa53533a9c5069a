//! The rate limit of new sessions: when many clients connect at once, they queue instead of overloading the edge.

use std::time::Duration;

use hyper::{StatusCode, header};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::refusal::Refusal;

/// Sessions that would wait longer are refused.
const MAX_WAIT: Duration = Duration::from_secs(5);
/// Sessions of this time may start at once.
const BURST: Duration = Duration::from_secs(1);

/// Schedules the start of each new session.
#[derive(Debug)]
pub(super) struct AcceptLimiter {
    interval: Duration,
    /// When the next session may start.
    next: Mutex<Instant>,
}

impl AcceptLimiter {
    /// At most `per_second`, after a burst of one second's worth.
    pub(super) fn new(per_second: u32) -> AcceptLimiter {
        AcceptLimiter {
            interval: Duration::from_secs(1) / per_second.max(1),
            next: Mutex::new(Instant::now()),
        }
    }

    /// Waits until a new session may start.
    pub(super) async fn wait(&self) -> Result<(), Refusal> {
        let start = self.reserve(Instant::now())?;
        tokio::time::sleep_until(start).await;
        Ok(())
    }

    fn reserve(&self, now: Instant) -> Result<Instant, Refusal> {
        let mut next = self.next.lock();
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let start = (*next).max(earliest);
        if start.saturating_duration_since(now) > MAX_WAIT {
            let text = "too many sessions begin at the moment, come back in a few seconds";
            return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "pace", text)
                .with_header(header::RETRY_AFTER, "5"));
        }
        *next = start + self.interval;
        Ok(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn sessions_wait_at_most_five_seconds_and_others_are_refused() {
        let limiter = AcceptLimiter::new(100);
        let now = Instant::now() + Duration::from_secs(60);
        let starts: Vec<_> = (0..700).map(|_| limiter.reserve(now)).collect();
        let waits = |start: &Result<Instant, Refusal>| {
            start.as_ref().ok().map(|start| start.saturating_duration_since(now))
        };
        assert_eq!(waits(&starts[0]), Some(Duration::ZERO));
        assert_eq!(waits(&starts[100]), Some(Duration::ZERO), "the burst of one second");
        assert_eq!(waits(&starts[300]), Some(Duration::from_secs(2)));
        assert_eq!(waits(&starts[600]), Some(Duration::from_secs(5)));
        assert_eq!(waits(&starts[601]), None);
        assert_eq!(starts[699].as_ref().err().unwrap().status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(limiter.reserve(now + Duration::from_secs(1)).is_ok(), "the queue is shorter again");
    }
}
