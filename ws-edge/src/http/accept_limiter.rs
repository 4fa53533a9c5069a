//! How fast new sessions are accepted: a storm of clients becomes a queue, not a collapse.

use std::time::Duration;

use hyper::{StatusCode, header};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::refusal::Refusal;

/// New sessions that would have to wait longer are refused.
const MAX_WAIT: Duration = Duration::from_secs(5);
/// Sessions of this time may come at once.
const BURST: Duration = Duration::from_secs(1);

/// Gives each new session a time to begin.
#[derive(Debug)]
pub(super) struct AcceptLimiter {
    interval: Duration,
    /// When the next session may begin.
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

    /// Waits until a new session may begin.
    pub(super) async fn wait(&self) -> Result<(), Refusal> {
        let turn = self.reserve(Instant::now())?;
        tokio::time::sleep_until(turn).await;
        Ok(())
    }

    fn reserve(&self, now: Instant) -> Result<Instant, Refusal> {
        let mut next = self.next.lock();
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let turn = (*next).max(earliest);
        if turn.saturating_duration_since(now) > MAX_WAIT {
            let text = "too many sessions begin at the moment, come back in a few seconds";
            return Err(
                Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "pace", text).with(header::RETRY_AFTER, "5")
            );
        }
        *next = turn + self.interval;
        Ok(turn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_storm_becomes_a_queue_and_the_rest_is_refused() {
        let limiter = AcceptLimiter::new(100);
        let now = Instant::now() + Duration::from_secs(60);
        let turns: Vec<_> = (0..700).map(|_| limiter.reserve(now)).collect();
        let waits = |turn: &Result<Instant, Refusal>| {
            turn.as_ref().ok().map(|turn| turn.saturating_duration_since(now))
        };
        assert_eq!(waits(&turns[0]), Some(Duration::ZERO));
        assert_eq!(waits(&turns[100]), Some(Duration::ZERO), "a second's worth at once");
        assert_eq!(waits(&turns[300]), Some(Duration::from_secs(2)));
        assert_eq!(waits(&turns[600]), Some(Duration::from_secs(5)));
        assert_eq!(waits(&turns[601]), None);
        assert_eq!(turns[699].as_ref().err().unwrap().status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(limiter.reserve(now + Duration::from_secs(1)).is_ok(), "room again");
    }
}
