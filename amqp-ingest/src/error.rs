//! The error type of the ingest. Its texts are for operators.

use blackhole_common::{catalogue::CatalogueError, nats::NatsError};
use thiserror::Error;

/// Everything that can fail in the ingest.
///
/// Only the first three variants prevent the start. The others are logged and counted, and the ingest retries.
#[derive(Debug, Error)]
pub enum IngestError {
    /// The catalogue is invalid.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// NATS cannot be used as configured.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// The admin server cannot listen.
    #[error(transparent)]
    Admin(std::io::Error),

    /// The broker's URL is invalid. The configuration is checked for this.
    #[error("amqp.url: {0}")]
    AmqpUrl(String),
    /// A name that does not fit an AMQP short string.
    #[error("`{0}` is not a valid AMQP name: {1}")]
    AmqpName(String, String),
    /// The broker or the connection to it failed.
    #[error("{0}")]
    Amqp(#[from] lapin::Error),
    /// The broker did not answer within this many seconds.
    #[error("the broker did not answer within {0} s")]
    AmqpTimeout(u64),
    /// A queue or exchange exists with different properties.
    #[error("{what} `{name}` exists with different properties ({reason}); {remedy}")]
    PropertyMismatch {
        /// Queue or exchange.
        what: &'static str,
        /// Its name.
        name: String,
        /// The broker's reason.
        reason: String,
        /// What the operator can do.
        remedy: String,
    },
    /// No family of the catalogue can be bound.
    #[error("no exchange can be bound: {0}")]
    NothingBound(String),
    /// The connection to the broker failed, or the broker sent invalid AMQP.
    #[error("{0}")]
    AmqpSocket(#[from] std::io::Error),
    /// The broker did not accept the connection.
    #[error("the handshake with the broker failed: {0}")]
    Handshake(String),
    /// The broker closed the channel or the connection.
    #[error("the broker closed the connection: {code} {reason}")]
    AmqpClosed {
        /// The AMQP reply code.
        code: u16,
        /// The broker's reason.
        reason: String,
    },
    /// The broker sent nothing, not even heartbeats, for this many seconds.
    #[error("the broker sent nothing for {0} s")]
    HeartbeatTimeout(u64),
    /// A delivery tag does not follow the previous one, so acknowledgements would go wrong.
    #[error("delivery tag {0} is out of order")]
    DeliveryTag(u64),
    /// The broker cancelled the consumer.
    #[error("the broker cancelled the consumer of queue `{0}`: the queue was deleted or moved")]
    ConsumerCancelled(String),
    /// There is no connection to the broker at the moment.
    #[error("the broker is away")]
    BrokerUnavailable,
    /// The broker takes no messages: it is short of memory or disk. From a connection that publishes it does not read
    /// acknowledgements either.
    #[error("the broker blocks publishers: {0}")]
    BrokerBlocked(String),
    /// The broker did not confirm a message to this exchange.
    #[error("the broker did not confirm a message to `{0}`")]
    NotConfirmed(&'static str),

    /// A connection to NATS could not be opened.
    #[error("{0}")]
    NatsConnect(std::io::Error),
    /// There is no connection to NATS at the moment.
    #[error("nats is away")]
    NatsUnavailable,
    /// The connection to NATS was lost.
    #[error("the connection was lost: {0}")]
    NatsLost(String),
    /// NATS reported an error.
    #[error("nats refuses: {0}")]
    NatsRefused(String),
    /// The process did not run for this many seconds, so that another ingest may have taken over.
    #[error("the process stood still for {0} s")]
    StoodStill(u64),
    /// The stream did not acknowledge an event within this many seconds.
    #[error("the stream did not acknowledge within {0} s")]
    AckTimeout(u64),
    /// The stream did not store an event, but may do so later.
    #[error("the stream stores no events at the moment: {0}")]
    NotStored(String),
    /// Something else was stored between two events that were to follow each other.
    #[error("the stream has changed meanwhile: {0}")]
    StreamAhead(String),
    /// JetStream is not available.
    #[error("JetStream is not enabled on the server (nats-server -js) or has not started yet")]
    NoJetStream,
    /// A JetStream request about the stream failed.
    #[error("stream {stream}: {reason}")]
    Stream {
        /// The stream's name.
        stream: String,
        /// The server's reason.
        reason: String,
    },
    /// Somebody deleted or changed the stream.
    #[error("stream {0} was deleted or changed by somebody else, putting it right")]
    StreamChanged(String),
    /// Another deployment uses the stream.
    #[error(
        "stream {stream} belongs to `nats.prefix` = \"{prefix}\": stream names have no case, dots or underscores of \
         their own, so choose a prefix that differs in letters or digits"
    )]
    StreamOfOtherPrefix {
        /// The stream's name.
        stream: String,
        /// The other deployment's prefix.
        prefix: String,
    },
    /// JetStream does not accept the configuration of the stream.
    #[error(
        "stream {stream} cannot be made as configured: {reason}; set `history.*` back to what the stream has, or \
         delete the stream (`nats stream rm {stream}`: its history is lost, events that wait in the queue are not)"
    )]
    StreamConfigRefused {
        /// The stream's name.
        stream: String,
        /// The server's reason.
        reason: String,
    },
}
