//! Why the edge did not start.

use std::io;

use blackhole_common::{catalogue::CatalogueError, nats::NatsError};
use thiserror::Error;

/// Why the edge did not start.
#[derive(Debug, Error)]
pub enum EdgeError {
    /// A mistake in the catalogue.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// NATS is configured wrongly.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// The event reader has no thread, or no runtime.
    #[error("cannot start the reader of events: {0}")]
    EventReader(io::Error),
    /// The NATS service did not start.
    #[error("cannot start the NATS service {name}: {reason}")]
    Service {
        /// The service's name.
        name: &'static str,
        /// The client's error.
        reason: String,
    },
    /// An address is not available.
    #[error(transparent)]
    Listen(#[from] io::Error),
}
