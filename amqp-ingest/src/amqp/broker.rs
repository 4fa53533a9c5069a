//! What the modules that consume from one broker share.

use std::sync::Arc;

use blackhole_common::{catalogue::Catalogue, net::Dial};
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use tokio::sync::mpsc;

use super::checkpoints::CheckpointQueue;
use crate::{
    active::ActiveConsumer,
    config::{AmqpConfig, BrokerConfig},
    metrics::Metrics,
    publish::FromConsumer,
};

/// One broker, and where its events go.
#[derive(Debug)]
pub(crate) struct BrokerContext {
    /// The index of the broker in the configuration.
    pub(crate) source: usize,
    /// The broker's URL and zone.
    pub(crate) endpoint: BrokerConfig,
    /// The network on which it is.
    pub(crate) network: Arc<dyn Dial>,
    /// The queue there.
    pub(crate) config: AmqpConfig,
    /// The queue for its checkpoints.
    pub(crate) checkpoints: Arc<dyn CheckpointQueue>,
    /// Whether events are stored, so that acknowledgements have checkpoints.
    pub(crate) has_history: bool,
    /// The first tokens of the events' subjects.
    pub(crate) subject_root: String,
    /// The bindings, and how to interpret events.
    pub(crate) catalogue: Arc<Catalogue>,
    /// The publisher's queue.
    pub(crate) publisher: mpsc::Sender<FromConsumer>,
    /// Whether this process is the queue's active consumer.
    pub(crate) active: ActiveConsumer,
    /// All metrics.
    pub(crate) metrics: Metrics,
    /// The metrics with this broker's labels.
    pub(crate) counters: BrokerCounters,
}

/// The metrics with the labels of one broker, looked up once.
#[derive(Debug)]
pub(crate) struct BrokerCounters {
    /// Events received, by the index of their family in the catalogue.
    pub(crate) received: Vec<Counter>,
    /// Unacknowledged deliveries.
    pub(crate) in_flight: Gauge,
}

impl BrokerCounters {
    /// The metrics of a zone's broker.
    pub(crate) fn for_zone(zone: &str, metrics: &Metrics) -> BrokerCounters {
        BrokerCounters { received: metrics.received(zone), in_flight: metrics.in_flight(zone) }
    }
}
