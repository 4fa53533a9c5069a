//! A token bucket: how fast one session may send requests.

use std::time::{Duration, Instant};

use crate::config::RateConfig;

/// The requests that a session has left.
#[derive(Debug)]
pub(super) struct RateLimiter {
    config: RateConfig,
    tokens: f64,
    at: Instant,
}

impl RateLimiter {
    /// A full bucket.
    pub(super) fn new(config: RateConfig, now: Instant) -> RateLimiter {
        RateLimiter { config, tokens: f64::from(config.burst), at: now }
    }

    /// Takes one request out, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let elapsed: Duration = now.saturating_duration_since(self.at);
        self.at = now;
        self.tokens = (self.tokens + elapsed.as_secs_f64() * f64::from(self.config.per_second))
            .min(f64::from(self.config.burst));
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_refill() {
        let start = Instant::now();
        let mut rate = RateLimiter::new(RateConfig { burst: 3, per_second: 2 }, start);
        assert!((0..3).all(|_| rate.take(start)));
        assert!(!rate.take(start));
        assert!(rate.take(start + Duration::from_millis(500)));
        assert!(!rate.take(start + Duration::from_millis(500)));
        let later = start + Duration::from_secs(60);
        assert_eq!((0..10).filter(|_| rate.take(later)).count(), 3, "never more than the burst");
    }
}
