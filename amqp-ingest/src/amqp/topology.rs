//! What the consumer relies on at a broker: exchanges, queues and bindings. It is declared after each connect, and
//! again every `amqp.check_interval`: nobody tells a consumer that an exchange was deleted or a binding removed.
//!
//! **KAZOO's exchanges** are declared exactly as KAZOO declares them: not durable, not auto-delete, not internal, no
//! arguments. A broker refuses a second declaration with other properties, so any difference would break KAZOO. An
//! exchange that exists is used as it is ([`declarations`](super::declarations)); if it cannot serve a family, only
//! that family is missing, and the log, a metric and the health check tell.
//!
//! **The queue** is durable, has a single active consumer (a second ingest is a warm standby, and order is preserved)
//! and a byte limit. Beyond the limit the broker drops the oldest events (`drop-head`, its default): live events are
//! worth more than old ones, and `reject-publish` would fail KAZOO's confirmed publishes because a consumer lags.
//! Dropped events go to the dead-letter exchange like rejected ones; the header `x-death` distinguishes them
//! (`maxlen`, `rejected`).
//!
//! **The dead-letter exchange** is a durable fanout. A durable queue of the same name, with a byte limit too, keeps the
//! latest dead letters for inspection. They keep their routing keys.
//!
//! Bindings left by an earlier catalogue stay, because AMQP cannot list them. Their events are acknowledged and
//! counted as unknown. To remove them, delete the queue while the ingest runs: it declares the queue again without
//! them.

use blackhole_common::{
    catalogue::{Catalogue, ExchangeType},
    config::ServerUrl,
    readiness::Readiness,
};
use lapin::types::{AMQPValue, FieldTable};

use super::{
    checkpoints,
    declarations::{ForeignExchanges, Unbound, WantedExchange, WantedQueue},
    declarer::Declarer,
};
use crate::{
    bound_part::BoundPart,
    config::{AmqpConfig, BrokerConfig},
    error::IngestError,
    metrics::Metrics,
};

/// Limit of the dead-letter queue: tens of thousands of bodies, enough to diagnose a problem.
const DEAD_LETTERS_MAX_BYTES: i64 = 64 << 20;

/// The name of the connection in the broker's listings.
const CONNECTION_NAME: &str = "amqp-ingest topology";

/// The topology of one broker.
#[derive(Debug)]
pub(crate) struct Topology {
    config: AmqpConfig,
    url: ServerUrl,
    /// KAZOO's exchanges, with the queue's bindings.
    exchanges: Vec<WantedExchange>,
    /// The families, each with the indices of its exchanges.
    families: Vec<(BoundPart, Vec<usize>)>,
    dead_letters: BoundPart,
    /// Whether an operator has declared the dead-letter queue otherwise.
    is_dead_letter_queue_foreign: bool,
    /// Whether the topology can be looked at.
    checks: BoundPart,
    foreign: ForeignExchanges,
}

impl Topology {
    /// The topology that a catalogue implies.
    pub(crate) fn new(
        config: &AmqpConfig,
        broker: &BrokerConfig,
        catalogue: &Catalogue,
        readiness: &Readiness,
        metrics: &Metrics,
    ) -> Topology {
        let bindings = catalogue.amqp_bindings();
        let wanted = |(name, kind): (&str, ExchangeType)| WantedExchange {
            name: name.to_owned(),
            kind,
            durable: false,
            bindings: bindings
                .iter()
                .filter(|binding| binding.exchange == name)
                .map(|binding| (config.queue.clone(), binding.pattern.clone()))
                .collect(),
        };
        let exchanges: Vec<WantedExchange> = catalogue.exchanges().into_iter().map(wanted).collect();
        let part = |name: &str| BoundPart::new(name, &broker.zone, readiness, metrics);
        let families = catalogue.families().iter().map(|family| {
            let needs =
                |exchange: &WantedExchange| family.event.iter().any(|event| event.exchange == exchange.name);
            let own = exchanges.iter().enumerate().filter(|(_, exchange)| needs(exchange));
            (part(&family.name), own.map(|(index, _)| index).collect())
        });
        Topology {
            families: families.collect(),
            exchanges,
            dead_letters: part("dead letters"),
            is_dead_letter_queue_foreign: false,
            checks: part("topology checks"),
            config: config.clone(),
            url: broker.url.clone(),
            foreign: ForeignExchanges::default(),
        }
    }

    /// Connects, and declares and binds everything.
    ///
    /// # Errors
    /// If the broker cannot be used, or no family is bound.
    pub(super) async fn declare(&mut self) -> Result<Declarer, IngestError> {
        let mut declarer = Declarer::open(&self.url, CONNECTION_NAME).await?;
        self.ensure_dead_letters(&mut declarer).await?;
        self.ensure_checkpoints(&mut declarer).await?;
        self.ensure_queue(&mut declarer).await?;
        self.ensure_exchanges(&mut declarer).await?;
        self.checks.set_bound(Ok(()));
        Ok(declarer)
    }

    /// Looks at everything again and again, and puts it right. It does not return unless the queue can no longer be
    /// consumed as it should.
    pub(super) async fn watch(&mut self, declarer: Declarer) -> IngestError {
        let mut declarer = Some(declarer);
        loop {
            let result = match &mut declarer {
                Some(open) => self.check_later(open).await,
                None => {
                    tokio::time::sleep(self.config.check_interval).await;
                    self.declare().await.map(|open| declarer = Some(open))
                }
            };
            match result {
                Ok(()) => {}
                Err(error @ (IngestError::NothingBound(_) | IngestError::PropertyMismatch { .. })) => {
                    return error;
                }
                // The consumer's connection may be fine: the broker may only refuse this one.
                Err(error) => {
                    if declarer.take().is_none() {
                        self.checks.set_bound(Err(error.to_string()));
                    }
                }
            }
        }
    }

    async fn check_later(&mut self, declarer: &mut Declarer) -> Result<(), IngestError> {
        declarer.idle(self.config.check_interval).await?;
        // The end of the queue itself is told to its consumer.
        self.ensure_checkpoints(declarer).await?;
        self.ensure_dead_letters(declarer).await?;
        self.ensure_exchanges(declarer).await
    }

    async fn ensure_checkpoints(&self, declarer: &mut Declarer) -> Result<(), IngestError> {
        let checkpoints = WantedQueue {
            name: self.config.checkpoint_queue(),
            durable: true,
            arguments: checkpoints::queue_arguments(),
        };
        declarer.ensure_queue(&checkpoints).await?.map_err(|refusal| IngestError::PropertyMismatch {
            what: "queue",
            name: checkpoints.name.clone(),
            reason: refusal.reason,
            remedy: format!("delete it (`rabbitmqctl delete_queue {}`)", checkpoints.name),
        })
    }

    async fn ensure_queue(&self, declarer: &mut Declarer) -> Result<(), IngestError> {
        let AmqpConfig { queue: name, .. } = &self.config;
        let wanted =
            WantedQueue { name: name.clone(), durable: true, arguments: queue_arguments(&self.config) };
        declarer.ensure_queue(&wanted).await?.map_err(|refusal| IngestError::PropertyMismatch {
            what: "queue",
            name: name.clone(),
            reason: refusal.reason,
            remedy: format!(
                "set `amqp.queue_max_bytes` and `amqp.dead_letter_exchange` back to the queue's values, or choose \
                 another `amqp.queue`, or let the queue run empty and delete it (`rabbitmqctl delete_queue {name}`): \
                 the ingest declares it again at once"
            ),
        })
    }

    async fn ensure_exchanges(&mut self, declarer: &mut Declarer) -> Result<(), IngestError> {
        let results = declarer.ensure_exchanges(&self.exchanges, &mut self.foreign).await?;
        let mut is_any_bound = false;
        let mut first_reason = None;
        for (family, exchanges) in &mut self.families {
            let failed = exchanges.iter().find_map(|index| results.get(*index)?.as_ref().err());
            is_any_bound |= failed.is_none();
            if let Some(reason) = failed {
                first_reason.get_or_insert_with(|| reason.clone());
            }
            family.set_bound(failed.map_or(Ok(()), |reason| Err(reason.clone())));
        }
        match first_reason {
            Some(reason) if !is_any_bound => Err(IngestError::NothingBound(reason)),
            _ => Ok(()),
        }
    }

    /// Without dead letters, events are carried nevertheless.
    async fn ensure_dead_letters(&mut self, declarer: &mut Declarer) -> Result<(), IngestError> {
        let bound = self.bind_dead_letters(declarer).await?;
        self.dead_letters.set_bound(bound);
        Ok(())
    }

    async fn bind_dead_letters(
        &mut self,
        declarer: &mut Declarer,
    ) -> Result<Result<(), Unbound>, IngestError> {
        let name = &self.config.dead_letter_exchange;
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length-bytes".into(), AMQPValue::LongLongInt(DEAD_LETTERS_MAX_BYTES));
        arguments.insert("x-overflow".into(), long_string("drop-head"));
        let queue = WantedQueue { name: name.clone(), durable: true, arguments };
        // An operator's own queue is bound like ours. If there is none, binding it fails.
        if !self.is_dead_letter_queue_foreign {
            self.is_dead_letter_queue_foreign = declarer.ensure_queue(&queue).await?.is_err();
        }
        let exchange = WantedExchange {
            name: name.clone(),
            kind: ExchangeType::Fanout,
            durable: true,
            bindings: vec![(name.clone(), String::new())],
        };
        let results = declarer.ensure_exchanges(&[exchange], &mut self.foreign).await?;
        let bound = results.into_iter().next().unwrap_or(Ok(()));
        self.is_dead_letter_queue_foreign &= bound.is_ok();
        Ok(bound)
    }
}

fn queue_arguments(config: &AmqpConfig) -> FieldTable {
    // The configuration check guarantees that it fits.
    let max_bytes = i64::try_from(config.queue_max_bytes.as_u64()).unwrap_or(i64::MAX);
    let mut arguments = FieldTable::default();
    arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    arguments.insert("x-max-length-bytes".into(), AMQPValue::LongLongInt(max_bytes));
    arguments.insert("x-overflow".into(), long_string("drop-head"));
    arguments.insert("x-dead-letter-exchange".into(), long_string(&config.dead_letter_exchange));
    arguments
}

fn long_string(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}
