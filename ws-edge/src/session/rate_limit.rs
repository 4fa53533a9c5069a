//! The rate limit of a session's requests: a token bucket.

use std::time::Instant;

use crate::config::RateConfig;

/// A token bucket that refills continuously.
#[derive(Debug)]
pub(super) struct RateLimiter {
    config: RateConfig,
    tokens: f64,
    refilled: Instant,
}

impl RateLimiter {
    /// A full bucket.
    pub(super) fn new(config: RateConfig, now: Instant) -> RateLimiter {
        RateLimiter { config, tokens: f64::from(config.burst), refilled: now }
    }

    /// Takes a token. Returns whether there was one.
    pub(super) fn try_take(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.refilled);
        self.refilled = now;
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
    use std::time::Duration;

    use super::*;

    #[test]
    fn bursts_are_limited_and_the_bucket_refills() {
        let start = Instant::now();
        let mut rate = RateLimiter::new(RateConfig { burst: 3, per_second: 2 }, start);
        assert!((0..3).all(|_| rate.try_take(start)));
        assert!(!rate.try_take(start));
        assert!(rate.try_take(start + Duration::from_millis(500)));
        assert!(!rate.try_take(start + Duration::from_millis(500)));
        let later = start + Duration::from_secs(60);
        assert_eq!((0..10).filter(|_| rate.try_take(later)).count(), 3, "the bucket holds at most one burst");
    }
}
