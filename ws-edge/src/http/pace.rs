//! How fast new sessions are taken: a storm of clients becomes a queue, not a collapse.

use std::time::Duration;

use hyper::{StatusCode, header};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Refusal;

/// New sessions that would have to wait longer are told to come later.
const MOST_WAIT: Duration = Duration::from_secs(5);
/// So much of a second's worth is taken at once.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Gives every new session its turn.
#[derive(Debug)]
pub struct Pace {
    interval: Duration,
    /// When the next one's turn is.
    next: Mutex<Instant>,
}

impl Pace {
    /// Takes `per_second`, after a second's worth at once.
    pub fn new(per_second: u32) -> Pace {
        Pace { interval: Duration::from_secs(1) / per_second.max(1), next: Mutex::new(Instant::now()) }
    }

    /// Waits for the next turn.
    pub(super) async fn turn(&self) -> Result<(), Refusal> {
        let turn = self.place(Instant::now())?;
        tokio::time::sleep_until(turn).await;
        Ok(())
    }

    fn place(&self, now: Instant) -> Result<Instant, Refusal> {
        let mut next = self.next.lock();
        let earliest = now.checked_sub(AT_ONCE).unwrap_or(now);
        let turn = (*next).max(earliest);
        if turn.saturating_duration_since(now) > MOST_WAIT {
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
    async fn a_storm_becomes_a_queue_and_what_is_too_much_is_told_to_come_back() {
        let pace = Pace::new(100);
        let now = Instant::now() + Duration::from_secs(60);
        let turns: Vec<_> = (0..700).map(|_| pace.place(now)).collect();
        let waits = |turn: &Result<Instant, Refusal>| {
            turn.as_ref().ok().map(|turn| turn.saturating_duration_since(now))
        };
        assert_eq!(waits(&turns[0]), Some(Duration::ZERO));
        assert_eq!(waits(&turns[100]), Some(Duration::ZERO), "a second's worth at once");
        assert_eq!(waits(&turns[300]), Some(Duration::from_secs(2)));
        assert_eq!(waits(&turns[600]), Some(Duration::from_secs(5)));
        assert_eq!(waits(&turns[601]), None);
        assert_eq!(turns[699].as_ref().err().unwrap().status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(pace.place(now + Duration::from_secs(1)).is_ok(), "room again");
    }
}
