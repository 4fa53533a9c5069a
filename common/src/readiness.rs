//! Readiness: one latch per thing that a service waits for.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;

/// All latches of a service.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    latches: Arc<Mutex<Vec<Latch>>>,
}

/// Whether one thing is there. Starts as not.
#[derive(Clone, Debug)]
pub struct Latch {
    name: &'static str,
    ready: Arc<AtomicBool>,
}

impl Readiness {
    /// Adds a latch.
    pub fn latch(&self, name: &'static str) -> Latch {
        let latch = Latch { name, ready: Arc::default() };
        self.latches.lock().push(latch.clone());
        latch
    }

    /// The names of what is missing; none when ready.
    pub fn missing(&self) -> Vec<&'static str> {
        self.latches.lock().iter().filter(|latch| !latch.is_ready()).map(|latch| latch.name).collect()
    }
}

impl Latch {
    /// Says whether the thing is there. Returns whether that is news.
    pub fn set(&self, ready: bool) -> bool {
        self.ready.swap(ready, Ordering::AcqRel) != ready
    }

    /// Whether the thing is there.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_all_latches_are() {
        let readiness = Readiness::default();
        assert!(readiness.missing().is_empty());
        let (amqp, nats) = (readiness.latch("amqp"), readiness.latch("nats"));
        assert_eq!(readiness.missing(), ["amqp", "nats"]);
        assert!(nats.set(true));
        assert!(!nats.set(true));
        assert_eq!(readiness.missing(), ["amqp"]);
        amqp.set(true);
        assert!(readiness.missing().is_empty());
    }
}
