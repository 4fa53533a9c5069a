//! Keeps the [`Checkpoint`] of a queue at its broker, in a queue of its own that holds the latest one.
//!
//! It is written in the transaction that acknowledges events, so the broker has both or neither. It is not persistent:
//! a broker that was restarted may have forgotten acknowledgements, so a checkpoint would be wrong.

use lapin::{
    Channel,
    options::{BasicGetOptions, BasicRejectOptions},
    types::{AMQPValue, FieldTable},
};

use blackhole_common::config::ServerUrl;

use super::{connect, declarer::Declarer, short_string};
use crate::{checkpoint::Checkpoint, config::AmqpConfig, error::IngestError};

/// The name of the connection in the broker's listings.
const CONNECTION_NAME: &str = "amqp-ingest checkpoint";

/// The arguments of the queue: it keeps one message, the latest.
pub(super) fn queue_arguments() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(1));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("drop-head".into()));
    arguments
}

/// Reads the checkpoint and leaves it where it is. `None` if there is none.
///
/// To be called after the first delivery: then the broker has seen the end of the previous consumer.
pub(super) async fn read(url: &ServerUrl, config: &AmqpConfig) -> Result<Option<Checkpoint>, IngestError> {
    let declarer = Declarer::open(url, CONNECTION_NAME).await?;
    let connection = connect(declarer.broker(), CONNECTION_NAME).await?;
    let channel = connection.create_channel().await?;
    let checkpoint = read_on(&channel, &config.checkpoint_queue()).await?;
    // The broker has requeued it when it confirms the end of the connection.
    connection.close(200, "read".into()).await?;
    Ok(checkpoint)
}

async fn read_on(channel: &Channel, queue: &str) -> Result<Option<Checkpoint>, IngestError> {
    let Some(message) = channel.basic_get(short_string(queue)?, BasicGetOptions::default()).await? else {
        return Ok(None);
    };
    message.acker.reject(BasicRejectOptions { requeue: true }).await?;
    // Somebody else may have published anything there.
    Ok(serde_json::from_slice(&message.data).ok())
}
