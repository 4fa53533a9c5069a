//! Exponential backoff with full jitter, so that clients do not all reconnect to a restarted server at once.

use std::time::Duration;

use crate::chance;

/// Computes the delay before each retry.
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    attempt: u32,
}

impl Backoff {
    /// Delays start at `min`; their upper bound doubles with each attempt, up to `max`.
    pub fn new(min: Duration, max: Duration) -> Backoff {
        Backoff { min, max, attempt: 0 }
    }

    /// The backoff that services use for brokers: 100 ms to 5 s.
    pub fn for_brokers() -> Backoff {
        Backoff::new(Duration::from_millis(100), Duration::from_secs(5))
    }

    /// Starts over, after a success.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }

    /// The next delay: random between `min` and `min` doubled once per earlier attempt, at most `max`.
    pub fn next_wait(&mut self) -> Duration {
        let ceiling =
            self.min.saturating_mul(1u32.checked_shl(self.attempt).unwrap_or(u32::MAX)).min(self.max);
        self.attempt = self.attempt.saturating_add(1);
        self.min + ceiling.saturating_sub(self.min).mul_f64(chance::random::<f64>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_and_stay_within_bounds() {
        let (min, max) = (Duration::from_millis(10), Duration::from_secs(1));
        let mut backoff = Backoff::new(min, max);
        assert_eq!(backoff.next_wait(), min);
        let waits: Vec<Duration> = (0..100).map(|_| backoff.next_wait()).collect();
        for (wait, ceiling) in waits.iter().zip([20, 40, 80, 160, 320, 640].map(Duration::from_millis)) {
            assert!((min..=ceiling).contains(wait), "{wait:?} of {ceiling:?}");
        }
        assert!(waits.iter().all(|wait| (min..=max).contains(wait)), "{waits:?}");
        // Fails by chance once in 2^90 runs.
        assert!(waits.iter().skip(10).max() > Some(&(max / 2)), "{waits:?}");
        backoff.reset();
        assert_eq!(backoff.next_wait(), Duration::from_millis(10));
    }
}
