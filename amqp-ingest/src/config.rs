//! The configuration: `[nats]`, `[log]`, `[admin]`, `[amqp]`, `[history]`, `[catalogue]`.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use blackhole_common::config::{
    AdminConfig, CatalogueConfig, Configuration, InvalidValue, LogConfig, NatsConfig, ServerUrl,
};
use bytesize::ByteSize;
use lapin::uri::AMQPUri;
use serde::{Deserialize, Serialize};

/// AMQP's names are short strings: at most 255 bytes.
const MAX_AMQP_NAME: usize = 255;

/// After `amqp.queue` it is the name of the queue for requests.
pub(crate) const REQUESTS_SUFFIX: &str = "-requests";

/// A zone's name goes into a header of each of its events, and into metrics.
const MAX_ZONE_BYTES: usize = 64;

/// The broker, where none is named.
const DEFAULT_URL: &str = "amqp://guest:guest@127.0.0.1:5672/%2f";

/// Everything that the ingest can be told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct IngestConfig {
    /// The connection to NATS.
    pub nats: NatsConfig,
    /// What is logged, and how.
    pub log: LogConfig,
    /// Metrics and health.
    pub admin: AdminConfig,
    /// The broker and the queue.
    pub amqp: AmqpConfig,
    /// The stream.
    pub history: HistoryConfig,
    /// Binding families.
    pub catalogue: CatalogueConfig,
}

/// `[amqp]`: KAZOO's broker, or one for each zone, and the queue that the ingest keeps there.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AmqpConfig {
    /// The one broker's URL. `?heartbeat=` sets the seconds between heartbeats, 10 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<ServerUrl>,
    /// Instead of it: the brokers of several zones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub brokers: Vec<BrokerConfig>,
    /// The durable queue that holds events until the stream has them.
    pub queue: String,
    /// How many deliveries may be on their way to the stream at once. More hide a longer way to NATS, and cost
    /// memory and what is delivered again after a loss.
    pub prefetch: u16,
    /// How many bytes of bodies the queue may hold while nobody reads it; beyond, the oldest go.
    pub queue_max_bytes: ByteSize,
    /// The exchange, and the queue of the same name behind it, that gets what cannot be passed on.
    pub dead_letter_exchange: String,
}

/// `[[amqp.brokers]]`: a zone's broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerConfig {
    /// The zone's name in KAZOO. Empty for the one broker of `amqp.url`, which has none.
    pub zone: String,
    /// As `amqp.url`.
    pub url: ServerUrl,
}

/// `[history]`: the stream that events are stored in and republished from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HistoryConfig {
    /// How long events are kept. Zero: not at all; there is no stream then, and no client can have missed events.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
    /// How many bytes of events are kept at most; beyond, the oldest go.
    pub max_bytes: ByteSize,
    /// Where they are kept.
    pub storage: Storage,
    /// On how many NATS servers of a cluster: 1, 3 or 5.
    pub replicas: usize,
}

/// Where a stream is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// In files: survives a restart of nats-server.
    File,
    /// In memory.
    Memory,
}

impl Default for IngestConfig {
    fn default() -> Self {
        IngestConfig {
            nats: NatsConfig::default(),
            log: LogConfig::default(),
            admin: AdminConfig { listen: (Ipv4Addr::LOCALHOST, 9401).into() },
            amqp: AmqpConfig::default(),
            history: HistoryConfig::default(),
            catalogue: CatalogueConfig::default(),
        }
    }
}

impl Default for AmqpConfig {
    fn default() -> Self {
        AmqpConfig {
            url: None,
            brokers: Vec::new(),
            queue: "blackhole-ingest".into(),
            prefetch: 1000,
            queue_max_bytes: ByteSize::gib(1),
            dead_letter_exchange: "blackhole-dead-letter".into(),
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
        }
    }
}

impl Configuration for IngestConfig {
    fn admin(&self) -> Option<SocketAddr> {
        Some(self.admin.listen)
    }

    fn check(&self) -> Result<(), InvalidValue> {
        self.nats.check()?;
        self.log.check()?;
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
    /// The brokers: those of the zones, or the one.
    pub fn brokers(&self) -> Vec<BrokerConfig> {
        if !self.brokers.is_empty() {
            return self.brokers.clone();
        }
        let url = self.url.clone().unwrap_or_else(|| ServerUrl::new(DEFAULT_URL));
        vec![BrokerConfig { zone: String::new(), url }]
    }

    fn check_brokers(&self) -> Result<(), InvalidValue> {
        let is_url = |url: &ServerUrl| url.reveal().parse::<AMQPUri>();
        let expected = "expected a URL such as amqp://user:password@host:5672/%2f";
        if let Some(Err(reason)) = self.url.as_ref().map(is_url) {
            return Err(InvalidValue { key: "amqp.url", reason: format!("{reason}; {expected}") });
        }
        let wrong = |reason: String| Err(InvalidValue { key: "amqp.brokers", reason });
        if self.url.is_some() && !self.brokers.is_empty() {
            return wrong(
                "amqp.url is set too: list all brokers here, or set amqp.url for the only one".into(),
            );
        }
        for (index, BrokerConfig { zone, url }) in self.brokers.iter().enumerate() {
            if !is_zone(zone) {
                return wrong(format!(
                    "zone {zone:?} must have 1 to {MAX_ZONE_BYTES} letters, digits, `.`, `_` and `-`"
                ));
            }
            if let Err(reason) = is_url(url) {
                return wrong(format!("the url of zone {zone}: {reason}; {expected}"));
            }
            let before = self.brokers.iter().take(index);
            for other in before {
                if other.zone == *zone {
                    return wrong(format!("there are two zones {zone}"));
                }
                if other.url == *url {
                    return wrong(format!("zones {} and {zone} have the same url", other.zone));
                }
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), InvalidValue> {
        self.check_brokers()?;
        let is_name =
            |name: &str| !name.is_empty() && name.len() <= MAX_AMQP_NAME && !name.starts_with("amq.");
        let names = "must have 1 to 255 bytes and not begin with `amq.`";
        InvalidValue::unless(
            is_name(&self.queue) && self.queue.len() <= MAX_AMQP_NAME - REQUESTS_SUFFIX.len(),
            "amqp.queue",
            "must have 1 to 246 bytes and not begin with `amq.`",
        )?;
        InvalidValue::unless(is_name(&self.dead_letter_exchange), "amqp.dead_letter_exchange", names)?;
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

fn is_zone(name: &str) -> bool {
    (1..=MAX_ZONE_BYTES).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

impl HistoryConfig {
    /// Events are published and forgotten.
    pub fn is_off(&self) -> bool {
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
        InvalidValue::unless((1..=5).contains(&self.replicas), "history.replicas", "must be 1 to 5")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(change: impl FnOnce(&mut IngestConfig)) -> Option<&'static str> {
        let mut config = IngestConfig::default();
        change(&mut config);
        config.check().err().map(|impossible| impossible.key)
    }

    #[test]
    fn the_defaults_are_good_and_show_no_password() {
        assert_eq!(checked(|_| {}), None);
        let mut complete = IngestConfig::default();
        complete.complete();
        let printed = toml::to_string(&complete).unwrap();
        assert!(printed.contains("amqp://[hidden]@127.0.0.1:5672/%2f"), "{printed}");
        assert!(printed.contains("max_age = \"10m\""), "{printed}");
        let again: IngestConfig = toml::from_str(&printed).unwrap();
        assert_eq!(again.history.max_bytes, ByteSize::gib(1));
        assert_eq!(again.amqp.prefetch, 1000);
    }

    #[test]
    fn impossible_values_are_named() {
        assert_eq!(checked(|config| config.amqp.url = Some(ServerUrl::new("http://x"))), Some("amqp.url"));
        assert_eq!(checked(|config| config.amqp.queue = String::new()), Some("amqp.queue"));
        assert_eq!(checked(|config| config.amqp.queue = "q".repeat(246)), None);
        assert_eq!(checked(|config| config.amqp.queue = "q".repeat(247)), Some("amqp.queue"));
        assert_eq!(
            checked(|config| config.amqp.dead_letter_exchange = config.amqp.queue.clone()),
            Some("amqp.dead_letter_exchange")
        );
        assert_eq!(checked(|config| config.amqp.prefetch = 0), Some("amqp.prefetch"));
        assert_eq!(
            checked(|config| config.amqp.queue_max_bytes = ByteSize::b(u64::MAX)),
            Some("amqp.queue_max_bytes")
        );
        assert_eq!(checked(|config| config.history.max_age = Duration::ZERO), None);
        let short = Duration::from_millis(10);
        assert_eq!(checked(|config| config.history.max_age = short), Some("history.max_age"));
        assert_eq!(checked(|config| config.history.max_bytes = ByteSize::b(1)), Some("history.max_bytes"));
        assert_eq!(checked(|config| config.history.replicas = 0), Some("history.replicas"));
    }
    fn zones(zones: &[(&str, &str)]) -> Result<(), String> {
        let mut config = IngestConfig::default();
        config.amqp.brokers = zones
            .iter()
            .map(|(zone, url)| BrokerConfig { zone: (*zone).to_owned(), url: ServerUrl::new(url) })
            .collect();
        config.complete();
        let printed = toml::to_string(&config).unwrap() + &format!("{config:?}");
        assert!(!printed.contains("s3cr3t") && !printed.contains("127.0.0.1:5672"), "{printed}");
        config.check().map_err(|impossible| {
            assert_eq!(impossible.key, "amqp.brokers");
            assert!(!impossible.reason.contains("s3cr3t"), "{}", impossible.reason);
            impossible.reason
        })
    }

    #[test]
    fn several_brokers_have_a_zone_each() {
        let (east, west) = ("amqp://u:s3cr3t@east", "amqp://u:s3cr3t@west");
        assert_eq!(zones(&[("east", east), ("us-west.2_b", west)]), Ok(()));
        for (wrong, reason) in [
            ([("east", east), ("east", west)], "there are two zones east"),
            ([("east", east), ("west", east)], "zones east and west have the same url"),
            ([("east", east), ("", west)], "zone \"\" must have"),
            ([("east", east), ("we st", west)], "zone \"we st\" must have"),
            ([("east", "http://u:s3cr3t@east"), ("west", west)], "the url of zone east: "),
        ] {
            let said = zones(&wrong).unwrap_err();
            assert!(said.contains(reason), "{said}");
        }
        let both = checked(|config| {
            config.amqp.url = Some(ServerUrl::new(east));
            config.amqp.brokers = vec![BrokerConfig { zone: "west".into(), url: ServerUrl::new(west) }];
        });
        assert_eq!(both, Some("amqp.brokers"));
        assert_eq!(AmqpConfig::default().brokers().len(), 1);
    }
}
