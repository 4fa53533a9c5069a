//! What the ingest declares on a broker.
//!
//! **KAZOO's exchanges** exactly as KAZOO declares them, whoever comes first: not durable, no auto-delete, not
//! internal, no arguments. The broker refuses any other declaration, and would then refuse KAZOO's.
//!
//! **The queue** is durable, with a single active consumer (a second ingest is a warm standby and the order holds)
//! and a bound in bytes. Beyond the bound the oldest events go (`drop-head`, the broker's default): live events are
//! worth more than old ones, and with `reject-publish` KAZOO's confirmed publishes would fail because an observer is
//! behind. What is dropped that way goes to the dead-letter exchange like what is rejected; the header `x-death`
//! tells them apart (`maxlen`, `rejected`).
//!
//! **The dead-letter exchange** (fanout, durable), and a durable queue of the same name, bounded too, that keeps the
//! latest of what was rejected for someone to look at. Messages keep their routing key.
//!
//! Bindings that an earlier catalogue needed and this one does not are left: AMQP cannot list them. What they bring
//! is acknowledged and counted as unknown; deleting the queue while the ingest runs makes it anew without them.

use blackhole_common::catalogue::{Catalogue, ExchangeType};
use lapin::{
    Channel, Connection, ErrorKind, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, ShortString},
};

use crate::{config::AmqpConfig, error::IngestError};

/// The bound of the dead-letter queue: some thousand bodies, enough to see what is wrong.
const DEAD_LETTERS_MAX_BYTES: i64 = 64 << 20;

/// AMQP's reply code for a declaration that contradicts what is there.
const PRECONDITION_FAILED: u16 = 406;

/// Declares and binds everything.
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
    for binding in catalogue.amqp_bindings() {
        bind(channel, &config.queue, &binding.exchange, &binding.pattern).await?;
    }
    Ok(())
}

fn queue_arguments(config: &AmqpConfig) -> FieldTable {
    // Checked with the configuration to fit.
    let max_bytes = i64::try_from(config.queue_max_bytes.as_u64()).unwrap_or(i64::MAX);
    let mut arguments = FieldTable::default();
    arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    arguments.insert("x-max-length-bytes".into(), AMQPValue::LongLongInt(max_bytes));
    arguments.insert("x-overflow".into(), text("drop-head"));
    arguments.insert("x-dead-letter-exchange".into(), text(&config.dead_letter_exchange));
    arguments
}

/// On a channel of its own: if an operator has made the dead-letter queue differently, that is fine, and the
/// broker's refusal closes only this channel. The exchange alone must be there.
async fn declare_dead_letters(connection: &Connection, name: &str) -> Result<(), IngestError> {
    let channel = connection.create_channel().await?;
    let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
    declare_exchange(&channel, name, ExchangeKind::Fanout, durable).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length-bytes".into(), AMQPValue::LongLongInt(DEAD_LETTERS_MAX_BYTES));
    arguments.insert("x-overflow".into(), text("drop-head"));
    match declare_queue(&channel, name, arguments).await {
        Ok(()) => {
            bind(&channel, name, name, "").await?;
            channel.close(200, "done".into()).await?;
            Ok(())
        }
        Err(IngestError::Differs { reason, .. }) => {
            tracing::debug!(queue = name, reason, "the dead-letter queue is someone else's, left as it is");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Declares an exchange that must not be there otherwise.
pub(crate) async fn declare_exchange(
    channel: &Channel,
    name: &str,
    kind: ExchangeKind,
    options: ExchangeDeclareOptions,
) -> Result<(), IngestError> {
    let declared = channel.exchange_declare(short(name)?, kind, options, FieldTable::default()).await;
    declared.map_err(|error| {
        differs(error, "exchange", name, || {
            format!(
                "KAZOO would be refused too: find out who declares it so; `rabbitmqctl list_exchanges` shows it, and \
                 deleting it lets KAZOO or the ingest declare it again, as does a correct type of `{name}` in the \
                 catalogue"
            )
        })
    })
}

async fn declare_queue(channel: &Channel, name: &str, arguments: FieldTable) -> Result<(), IngestError> {
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    match channel.queue_declare(short(name)?, options, arguments).await {
        Ok(_) => Ok(()),
        Err(error) => Err(differs(error, "queue", name, || {
            format!(
                "set `amqp.queue_max_bytes` and `amqp.dead_letter_exchange` back to what it has, or name another \
                 `amqp.queue`, or let it run empty and delete it (`rabbitmqctl delete_queue {name}`): it is made \
                 again at once"
            )
        })),
    }
}

async fn bind(channel: &Channel, queue: &str, exchange: &str, pattern: &str) -> Result<(), IngestError> {
    let (queue, exchange, pattern) = (short(queue)?, short(exchange)?, short(pattern)?);
    channel.queue_bind(queue, exchange, pattern, QueueBindOptions::default(), FieldTable::default()).await?;
    Ok(())
}

fn differs(
    error: lapin::Error,
    what: &'static str,
    name: &str,
    remedy: impl FnOnce() -> String,
) -> IngestError {
    match error.kind() {
        ErrorKind::ProtocolError(reply) if reply.get_id() == PRECONDITION_FAILED => IngestError::Differs {
            what,
            name: name.to_owned(),
            reason: reply.get_message().to_string(),
            remedy: remedy(),
        },
        _ => error.into(),
    }
}

/// AMQP's short string; lapin's own conversion panics on more than 255 bytes.
pub(crate) fn short(name: &str) -> Result<ShortString, IngestError> {
    ShortString::try_new(name).map_err(|error| IngestError::AmqpName(name.to_owned(), error.to_string()))
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}
