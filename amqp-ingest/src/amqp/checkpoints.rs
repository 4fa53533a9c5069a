//! Keeps the [`Checkpoint`](crate::checkpoint::Checkpoint) of a queue at its broker, in a queue of its own that holds the latest one.
//!
//! It is written in the transaction that acknowledges events, so the broker has both or neither. It is not persistent:
//! a broker that was restarted may have forgotten acknowledgements, so a checkpoint would be wrong. Before the first
//! acknowledgement it only names the epoch, so that the next ingest gives redelivered events the same ids.

use std::{fmt::Debug, time::Duration};

use blackhole_common::config::ServerUrl;
use futures_util::future::BoxFuture;
use lapin::{
    BasicProperties, Channel,
    options::{BasicGetOptions, BasicPublishOptions, BasicRejectOptions, ConfirmSelectOptions},
    types::{AMQPValue, FieldTable},
};
use tokio::time::timeout;

use super::{connect, declarer::Declarer, short_string};
use crate::{config::AmqpConfig, error::IngestError};

/// The name of the connection in the broker's listings.
const CONNECTION_NAME: &str = "amqp-ingest checkpoint";

/// How long the broker may take to confirm the first message.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(1);

/// The arguments of the queue: it keeps one message, the latest.
pub(super) fn queue_arguments() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(1));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("drop-head".into()));
    arguments
}

/// A queue for checkpoints.
pub trait CheckpointQueue: Debug + Send + Sync {
    /// Reads the latest message and leaves it where it is. If there is none, publishes `first`, if given. `None` if the
    /// queue is empty nevertheless.
    ///
    /// To be called after the first delivery: then the broker has seen the end of the previous consumer.
    ///
    /// # Errors
    /// If the broker cannot be reached, or refuses.
    fn latest_or(&self, first: Option<Vec<u8>>) -> BoxFuture<'_, Result<Option<Vec<u8>>, IngestError>>;
}

/// The queue at a broker.
#[derive(Debug)]
pub(crate) struct BrokerQueue {
    url: ServerUrl,
    name: String,
}

impl BrokerQueue {
    /// The queue that belongs to the events' queue at the broker with this URL.
    pub(crate) fn new(url: ServerUrl, config: &AmqpConfig) -> BrokerQueue {
        BrokerQueue { url, name: config.checkpoint_queue() }
    }
}

impl CheckpointQueue for BrokerQueue {
    fn latest_or(&self, first: Option<Vec<u8>>) -> BoxFuture<'_, Result<Option<Vec<u8>>, IngestError>> {
        Box::pin(async {
            let declarer = Declarer::open(&self.url, CONNECTION_NAME).await?;
            let connection = connect(declarer.broker(), CONNECTION_NAME).await?;
            let channel = connection.create_channel().await?;
            let message = get(&channel, &self.name).await?;
            if let (None, Some(first)) = (&message, first) {
                // A broker that is short of space reads neither the message nor the end of the connection.
                return match timeout(PUBLISH_TIMEOUT, put(&channel, &self.name, &first)).await {
                    Ok(result) => result.map(|()| Some(first)),
                    Err(_) => Ok(None),
                };
            }
            // The broker has requeued it when it confirms the end of the connection.
            connection.close(200, "read".into()).await?;
            Ok(message)
        })
    }
}

/// Publishes a message and waits until the broker has it.
async fn put(channel: &Channel, queue: &str, message: &[u8]) -> Result<(), IngestError> {
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let (key, options) = (short_string(queue)?, BasicPublishOptions::default());
    let confirm =
        channel.basic_publish("".into(), key, options, message, BasicProperties::default()).await?.await?;
    if confirm.is_ack() { Ok(()) } else { Err(IngestError::NotConfirmed("the default exchange")) }
}

async fn get(channel: &Channel, queue: &str) -> Result<Option<Vec<u8>>, IngestError> {
    let Some(message) = channel.basic_get(short_string(queue)?, BasicGetOptions::default()).await? else {
        return Ok(None);
    };
    message.acker.reject(BasicRejectOptions { requeue: true }).await?;
    Ok(Some(message.data.clone()))
}
