//! A publisher without servers, for tests of its decisions.

use blackhole_common::{catalogue::Catalogue, readiness::Readiness, telemetry, wire::Subjects};
use tokio::{sync::mpsc, time::Duration};

use super::{Publisher, stream::StreamState};
use crate::{
    active::ActiveConsumer, config::HistoryConfig, connection_status::ConnectionStatus, metrics::Metrics,
};

impl Publisher {
    /// A publisher of the events of these zones, into a stream that ends at position 10.
    pub(super) fn for_tests(zones: &[&str]) -> (Publisher, Metrics) {
        let metrics = Metrics::register(&mut telemetry::registry("test"), &Catalogue::load(None).unwrap());
        let latch = Readiness::default().latch("nats");
        let status = ConnectionStatus::new("nats", "nats://test".into(), latch, &metrics);
        let (_, events) = mpsc::channel(1);
        let (subjects, history) = (Subjects::new("blackhole.v1"), HistoryConfig::default());
        let zones: Vec<_> =
            zones.iter().map(|zone| ((*zone).to_owned(), ActiveConsumer::default())).collect();
        let interval = Duration::from_secs(30);
        let mut publisher =
            Publisher::new(subjects, history, &zones, interval, events, status, metrics.clone());
        publisher.stream = Some(StreamState { id: 5, first: 1, last: 10 });
        (publisher, metrics)
    }
}
