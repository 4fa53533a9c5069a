//! Readiness: one latch per thing that a service waits for. Of things that are several of a kind one is enough.

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
    name: Arc<str>,
    /// The kind of those of which one is enough.
    kind: Option<&'static str>,
    ready: Arc<AtomicBool>,
}

impl Readiness {
    /// Adds a latch.
    pub fn latch(&self, name: &'static str) -> Latch {
        self.add(name.into(), None)
    }

    /// Adds the latch of one thing of several of this kind, all of which it is one of: the service is ready while one
    /// of them is there.
    pub fn latch_in_group(&self, kind: &'static str, name: &str) -> Latch {
        self.add(format!("{kind} {name}").into(), Some(kind))
    }

    fn add(&self, name: Arc<str>, kind: Option<&'static str>) -> Latch {
        let latch = Latch { name, kind, ready: Arc::default() };
        self.latches.lock().push(latch.clone());
        latch
    }

    /// The names of what is missing; none when ready.
    pub fn missing(&self) -> Vec<Arc<str>> {
        self.absent(true)
    }

    /// The names of what is missing and does not stand in the way of being ready, since others of its kind are there.
    pub fn degraded(&self) -> Vec<Arc<str>> {
        self.absent(false)
    }

    fn absent(&self, needed: bool) -> Vec<Arc<str>> {
        let latches = self.latches.lock();
        let is_needed = |latch: &Latch| {
            latch.kind.is_none() || !latches.iter().any(|other| other.kind == latch.kind && other.is_ready())
        };
        let absent = latches.iter().filter(|latch| !latch.is_ready() && is_needed(latch) == needed);
        absent.map(|latch| Arc::clone(&latch.name)).collect()
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
        assert_eq!(names(readiness.missing()), ["amqp", "nats"]);
        assert!(nats.set(true));
        assert!(!nats.set(true));
        assert_eq!(names(readiness.missing()), ["amqp"]);
        amqp.set(true);
        assert!(readiness.missing().is_empty());
    }

    #[test]
    fn one_of_a_kind_is_enough() {
        let readiness = Readiness::default();
        let nats = readiness.latch("nats");
        let (east, west) =
            (readiness.latch_in_group("amqp", "east"), readiness.latch_in_group("amqp", "west"));
        nats.set(true);
        assert_eq!(names(readiness.missing()), ["amqp east", "amqp west"]);
        assert!(readiness.degraded().is_empty());
        west.set(true);
        assert!(readiness.missing().is_empty());
        assert_eq!(names(readiness.degraded()), ["amqp east"]);
        east.set(true);
        assert!(readiness.degraded().is_empty());
        nats.set(false);
        west.set(false);
        assert_eq!(names(readiness.missing()), ["nats"]);
        assert_eq!(names(readiness.degraded()), ["amqp west"]);
    }

    fn names(latches: Vec<Arc<str>>) -> Vec<String> {
        latches.iter().map(|name| name.to_string()).collect()
    }
}
