//! Limits log lines that external input can trigger.

use tokio::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(10);

/// Permits one log line per [`INTERVAL`] and counts the suppressed ones.
#[derive(Debug)]
pub(crate) struct LogThrottle {
    next: Option<Instant>,
    suppressed: u64,
}

impl LogThrottle {
    /// A throttle that permits the first line.
    pub(crate) fn new() -> LogThrottle {
        LogThrottle { next: None, suppressed: 0 }
    }

    /// Returns the number of lines suppressed since the last permitted one, or `None` if this line is suppressed too.
    pub(crate) fn permit(&mut self) -> Option<u64> {
        self.permit_at(Instant::now())
    }

    fn permit_at(&mut self, now: Instant) -> Option<u64> {
        if self.next.is_some_and(|next| now < next) {
            self.suppressed += 1;
            return None;
        }
        self.next = Some(now + INTERVAL);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_interval_is_permitted_and_reports_the_suppressed_ones() {
        let mut throttle = LogThrottle::new();
        let start = Instant::now();
        let just_before = start + INTERVAL - Duration::from_nanos(1);
        assert_eq!(throttle.permit_at(start), Some(0));
        assert_eq!(throttle.permit_at(start), None);
        assert_eq!(throttle.permit_at(just_before), None);
        assert_eq!(throttle.permit_at(start + INTERVAL), Some(2));
        assert_eq!(throttle.permit_at(start + INTERVAL), None);
        assert_eq!(throttle.permit_at(start + 2 * INTERVAL), Some(1));
    }
}
