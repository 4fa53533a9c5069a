//! Budgets: how much each of many accounts or clients may use per second.

use std::{
    borrow::Borrow,
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// The budgets of all accounts or clients `K`. Who has not used anything for a while may use a burst at once.
#[derive(Debug)]
pub(crate) struct Budgets<K> {
    per_second: f64,
    /// A burst is as much as may otherwise be used in this time.
    burst: Duration,
    /// When each will have paid for what it has used. Who could use a whole burst is not in here.
    paid: HashMap<K, Instant>,
}

impl<K: Hash + Eq + Clone> Budgets<K> {
    /// Each may use this much per second, and `burst` seconds' worth at once.
    pub(crate) fn new(per_second: f64, burst: Duration) -> Budgets<K> {
        Budgets { per_second, burst, paid: HashMap::new() }
    }

    /// Notes that `amount` was used.
    pub(crate) fn charge(&mut self, key: &K, amount: f64, now: Instant) {
        let full = now.checked_sub(self.burst).unwrap_or(now);
        let paid = self.paid.get(key).map_or(full, |paid| (*paid).max(full));
        let time = Duration::try_from_secs_f64(amount / self.per_second).unwrap_or(self.burst);
        if self.paid.len() == self.paid.capacity() {
            self.paid.retain(|_, paid| *paid > full);
        }
        self.paid.insert(key.clone(), paid + time);
    }

    /// When more may be used; `None`: now.
    pub(crate) fn exhausted_until<Q>(&self, key: &Q, now: Instant) -> Option<Instant>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.paid.get(key).copied().filter(|paid| *paid > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budgets() -> (Budgets<&'static str>, Instant) {
        (Budgets::new(1000.0, seconds(2)), Instant::now())
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_burst_may_be_used_at_once_and_is_paid_for() {
        let (mut budgets, now) = budgets();
        budgets.charge(&"a", 1999.0, now);
        assert_eq!(budgets.exhausted_until("a", now), None);
        budgets.charge(&"a", 3001.0, now);
        assert_eq!(budgets.exhausted_until("a", now), Some(now + seconds(3)));
        assert_eq!(budgets.exhausted_until("a", now + seconds(3)), None);
        assert_eq!(budgets.exhausted_until("b", now), None, "each has its own");
    }

    #[test]
    fn unused_time_adds_up_to_one_burst() {
        let (mut budgets, now) = budgets();
        budgets.charge(&"a", 1.0, now);
        let later = now + seconds(100);
        budgets.charge(&"a", 3000.0, later);
        assert_eq!(budgets.exhausted_until("a", later), Some(later + seconds(1)));
    }

    #[test]
    fn who_has_paid_is_forgotten() {
        let mut budgets: Budgets<u64> = Budgets::new(1000.0, seconds(2));
        let start = Instant::now();
        for second in 0..10_000 {
            budgets.charge(&second, 1000.0, start + seconds(second));
        }
        assert!(budgets.paid.len() < 20, "{}", budgets.paid.len());
    }
}
