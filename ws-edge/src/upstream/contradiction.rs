//! Answers about the stream that contradict what is known, or cannot be believed at once.

use std::time::{Duration, Instant};

/// They are not believed before they have come for this long, nothing else between them,
pub(super) const STALE_TIMEOUT: Duration = Duration::from_secs(15);
/// and this many times.
pub(super) const MIN_STALE: u32 = 10;

/// Contradicting answers in a row.
#[derive(Debug, Default)]
pub(super) struct Contradictions {
    /// When the first came, and how many there were.
    row: Option<(Instant, u32)>,
}

impl Contradictions {
    /// An answer has come. Returns whether to believe it.
    pub(super) fn is_believed(&mut self, is_doubtful: bool, now: Instant) -> bool {
        if !is_doubtful {
            self.row = None;
            return true;
        }
        let (since, count) = self.row.get_or_insert((now, 0));
        *count += 1;
        let is_believed = now - *since >= STALE_TIMEOUT && *count >= MIN_STALE;
        self.row.take_if(|_| is_believed);
        is_believed
    }
}
