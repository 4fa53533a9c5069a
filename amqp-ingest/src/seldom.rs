//! Log lines that someone else's mistake causes: one in a while, with the number of those left out.

use tokio::time::{Duration, Instant};

/// Between two lines.
const INTERVAL: Duration = Duration::from_secs(10);

/// Lets one line through in [`INTERVAL`].
#[derive(Debug)]
pub(crate) struct Seldom {
    next: Instant,
    left_out: u64,
}

impl Seldom {
    /// The first line passes.
    pub(crate) fn new() -> Seldom {
        Seldom { next: Instant::now(), left_out: 0 }
    }

    /// If a line may be written now: how many were left out before it.
    pub(crate) fn pass(&mut self) -> Option<u64> {
        if Instant::now() < self.next {
            self.left_out += 1;
            return None;
        }
        self.next = Instant::now() + INTERVAL;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_passes_and_the_next_tells_what_it_missed() {
        let mut seldom = Seldom::new();
        assert_eq!(seldom.pass(), Some(0));
        assert_eq!((seldom.pass(), seldom.pass()), (None, None));
        seldom.next = Instant::now();
        assert_eq!(seldom.pass(), Some(2));
    }
}
