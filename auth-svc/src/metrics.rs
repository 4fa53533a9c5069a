//! The metrics of auth-svc.

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

/// The labels of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// `accepted`, `denied` (a valid token without access to the account), `refused` (an invalid token),
    /// `malformed` (an invalid request), `unavailable` (no decision possible), `dropped` (the queue was
    /// full).
    pub outcome: &'static str,
    /// The reason, if there is one.
    pub reason: &'static str,
}

/// The labels of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReloadLabels {
    /// `accounts` or `keys`.
    pub what: &'static str,
    /// `ok`, or the kind of error.
    pub result: &'static str,
}

/// The labels of a question to CouchDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct QuestionLabels {
    /// `accounts`, `key`, `settings` or `identity`.
    pub what: &'static str,
    /// `ok`, `none` (there is no such document or key), or the kind of error.
    pub result: &'static str,
}

/// The label of a database in CouchDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DatabaseLabel {
    /// Its name.
    pub database: &'static str,
}

/// The metrics of auth-svc.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    duration: Histogram,
    reloads: Family<ReloadLabels, Counter>,
    /// The number of accounts loaded.
    pub accounts: Gauge,
    /// The number of public keys loaded.
    pub keys: Gauge,
    questions: Family<QuestionLabels, Counter>,
    heard_at: Family<DatabaseLabel, Gauge>,
    /// The number of accounts in CouchDB.
    pub couchdb_accounts: Gauge,
    /// The number of keys read from CouchDB.
    pub couchdb_keys: Gauge,
}

impl Metrics {
    /// Registers the metrics.
    pub fn new(registry: &mut Registry) -> Metrics {
        let metrics = Metrics {
            requests: Family::default(),
            // 0.1 ms to 1.6 s. A verification takes less; what waits behind a flood takes longer.
            duration: Histogram::new(exponential_buckets(0.0001, 2.0, 15)),
            reloads: Family::default(),
            accounts: Gauge::default(),
            keys: Gauge::default(),
            questions: Family::default(),
            heard_at: Family::default(),
            couchdb_accounts: Gauge::default(),
            couchdb_keys: Gauge::default(),
        };
        let unit = |name: &str| Unit::Other(name.to_owned());
        registry.register_with_unit(
            "auth",
            "Requests by outcome and, if refused or denied, by reason",
            unit("requests"),
            metrics.requests.clone(),
        );
        registry.register_with_unit(
            "auth_request_duration",
            "Time from the arrival of a request to its reply",
            Unit::Seconds,
            metrics.duration.clone(),
        );
        registry.register_with_unit(
            "auth",
            "Reloads of changed files, by kind of file and by result",
            unit("reloads"),
            metrics.reloads.clone(),
        );
        registry.register_with_unit("auth", "Accounts loaded", unit("accounts"), metrics.accounts.clone());
        registry.register_with_unit("auth", "Public keys loaded", unit("keys"), metrics.keys.clone());
        registry.register_with_unit(
            "auth_couchdb",
            "Questions to CouchDB, by what was asked for and by result",
            unit("questions"),
            metrics.questions.clone(),
        );
        registry.register_with_unit(
            "auth_couchdb_heard_timestamp",
            "When the changes of a database were last heard of, in Unix time: every 4 s while they come",
            Unit::Seconds,
            metrics.heard_at.clone(),
        );
        registry.register_with_unit(
            "auth_couchdb",
            "Accounts read from CouchDB",
            unit("accounts"),
            metrics.couchdb_accounts.clone(),
        );
        registry.register_with_unit(
            "auth_couchdb",
            "Keys read from CouchDB",
            unit("keys"),
            metrics.couchdb_keys.clone(),
        );
        metrics
    }

    /// Counts a question to CouchDB: whether it has found something, or the kind of error.
    pub fn asked_couchdb(&self, what: &'static str, result: Result<bool, &'static str>) {
        let result = match result {
            Ok(true) => "ok",
            Ok(false) => "none",
            Err(kind) => kind,
        };
        self.questions.get_or_create(&QuestionLabels { what, result }).inc();
    }

    /// When the changes of a database were last heard of, in Unix seconds.
    pub fn heard_at(&self, database: &'static str) -> Gauge {
        self.heard_at.get_or_create(&DatabaseLabel { database }).clone()
    }

    /// Counts an answered request.
    pub fn answered(&self, outcome: &'static str, reason: Option<&'static str>, took: Duration) {
        let labels = RequestLabels { outcome, reason: reason.unwrap_or_default() };
        self.requests.get_or_create(&labels).inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// Counts a request that was dropped because the queue was full.
    pub fn dropped(&self) {
        self.requests.get_or_create(&RequestLabels { outcome: "dropped", reason: "" }).inc();
    }

    /// Counts a reload.
    pub fn reloaded(&self, what: &'static str, result: &'static str) {
        self.reloads.get_or_create(&ReloadLabels { what, result }).inc();
    }
}
