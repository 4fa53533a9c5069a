//! Readiness: one latch per dependency of a service. In a group of equivalent dependencies one is enough, and optional
//! ones are only told.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};

/// All latches of a service.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    latches: Arc<Mutex<Vec<Latch>>>,
}

/// Whether one dependency is available. Initially it is not.
#[derive(Clone, Debug)]
pub struct Latch {
    name: Arc<str>,
    need: Need,
    ready: Arc<AtomicBool>,
}

/// What a service needs of a dependency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// It has to be available.
    Required,
    /// One of this group has to be available.
    OneOf(&'static str),
    /// The service is ready without it.
    Optional,
}

impl Readiness {
    /// Adds the latch of a required dependency.
    pub fn latch(&self, name: &'static str) -> Latch {
        self.add(name.into(), Need::Required)
    }

    /// Adds the latch of a dependency in a group, of which one has to be available.
    pub fn latch_in_group(&self, group: &'static str, name: &str) -> Latch {
        self.add(format!("{group} {name}").into(), Need::OneOf(group))
    }

    /// Adds the latch of a dependency without which the service is ready, but not complete. It is available until it
    /// is known not to be.
    pub fn optional(&self, name: &str) -> Latch {
        let latch = self.add(name.into(), Need::Optional);
        latch.set(true);
        latch
    }

    fn add(&self, name: Arc<str>, need: Need) -> Latch {
        let latch = Latch { name, need, ready: Arc::default() };
        self.latches.lock().push(latch.clone());
        latch
    }

    /// The names of the missing dependencies that prevent readiness; empty when ready.
    pub fn missing(&self) -> Vec<Arc<str>> {
        self.unavailable(true)
    }

    /// The names of the missing dependencies that do not prevent readiness.
    pub fn degraded(&self) -> Vec<Arc<str>> {
        self.unavailable(false)
    }

    fn unavailable(&self, required: bool) -> Vec<Arc<str>> {
        let latches = self.latches.lock();
        let is_required = |latch: &Latch| match latch.need {
            Need::Required => true,
            Need::OneOf(_) => !latches.iter().any(|other| other.need == latch.need && other.is_ready()),
            Need::Optional => false,
        };
        let unavailable = latches.iter().filter(|latch| !latch.is_ready() && is_required(latch) == required);
        unavailable.map(|latch| Arc::clone(&latch.name)).collect()
    }
}

/// The metric `blackhole_part_ready`.
impl Collector for Readiness {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Whether a part is available (1) or missing (0), see /health/ready";
        let mut family = encoder.encode_descriptor("part_ready", help, None, MetricType::Gauge)?;
        for latch in &*self.latches.lock() {
            let labels = [("part", &*latch.name)];
            ConstGauge::new(i64::from(latch.is_ready())).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

impl Latch {
    /// Sets whether the dependency is available. Returns whether that changed.
    pub fn set(&self, ready: bool) -> bool {
        self.ready.swap(ready, Ordering::AcqRel) != ready
    }

    /// Whether the dependency is available.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_required_latches_must_be_ready() {
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
    fn one_latch_of_a_group_is_enough() {
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

    #[test]
    fn an_optional_latch_is_only_told() {
        let readiness = Readiness::default();
        let family = readiness.optional("family call");
        assert!(readiness.missing().is_empty() && readiness.degraded().is_empty());
        family.set(false);
        assert!(readiness.missing().is_empty());
        assert_eq!(names(readiness.degraded()), ["family call"]);
    }

    #[test]
    fn each_latch_is_in_the_metric() {
        let readiness = Readiness::default();
        readiness.latch("nats").set(true);
        readiness.optional("history").set(false);
        let mut registry = crate::telemetry::registry("test");
        registry.register_collector(Box::new(readiness));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in ["blackhole_part_ready{part=\"nats\"} 1", "blackhole_part_ready{part=\"history\"} 0"] {
            assert!(text.contains(line), "{text}");
        }
    }

    fn names(latches: Vec<Arc<str>>) -> Vec<String> {
        latches.iter().map(|name| name.to_string()).collect()
    }
}
