//! A histogram of durations with buckets of at most 3 % width, and the exact maximum.

use serde::{Deserialize, Serialize};

/// Buckets per power of two.
const STEPS: u64 = 32;
const BITS: u32 = STEPS.trailing_zeros();

/// Counts of durations in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Histogram {
    /// Adds a duration.
    pub(crate) fn record(&mut self, nanos: u64) {
        let index = bucket(nanos);
        if index >= self.counts.len() {
            self.counts.resize(index + 1, 0);
        }
        if let Some(count) = self.counts.get_mut(index) {
            *count += 1;
        }
        self.total += 1;
        self.max = self.max.max(nanos);
    }

    /// Adds the counts of another histogram.
    pub(crate) fn add(&mut self, other: &Histogram) {
        if other.counts.len() > self.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (own, more) in self.counts.iter_mut().zip(&other.counts) {
            *own += more;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// The number of durations.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// The longest duration in milliseconds.
    pub(crate) fn max_ms(&self) -> f64 {
        self.max as f64 / 1e6
    }

    /// A quantile (0 to 1) in milliseconds, rounded up to the end of its bucket; 0 if the histogram is empty.
    pub(crate) fn quantile_ms(&self, quantile: f64) -> f64 {
        let rank = ((self.total as f64 * quantile).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return end_of(index).min(self.max) as f64 / 1e6;
            }
        }
        0.0
    }
}

fn bucket(nanos: u64) -> usize {
    let shift = (u64::BITS - nanos.leading_zeros()).saturating_sub(BITS + 1);
    (u64::from(shift) * STEPS + (nanos >> shift)) as usize
}

fn end_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket / STEPS).saturating_sub(1);
    ((bucket - shift * STEPS + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_falls_into_the_bucket_that_ends_at_or_after_it() {
        for nanos in (0..5_000_u64).chain([1_000_000, 123_456_789, u64::from(u32::MAX)]) {
            let end = end_of(bucket(nanos));
            assert!(end >= nanos && end - nanos <= nanos / STEPS, "{nanos} ends at {end}");
            assert_eq!(bucket(end), bucket(nanos));
            assert_eq!(bucket(end + 1), bucket(nanos) + 1);
        }
    }

    #[test]
    fn quantiles_cover_added_histograms() {
        let (mut fast, mut slow) = (Histogram::default(), Histogram::default());
        (0..99).for_each(|_| fast.record(1_000_000));
        slow.record(80_000_000);
        fast.add(&slow);
        assert_eq!(fast.total(), 100);
        assert!((fast.quantile_ms(0.5) - 1.0).abs() < 0.04);
        assert!((fast.quantile_ms(0.99) - 1.0).abs() < 0.04);
        assert_eq!((fast.quantile_ms(1.0), fast.max_ms()), (80.0, 80.0));
        assert_eq!(Histogram::default().quantile_ms(0.5), 0.0);
    }
}
