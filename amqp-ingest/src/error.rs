//! What can go wrong with a side, in words for an operator.

use blackhole_common::{catalogue::CatalogueError, nats::NatsError};
use thiserror::Error;

/// Everything that stops the ingest, or one side of it for a while.
///
/// Only the first three stop the start; the rest are logged, counted and waited for.
#[derive(Debug, Error)]
pub enum IngestError {
    /// The catalogue has a mistake.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// NATS cannot be used as it is configured.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// The admin server cannot listen.
    #[error(transparent)]
    Admin(std::io::Error),

    /// The broker's URL is none; the configuration is checked for it.
    #[error("amqp.url: {0}")]
    AmqpUrl(String),
    /// A name that AMQP cannot carry.
    #[error("`{0}` is no AMQP name: {1}")]
    AmqpName(String, String),
    /// The broker or the connection to it failed.
    #[error("{0}")]
    Amqp(#[from] lapin::Error),
    /// The broker did not answer within this many seconds.
    #[error("the broker does not answer within {0} s")]
    AmqpTimeout(u64),
    /// A queue or exchange is there, but not as it has to be.
    #[error("{what} `{name}` is there with other properties than it must have ({reason}); {remedy}")]
    Differs {
        /// Queue or exchange.
        what: &'static str,
        /// Its name.
        name: String,
        /// What the broker says.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// The connection to the broker failed, or what comes from it is no AMQP.
    #[error("{0}")]
    AmqpSocket(#[from] std::io::Error),
    /// The broker does not let us in.
    #[error("the broker refuses: {0}")]
    Handshake(String),
    /// The broker ended the channel or the connection.
    #[error("the broker ended the connection: {code} {reason}")]
    AmqpClosed {
        /// AMQP's reply code.
        code: u16,
        /// What the broker says.
        reason: String,
    },
    /// Nothing came from the broker for this many seconds.
    #[error("nothing came from the broker for {0} s")]
    BrokerSilent(u64),
    /// A delivery tag that does not follow the one before: the bookkeeping would be wrong.
    #[error("delivery tag {0} is out of order")]
    DeliveryTag(u64),
    /// The broker took the consumer away: the queue was deleted.
    #[error("the broker ended the consumer of queue `{0}`: the queue was deleted or moved")]
    ConsumerCancelled(String),
    /// The broker is away.
    #[error("the broker is away")]
    BrokerAway,
    /// The broker refused a message to this exchange.
    #[error("the broker did not take a message to `{0}`")]
    NotTaken(&'static str),

    /// No connection to a NATS server.
    #[error("{0}")]
    NatsConnect(std::io::Error),
    /// There is no connection to a NATS server at the moment.
    #[error("nats is away")]
    NatsAway,
    /// The connection was lost, or did not take what was sent.
    #[error("the connection was lost{0}")]
    NatsLost(String),
    /// The stream did not acknowledge in time.
    #[error("the stream did not acknowledge within {0} s")]
    AckTimeout(u64),
    /// The stream did not take a message that it may take later.
    #[error("the stream takes nothing at the moment: {0}")]
    NotStored(String),
    /// The server has no JetStream, or it has not begun yet.
    #[error("the server has no JetStream (nats-server -js), or it has not begun yet")]
    NoJetStream,
    /// JetStream did not answer a question about the stream.
    #[error("stream {stream}: {reason}")]
    Stream {
        /// The stream's name.
        stream: String,
        /// What the server says.
        reason: String,
    },
    /// The stream cannot be made what the configuration says.
    #[error(
        "stream {stream} cannot be made as configured: {reason}; change `history.*` back to what the stream has, or \
         delete the stream (`nats stream rm {stream}`: its history is lost, events that wait in the queue are not)"
    )]
    StreamRefused {
        /// The stream's name.
        stream: String,
        /// What the server says.
        reason: String,
    },
}
