//! Publishes to the exchange `targeted` of a broker, which routes to one process by its `Server-ID`.

use std::time::Duration;

use lapin::{BasicProperties, Channel, PublisherConfirm, options::BasicPublishOptions};
use tokio::{sync::watch, time::timeout};

use crate::{amqp::short_string, error::IngestError};

/// The exchange.
pub(super) const TARGETED_EXCHANGE: &str = "targeted";
/// How long to wait for the broker's confirmation.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(3);
/// How long to wait for a broker that is away. Edges wait 10 s by default.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// An open channel to one broker.
#[derive(Clone, Debug)]
pub(super) struct OpenChannel {
    /// The channel.
    pub(super) channel: Channel,
    /// Why the broker blocks publishers, while it does: it is short of memory or disk.
    pub(super) blocked: watch::Receiver<Option<String>>,
}

/// The channel to one broker.
#[derive(Debug)]
pub(super) struct BrokerChannel {
    /// The broker's zone; empty if it has none.
    pub(super) zone: String,
    /// The channel, while connected.
    pub(super) channel: watch::Receiver<Option<OpenChannel>>,
}

impl BrokerChannel {
    /// Publishes as soon as the broker is connected.
    ///
    /// # Errors
    /// [`IngestError::BrokerUnavailable`] if it is not connected in time, otherwise those of [`publish`].
    pub(super) async fn send(&self, server_id: &str, body: &[u8]) -> Result<(), IngestError> {
        let mut channel = self.channel.clone();
        let connected =
            async { channel.wait_for(Option::is_some).await.ok().and_then(|channel| channel.clone()) };
        let Ok(Some(channel)) = timeout(RECONNECT_TIMEOUT, connected).await else {
            return Err(IngestError::BrokerUnavailable);
        };
        publish(&channel, server_id, body).await
    }
}

/// Publishes to the process with this `Server-ID` and waits for the broker's confirmation. The broker confirms and
/// drops messages to unknown processes.
///
/// # Errors
/// If the broker does not confirm. It may have received the message nevertheless. [`IngestError::BrokerBlocked`] at once
/// if the broker takes no messages; one that was on its way when that began is taken later.
pub(super) async fn publish(open: &OpenChannel, server_id: &str, body: &[u8]) -> Result<(), IngestError> {
    let mut blocked = open.blocked.clone();
    if let Some(reason) = blocked.borrow().clone() {
        return Err(IngestError::BrokerBlocked(reason));
    }
    let confirmed = async {
        let confirmation = send(&open.channel, server_id, body).await?.await?;
        Ok::<_, IngestError>(confirmation.is_ack())
    };
    let until_blocked = async {
        let reason = blocked.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        match reason {
            Some(reason) => reason,
            // The connection ends, and so does the other future.
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        confirmed = timeout(CONFIRM_TIMEOUT, confirmed) => {
            match confirmed.map_err(|_| IngestError::AmqpTimeout(CONFIRM_TIMEOUT.as_secs()))?? {
                true => Ok(()),
                false => Err(IngestError::NotConfirmed(TARGETED_EXCHANGE)),
            }
        }
        reason = until_blocked => Err(IngestError::BrokerBlocked(reason)),
    }
}

/// Publishes to the process with this `Server-ID`.
///
/// # Errors
/// If the connection fails, or the `Server-ID` is too long.
pub(super) async fn send(
    channel: &Channel,
    server_id: &str,
    body: &[u8],
) -> Result<PublisherConfirm, IngestError> {
    let properties = BasicProperties::default().with_content_type("application/json".into());
    let (key, options) = (short_string(server_id)?, BasicPublishOptions::default());
    Ok(channel.basic_publish(TARGETED_EXCHANGE.into(), key, options, body, properties).await?)
}
