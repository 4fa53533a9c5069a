//! The configuration: `[nats]`, `[log]`, `[admin]`, `[amqp]`, `[history]`, `[catalogue]`.

use std::{fmt, net::SocketAddr, time::Duration};

use blackhole_common::config::{
    AdminConfig, CatalogueConfig, Configuration, InvalidValue, LogConfig, NatsConfig, ServerUrl,
};
use bytesize::ByteSize;
use lapin::uri::AMQPUri;
use serde::{Deserialize, Serialize};

use crate::publish::WaitLimits;

/// AMQP names are short strings.
const MAX_AMQP_NAME: usize = 255;

/// The queue for KAZOO's requests is named `amqp.queue` plus this.
const REQUESTS_SUFFIX: &str = "-queries";

/// The queue in which earlier releases have KAZOO's requests is named `amqp.queue` plus this.
const FORMER_REQUESTS_SUFFIX: &str = "-requests";

/// The queue for the latest checkpoint is named `amqp.queue` plus this. No suffix is longer.
const CHECKPOINT_SUFFIX: &str = "-progress";

/// A zone's name becomes a header of each of its events, and a metrics label.
const MAX_ZONE_BYTES: usize = 64;

/// Used if no broker is configured.
const DEFAULT_URL: &str = "amqp://guest:guest@127.0.0.1:5672/%2f";

/// The whole configuration of the ingest.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct IngestConfig {
    /// The connection to NATS.
    pub(crate) nats: NatsConfig,
    /// Logging.
    pub log: LogConfig,
    /// Metrics and health.
    pub(crate) admin: AdminConfig<9401>,
    /// The brokers and the queue.
    pub(crate) amqp: AmqpConfig,
    /// The stream.
    pub(crate) history: HistoryConfig,
    /// Binding families.
    pub(crate) catalogue: CatalogueConfig,
}

/// `[amqp]`: KAZOO's broker, or one per zone, and the queue that the ingest declares there.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AmqpConfig {
    /// The URL of a single broker. `?heartbeat=` sets the heartbeat interval in seconds, 10 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) url: Option<ServerUrl>,
    /// The brokers of several zones, instead of `url`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) brokers: Vec<BrokerConfig>,
    /// The durable queue that holds events until the stream has stored them.
    pub(crate) queue: String,
    /// Maximum number of unacknowledged deliveries. A higher value compensates for a longer round trip to NATS, but
    /// costs memory and means more redeliveries after a lost connection.
    pub(crate) prefetch: u16,
    /// Maximum bytes of unsettled bodies; beyond it the ingest does not read from the broker. One body may exceed it.
    pub(crate) prefetch_bytes: ByteSize,
    /// How long events may wait for later ones while they follow each other closely, to be passed on together.
    #[serde(with = "humantime_serde")]
    pub(crate) batch_delay: Duration,
    /// Maximum body bytes in the queue; beyond it the broker drops the oldest events.
    pub(crate) queue_max_bytes: ByteSize,
    /// The exchange for rejected events, and the name of the queue bound to it.
    pub(crate) dead_letter_exchange: String,
    /// How often to look whether exchanges, queues, bindings and the stream are as they should be.
    #[serde(with = "humantime_serde")]
    pub(crate) check_interval: Duration,
}

/// `[[amqp.brokers]]`: a zone's broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BrokerConfig {
    /// The zone's name in KAZOO. Empty for the broker of `amqp.url`.
    pub(crate) zone: String,
    /// The broker's URL, as in `amqp.url`.
    pub(crate) url: ServerUrl,
}

/// `[history]`: the stream that stores and republishes events.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct HistoryConfig {
    /// How long events are kept. Zero disables history: there is no stream, and clients cannot resume.
    #[serde(with = "humantime_serde")]
    pub(crate) max_age: Duration,
    /// Maximum bytes of events; beyond it the stream drops the oldest.
    pub(crate) max_bytes: ByteSize,
    /// The storage backend.
    pub(crate) storage: Storage,
    /// The number of NATS servers that store each event: 1, 3 or 5.
    pub(crate) replicas: usize,
    /// Maximum bytes of the last events of living things; beyond it the oldest are forgotten.
    pub(crate) state_max_bytes: ByteSize,
}

/// A stream's storage backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Storage {
    /// Files, which survive a restart of nats-server.
    File,
    /// Memory.
    Memory,
}

impl Default for AmqpConfig {
    fn default() -> Self {
        AmqpConfig {
            url: None,
            brokers: Vec::new(),
            queue: "blackhole-ingest".into(),
            prefetch: 1000,
            prefetch_bytes: ByteSize::mib(64),
            batch_delay: Duration::from_millis(1),
            queue_max_bytes: ByteSize::gib(1),
            dead_letter_exchange: "blackhole-dead-letter".into(),
            check_interval: Duration::from_secs(30),
        }
    }
}

impl Default for HistoryConfig {
    fn default() -> Self {
        HistoryConfig {
            max_age: Duration::from_secs(600),
            max_bytes: ByteSize::gib(1),
            storage: Storage::File,
            replicas: 1,
            state_max_bytes: ByteSize::mib(256),
        }
    }
}

impl IngestConfig {
    /// How long events may wait for later ones while they follow each other closely (`amqp.batch_delay`).
    pub fn batch_delay(&self) -> Duration {
        self.amqp.batch_delay
    }
}

impl Configuration for IngestConfig {
    fn admin(&self) -> Option<SocketAddr> {
        Some(self.admin.listen)
    }

    fn check(&self) -> Result<(), InvalidValue> {
        self.nats.check()?;
        self.log.check()?;
        self.admin.check()?;
        self.catalogue.check()?;
        self.amqp.check()?;
        self.history.check()
    }

    fn complete(&mut self) {
        if self.amqp.brokers.is_empty() {
            self.amqp.url.get_or_insert_with(|| ServerUrl::new(DEFAULT_URL));
        }
    }
}

impl AmqpConfig {
    /// The configured brokers: those of the zones, or the single one.
    pub(crate) fn brokers(&self) -> Vec<BrokerConfig> {
        if !self.brokers.is_empty() {
            return self.brokers.clone();
        }
        let url = self.url.clone().unwrap_or_else(|| ServerUrl::new(DEFAULT_URL));
        vec![BrokerConfig { zone: String::new(), url }]
    }

    /// The name of the queue for KAZOO's requests. It derives from `amqp.queue`, so that deployments with separate
    /// event queues answer requests separately too.
    pub(crate) fn requests_queue(&self) -> String {
        format!("{}{REQUESTS_SUFFIX}", self.queue)
    }

    /// The name of the queue in which earlier releases have KAZOO's requests.
    pub(crate) fn former_requests_queue(&self) -> String {
        format!("{}{FORMER_REQUESTS_SUFFIX}", self.queue)
    }

    /// The name of the queue for the latest checkpoint.
    pub(crate) fn checkpoint_queue(&self) -> String {
        format!("{}{CHECKPOINT_SUFFIX}", self.queue)
    }

    /// How much may wait for the accounts of dialled numbers: of what may be in flight, half is left for everything else.
    pub(crate) fn wait_limits(&self) -> WaitLimits {
        WaitLimits {
            deliveries: u64::from(self.prefetch).div_ceil(2),
            bytes: self.prefetch_bytes.as_u64() / 2,
        }
    }

    fn check_brokers(&self) -> Result<(), InvalidValue> {
        // The parser's own text would quote the URL with its password.
        let is_valid = |url: &ServerUrl| url.reveal().parse::<AMQPUri>().is_ok();
        let expected = "expected a URL such as amqp://user:password@host:5672/%2f";
        if self.url.as_ref().is_some_and(|url| !is_valid(url)) {
            return Err(InvalidValue { key: "amqp.url", reason: expected.to_owned() });
        }
        let invalid = |reason: String| Err(InvalidValue { key: "amqp.brokers", reason });
        if self.url.is_some() && !self.brokers.is_empty() {
            return invalid(
                "amqp.url is set too: list all brokers here, or set amqp.url for the only one".into(),
            );
        }
        for (index, BrokerConfig { zone, url }) in self.brokers.iter().enumerate() {
            if !is_valid_zone(zone) {
                return invalid(format!(
                    "zone {zone:?} must have 1 to {MAX_ZONE_BYTES} letters, digits, `.`, `_` and `-`"
                ));
            }
            if !is_valid(url) {
                return invalid(format!("the url of zone {zone}: {expected}"));
            }
            for other in self.brokers.iter().take(index) {
                if other.zone == *zone {
                    return invalid(format!("there are two zones {zone}"));
                }
                if other.url == *url {
                    return invalid(format!("zones {} and {zone} have the same url", other.zone));
                }
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), InvalidValue> {
        self.check_brokers()?;
        let is_valid_name =
            |name: &str| !name.is_empty() && name.len() <= MAX_AMQP_NAME && !name.starts_with("amq.");
        let names = "must have 1 to 255 bytes and not begin with `amq.`";
        InvalidValue::unless(
            is_valid_name(&self.queue) && self.queue.len() <= MAX_AMQP_NAME - CHECKPOINT_SUFFIX.len(),
            "amqp.queue",
            "must have 1 to 246 bytes and not begin with `amq.`",
        )?;
        InvalidValue::unless(is_valid_name(&self.dead_letter_exchange), "amqp.dead_letter_exchange", names)?;
        InvalidValue::unless(
            self.queue != self.dead_letter_exchange,
            "amqp.dead_letter_exchange",
            "names a queue too, so it must differ from amqp.queue",
        )?;
        InvalidValue::unless(
            self.prefetch > 0,
            "amqp.prefetch",
            "must be 1 or more: 0 means no limit in AMQP",
        )?;
        InvalidValue::unless(
            self.prefetch_bytes.as_u64() > 0,
            "amqp.prefetch_bytes",
            "must be 1 byte or more",
        )?;
        InvalidValue::unless(
            self.batch_delay <= Duration::from_millis(10),
            "amqp.batch_delay",
            "must be at most 10ms",
        )?;
        InvalidValue::unless(
            (Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&self.check_interval),
            "amqp.check_interval",
            "must be between 1s and 1h",
        )?;
        let range = 1 << 20..=i64::MAX as u64;
        InvalidValue::unless(
            range.contains(&self.queue_max_bytes.as_u64()),
            "amqp.queue_max_bytes",
            "must be 1 MiB or more",
        )
    }
}

impl fmt::Display for BrokerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.zone.as_str() {
            "" => write!(f, "{}", self.url),
            zone => write!(f, "{zone}={}", self.url),
        }
    }
}

fn is_valid_zone(name: &str) -> bool {
    (1..=MAX_ZONE_BYTES).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

impl HistoryConfig {
    /// Whether events are published without being stored.
    pub(crate) fn is_off(&self) -> bool {
        self.max_age.is_zero()
    }

    fn check(&self) -> Result<(), InvalidValue> {
        let day = Duration::from_secs(24 * 3600);
        InvalidValue::unless(
            self.is_off() || (Duration::from_secs(1)..=365 * day).contains(&self.max_age),
            "history.max_age",
            "must be between 1s and 365 days, or 0s for no history",
        )?;
        let range = 1 << 20..=i64::MAX as u64;
        InvalidValue::unless(
            range.contains(&self.max_bytes.as_u64()),
            "history.max_bytes",
            "must be 1 MiB or more",
        )?;
        InvalidValue::unless(
            range.contains(&self.state_max_bytes.as_u64()),
            "history.state_max_bytes",
            "must be 1 MiB or more",
        )?;
        InvalidValue::unless((1..=5).contains(&self.replicas), "history.replicas", "must be 1 to 5")
    }
}

#[cfg(test)]
mod tests;
