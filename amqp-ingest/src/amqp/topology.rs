//! Declares exchanges, queues and bindings on a broker.
//!
//! **KAZOO's exchanges** are declared exactly as KAZOO declares them: not durable, not auto-delete, not internal, no
//! arguments. A broker refuses a second declaration with other properties, so any difference would break either side.
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

use blackhole_common::catalogue::{Catalogue, ExchangeType};
use lapin::{
    Channel, Connection, ErrorKind, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, ShortString},
};

use super::checkpoints;
use crate::{config::AmqpConfig, error::IngestError};

/// Limit of the dead-letter queue: tens of thousands of bodies, enough to diagnose a problem.
const DEAD_LETTERS_MAX_BYTES: i64 = 64 << 20;

/// The AMQP reply code for a declaration with different properties.
const PRECONDITION_FAILED: u16 = 406;

/// Declares all exchanges and queues, and binds them.
pub(super) async fn declare(
    connection: &Connection,
    channel: &Channel,
    config: &AmqpConfig,
    catalogue: &Catalogue,
) -> Result<(), IngestError> {
    for (exchange, kind) in catalogue.exchanges() {
        let kind = match kind {
            ExchangeType::Topic => ExchangeKind::Topic,
            ExchangeType::Direct => ExchangeKind::Direct,
            ExchangeType::Fanout => ExchangeKind::Fanout,
        };
        declare_exchange(channel, exchange, kind, ExchangeDeclareOptions::default()).await?;
    }
    declare_dead_letters(connection, &config.dead_letter_exchange).await?;
    declare_queue(channel, &config.queue, queue_arguments(config)).await?;
    declare_queue(channel, &config.checkpoint_queue(), checkpoints::queue_arguments()).await?;
    for binding in catalogue.amqp_bindings() {
        bind(channel, &config.queue, &binding.exchange, &binding.pattern).await?;
    }
    Ok(())
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

/// Uses a separate channel, which the broker closes if an operator has declared the dead-letter queue differently.
/// That is allowed; only the exchange must match.
async fn declare_dead_letters(connection: &Connection, name: &str) -> Result<(), IngestError> {
    let channel = connection.create_channel().await?;
    let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
    declare_exchange(&channel, name, ExchangeKind::Fanout, durable).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length-bytes".into(), AMQPValue::LongLongInt(DEAD_LETTERS_MAX_BYTES));
    arguments.insert("x-overflow".into(), long_string("drop-head"));
    match declare_queue(&channel, name, arguments).await {
        Ok(()) => {
            bind(&channel, name, name, "").await?;
            channel.close(200, "done".into()).await?;
            Ok(())
        }
        Err(IngestError::PropertyMismatch { reason, .. }) => {
            tracing::debug!(
                queue = name,
                reason,
                "the dead-letter queue exists with different properties, leaving it as it is"
            );
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Declares an exchange.
///
/// # Errors
/// [`IngestError::PropertyMismatch`] if it exists with different properties.
pub(crate) async fn declare_exchange(
    channel: &Channel,
    name: &str,
    kind: ExchangeKind,
    options: ExchangeDeclareOptions,
) -> Result<(), IngestError> {
    let declared = channel.exchange_declare(short_string(name)?, kind, options, FieldTable::default()).await;
    declared.map_err(|error| {
        declare_error(error, "exchange", name, || {
            format!(
                "KAZOO cannot declare it either: find out who declared it (`rabbitmqctl list_exchanges` shows it) and \
                 delete it, or correct the type of `{name}` in the catalogue"
            )
        })
    })
}

async fn declare_queue(channel: &Channel, name: &str, arguments: FieldTable) -> Result<(), IngestError> {
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    match channel.queue_declare(short_string(name)?, options, arguments).await {
        Ok(_) => Ok(()),
        Err(error) => Err(declare_error(error, "queue", name, || {
            format!(
                "set `amqp.queue_max_bytes` and `amqp.dead_letter_exchange` back to the queue's values, or choose \
                 another `amqp.queue`, or let the queue run empty and delete it (`rabbitmqctl delete_queue {name}`): \
                 the ingest declares it again at once"
            )
        })),
    }
}

async fn bind(channel: &Channel, queue: &str, exchange: &str, pattern: &str) -> Result<(), IngestError> {
    let (queue, exchange, pattern) = (short_string(queue)?, short_string(exchange)?, short_string(pattern)?);
    channel.queue_bind(queue, exchange, pattern, QueueBindOptions::default(), FieldTable::default()).await?;
    Ok(())
}

/// Recognizes a declaration with different properties.
fn declare_error(
    error: lapin::Error,
    what: &'static str,
    name: &str,
    remedy: impl FnOnce() -> String,
) -> IngestError {
    match error.kind() {
        ErrorKind::ProtocolError(reply) if reply.get_id() == PRECONDITION_FAILED => {
            IngestError::PropertyMismatch {
                what,
                name: name.to_owned(),
                reason: reply.get_message().to_string(),
                remedy: remedy(),
            }
        }
        _ => error.into(),
    }
}

/// Converts to an AMQP short string; lapin's own conversion panics on more than 255 bytes.
pub(crate) fn short_string(name: &str) -> Result<ShortString, IngestError> {
    ShortString::try_new(name).map_err(|error| IngestError::AmqpName(name.to_owned(), error.to_string()))
}

fn long_string(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}
