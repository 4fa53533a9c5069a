//! The queue of one broker's requests, and the exchanges it is bound to.
//!
//! Earlier releases have a queue of another name, which is deleted with its last consumer. While it exists, an ingest of
//! such a release answers all requests, and this one leaves them to it: with both queues bound, each request would be
//! answered twice.

use std::time::Duration;

use blackhole_common::catalogue::ExchangeType;
use lapin::types::{AMQPValue, FieldTable};
use tokio::time::Instant;

use super::{broker_channel::TARGETED_EXCHANGE, listing, modules};
use crate::{
    amqp::{Declarer, ForeignExchanges, WantedExchange, WantedQueue},
    bound_part::BoundPart,
    error::IngestError,
};

/// The TTL of a request in the queue: nobody waits for the response after this.
const REQUEST_TTL_MILLIS: i64 = 5_000;
/// Maximum length of the queue.
const MAX_QUEUE_LEN: i64 = 1_000;
/// How long the queue stays without consumers. It is durable, because brokers give up transient queues that several
/// consumers share; this takes it away after the last ingest.
const QUEUE_EXPIRES_MILLIS: i64 = 600_000;
/// How often to look for the queue of earlier releases. Until that is gone, nobody answers after their last ingest.
const FORMER_QUEUE_INTERVAL: Duration = Duration::from_secs(1);

/// Declares the queue.
///
/// # Errors
/// If the connection fails, or the queue exists with other properties.
pub(super) async fn ensure_queue(declarer: &mut Declarer, name: &str) -> Result<(), IngestError> {
    let mut arguments = FieldTable::default();
    for (argument, value) in [
        ("x-message-ttl", REQUEST_TTL_MILLIS),
        ("x-max-length", MAX_QUEUE_LEN),
        ("x-expires", QUEUE_EXPIRES_MILLIS),
    ] {
        arguments.insert(argument.into(), AMQPValue::LongLongInt(value));
    }
    let queue = WantedQueue { name: name.to_owned(), durable: true, arguments };
    declarer.ensure_queue(&queue).await?.map_err(|refusal| IngestError::PropertyMismatch {
        what: "queue",
        name: name.to_owned(),
        reason: refusal.reason,
        remedy: format!("delete it (`rabbitmqctl delete_queue {name}`)"),
    })
}

/// The exchanges that are used, with the queue's bindings.
pub(super) struct Topology {
    declarer: Declarer,
    exchanges: [WantedExchange; 3],
    foreign: ForeignExchanges,
    former_queue: String,
    /// Whether an earlier release answers the requests.
    is_left_to_former: bool,
    /// Whether [`TARGETED_EXCHANGE`] exists.
    pub(super) has_targeted: bool,
}

impl Topology {
    /// The bindings of `queue`, as long as there is no `former_queue`.
    pub(super) fn new(declarer: Declarer, queue: &str, former_queue: String) -> Topology {
        let exchange = |name: &str, kind, key: Option<&str>| WantedExchange {
            name: name.to_owned(),
            kind,
            durable: false,
            bindings: key.map(|key| (queue.to_owned(), key.to_owned())).into_iter().collect(),
        };
        let exchanges = [
            exchange(listing::EXCHANGE, ExchangeType::Topic, Some(listing::KEY)),
            exchange(modules::EXCHANGE, ExchangeType::Topic, Some(modules::KEY)),
            exchange(TARGETED_EXCHANGE, ExchangeType::Direct, None),
        ];
        Topology {
            declarer,
            exchanges,
            foreign: ForeignExchanges::default(),
            former_queue,
            is_left_to_former: false,
            has_targeted: false,
        }
    }

    /// Declares the exchanges, and binds the queue unless an earlier release answers.
    ///
    /// # Errors
    /// If the connection fails.
    pub(super) async fn ensure(&mut self, part: &mut BoundPart) -> Result<(), IngestError> {
        let has_former = self.declarer.has_queue(&self.former_queue).await?;
        if has_former != self.is_left_to_former {
            self.is_left_to_former = has_former;
            tracing::info!(
                queue = self.former_queue,
                left = has_former,
                "requests are left to an earlier release"
            );
        }
        let results = if has_former {
            let declared =
                self.exchanges.clone().map(|exchange| WantedExchange { bindings: Vec::new(), ..exchange });
            let results = self.declarer.ensure_exchanges(&declared, &mut self.foreign).await?;
            self.declarer.unbind(&self.exchanges).await?;
            results
        } else {
            self.declarer.ensure_exchanges(&self.exchanges, &mut self.foreign).await?
        };
        self.has_targeted = results.last().is_some_and(Result::is_ok);
        part.set_bound(results.into_iter().collect());
        Ok(())
    }

    /// Does so every `check_interval`, and as soon as an earlier release comes or goes. It returns when the connection
    /// fails.
    pub(super) async fn watch(mut self, check_interval: Duration, part: &mut BoundPart) -> IngestError {
        loop {
            let looked = async {
                self.until_next_look(check_interval).await?;
                self.ensure(part).await
            };
            if let Err(error) = looked.await {
                return error;
            }
        }
    }

    async fn until_next_look(&mut self, check_interval: Duration) -> Result<(), IngestError> {
        let next = Instant::now() + check_interval;
        loop {
            let rest = next.saturating_duration_since(Instant::now());
            self.declarer.idle(rest.min(FORMER_QUEUE_INTERVAL)).await?;
            let has_changed = self.declarer.has_queue(&self.former_queue).await? != self.is_left_to_former;
            if has_changed || Instant::now() >= next {
                return Ok(());
            }
        }
    }
}
