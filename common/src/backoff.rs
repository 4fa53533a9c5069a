//! Waiting between attempts: doubling, with full jitter, so that many clients of a server that comes back do not
//! come at once.

use std::time::Duration;

/// The time to wait before the next attempt.
#[derive(Clone, Debug)]
pub struct Backoff {
    least: Duration,
    most: Duration,
    attempt: u32,
}

impl Backoff {
    /// Waits between `least` and, doubling, `most`.
    pub fn new(least: Duration, most: Duration) -> Backoff {
        Backoff { least, most, attempt: 0 }
    }

    /// What services use towards brokers: 100 ms to 5 s.
    pub fn for_brokers() -> Backoff {
        Backoff::new(Duration::from_millis(100), Duration::from_secs(5))
    }

    /// Begins anew, after a success.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }

    /// The next time to wait: at least `least`, at most its double for each attempt so far.
    pub fn next_wait(&mut self) -> Duration {
        let ceiling =
            self.least.saturating_mul(1u32.checked_shl(self.attempt).unwrap_or(u32::MAX)).min(self.most);
        self.attempt = self.attempt.saturating_add(1);
        self.least + ceiling.saturating_sub(self.least).mul_f64(rand::random::<f64>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_between_the_bounds_and_grow() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
        assert_eq!(backoff.next_wait(), Duration::from_millis(10));
        let waits: Vec<Duration> = (0..100).map(|_| backoff.next_wait()).collect();
        assert!(waits.iter().all(|wait| (10..=1000).contains(&wait.as_millis())));
        assert!(waits.iter().skip(10).max() > Some(&Duration::from_millis(200)));
        backoff.reset();
        assert_eq!(backoff.next_wait(), Duration::from_millis(10));
    }
}
