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

use crate::claims::unix_now;

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

/// The label of a question for a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct NumberLabel {
    /// `assigned`, `unassigned`, `unserved` (no source knows numbers), `malformed`, `unavailable`.
    pub outcome: &'static str,
}

/// The labels of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReloadLabels {
    /// `accounts` or `keys`.
    pub what: &'static str,
    /// `ok`, or the kind of error.
    pub result: &'static str,
}

/// The labels of a question to CouchDB or Crossbar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct QuestionLabels {
    /// `accounts`, `key`, `settings`, `identity`, `owned` or `number`; of Crossbar `token`, `account` or `tree`.
    pub what: &'static str,
    /// `ok`, `none` (there is no such document or key; Crossbar has refused), or the kind of error.
    pub result: &'static str,
}

/// The label of a database in CouchDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DatabaseLabel {
    /// Its name.
    pub database: &'static str,
}

/// The labels of a question to an issuer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FetchLabels {
    /// The issuer's name in the configuration.
    pub issuer: String,
    /// `ok`, or the kind of error.
    pub result: &'static str,
}

/// The label of an issuer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct IssuerLabel {
    /// Its name in the configuration.
    pub issuer: String,
}

/// The metrics of issuers whose keys are read over HTTP.
#[derive(Clone, Debug, Default)]
pub struct IssuerMetrics {
    fetches: Family<FetchLabels, Counter>,
    read_at: Family<IssuerLabel, Gauge>,
    keys: Family<IssuerLabel, Gauge>,
}

impl IssuerMetrics {
    /// Counts a question for keys: how many there are, or the kind of error.
    pub fn fetched(&self, issuer: &str, result: Result<usize, &'static str>) {
        let labels = |result| FetchLabels { issuer: issuer.to_owned(), result };
        self.fetches.get_or_create(&labels(result.err().unwrap_or("ok"))).inc();
        if let Ok(count) = result {
            let label = IssuerLabel { issuer: issuer.to_owned() };
            self.read_at.get_or_create(&label).set(i64::try_from(unix_now()).unwrap_or(i64::MAX));
            self.keys.get_or_create(&label).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "auth_issuer",
            "Questions for the keys of an issuer, by result",
            Unit::Other("fetches".to_owned()),
            self.fetches.clone(),
        );
        registry.register_with_unit(
            "auth_issuer_read_timestamp",
            "When the keys of an issuer were last read, in Unix time",
            Unit::Seconds,
            self.read_at.clone(),
        );
        registry.register_with_unit(
            "auth_issuer",
            "Keys of an issuer that were read over HTTP",
            Unit::Other("keys".to_owned()),
            self.keys.clone(),
        );
    }
}

/// The metrics of auth-svc.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Issuers whose keys are read over HTTP.
    pub issuers: IssuerMetrics,
    crossbar_questions: Family<QuestionLabels, Counter>,
    crossbar_heard_at: Gauge,
    requests: Family<RequestLabels, Counter>,
    duration: Histogram,
    numbers: Family<NumberLabel, Counter>,
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
            issuers: IssuerMetrics::default(),
            crossbar_questions: Family::default(),
            crossbar_heard_at: Gauge::default(),
            requests: Family::default(),
            // 0.1 ms to 1.6 s. A verification takes less; what waits behind a flood takes longer.
            duration: Histogram::new(exponential_buckets(0.0001, 2.0, 15)),
            numbers: Family::default(),
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
            "Questions whose a dialled number is, by outcome",
            unit("numbers"),
            metrics.numbers.clone(),
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
        metrics.issuers.register(registry);
        registry.register_with_unit(
            "auth_crossbar",
            "Questions to Crossbar, by what was asked for and by result",
            unit("questions"),
            metrics.crossbar_questions.clone(),
        );
        registry.register_with_unit(
            "auth_crossbar_heard_timestamp",
            "When Crossbar last gave a usable answer, in Unix time",
            Unit::Seconds,
            metrics.crossbar_heard_at.clone(),
        );
        metrics
    }

    /// Counts a question to Crossbar: whether it has confirmed something, or the kind of error.
    pub fn asked_crossbar(&self, what: &'static str, result: Result<bool, &'static str>) {
        if result.is_ok() {
            self.crossbar_heard_at.set(i64::try_from(unix_now()).unwrap_or(i64::MAX));
        }
        let result = match result {
            Ok(true) => "ok",
            Ok(false) => "none",
            Err(kind) => kind,
        };
        self.crossbar_questions.get_or_create(&QuestionLabels { what, result }).inc();
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

    /// Counts an answered question for a number.
    pub fn number(&self, outcome: &'static str) {
        self.numbers.get_or_create(&NumberLabel { outcome }).inc();
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
