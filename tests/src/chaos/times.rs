//! How long something took, as a report shows it.

use std::{fmt, time::Duration};

/// Shows the number of these times, and their distribution.
pub(super) struct Times<'t>(pub(super) &'t [Duration]);

impl fmt::Display for Times<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut times = self.0.to_vec();
        times.sort();
        let last = times.len().saturating_sub(1);
        let at = |part: f64| times.get((last as f64 * part) as usize).copied().unwrap_or_default();
        write!(f, "({}): p50 {:.1?}, p99 {:.1?}, max {:.1?}", times.len(), at(0.5), at(0.99), at(1.0))
    }
}
