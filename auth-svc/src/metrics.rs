//! What auth-svc counts.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// `accepted`, `denied` (a good token, but not for that account), `refused` (no good token), `malformed` (no
    /// request), `unavailable` (no verdict), `dropped` (too many at once).
    pub outcome: &'static str,
    /// Why, where there is more to say.
    pub reason: &'static str,
}

/// What became of a changed file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReloadLabels {
    /// `accounts` or `keys`.
    pub what: &'static str,
    /// `ok`, or why not.
    pub result: &'static str,
}

/// What auth-svc counts.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    duration: Histogram,
    reloads: Family<ReloadLabels, Counter>,
    /// Accounts in force.
    pub accounts: Gauge,
    /// Public keys in force.
    pub keys: Gauge,
}

impl Metrics {
    /// Metrics in this registry.
    pub fn new(registry: &mut Registry) -> Metrics {
        let metrics = Metrics {
            requests: Family::default(),
            // 0.1 ms (HS256) to 1.6 s; RSA takes about 0.2 ms.
            duration: Histogram::new(exponential_buckets(0.0001, 2.0, 15)),
            reloads: Family::default(),
            accounts: Gauge::default(),
            keys: Gauge::default(),
        };
        let unit = |name: &str| Unit::Other(name.to_owned());
        registry.register_with_unit(
            "auth",
            "Requests by outcome, and by reason where something was refused",
            unit("requests"),
            metrics.requests.clone(),
        );
        registry.register_with_unit(
            "auth_request_duration",
            "Time from a request's arrival to its answer",
            Unit::Seconds,
            metrics.duration.clone(),
        );
        registry.register_with_unit(
            "auth",
            "Reloads of changed files, by what they hold and by result",
            unit("reloads"),
            metrics.reloads.clone(),
        );
        registry.register_with_unit("auth", "Accounts in force", unit("accounts"), metrics.accounts.clone());
        registry.register_with_unit("auth", "Public keys in force", unit("keys"), metrics.keys.clone());
        metrics
    }

    /// Counts an answered request.
    pub fn answered(&self, outcome: &'static str, reason: Option<&'static str>, took: Duration) {
        let labels = RequestLabels { outcome, reason: reason.unwrap_or_default() };
        self.requests.get_or_create(&labels).inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// Counts a request that arrived when too many were waiting.
    pub fn dropped(&self) {
        self.requests.get_or_create(&RequestLabels { outcome: "dropped", reason: "" }).inc();
    }

    /// Counts a reload.
    pub fn reloaded(&self, what: &'static str, result: &'static str) {
        self.reloads.get_or_create(&ReloadLabels { what, result }).inc();
    }
}
