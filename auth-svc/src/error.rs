//! What can go wrong.

use std::path::{Path, PathBuf};

use blackhole_common::nats::NatsError;
use thiserror::Error;

use crate::refusal::Refusal;

/// What can go wrong. The texts are for operators; what a client may read is [`Refusal`] alone.
#[derive(Debug, Error)]
pub enum Error {
    /// The token is refused: a verdict, unlike everything below.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A source of keys or accounts cannot be asked at the moment, so there is no verdict.
    #[error("{what} cannot be asked: {reason}")]
    Unavailable {
        /// What was to be asked.
        what: &'static str,
        /// Why it does not answer.
        reason: String,
    },
    /// A file or directory cannot be read.
    #[error("{}: {reason}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system says.
        reason: std::io::Error,
    },
    /// A file was read and makes no sense.
    #[error("{}: {reason}", file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// What is wrong, in one line.
        reason: String,
    },
    /// A token cannot be minted as asked.
    #[error("{0}")]
    Mint(String),
    /// The connection to NATS is impossible.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// The admin server cannot listen.
    #[error(transparent)]
    Admin(std::io::Error),
    /// The micro service could not be set up, or ended by itself.
    #[error("nats micro service: {0}")]
    Service(String),
}

impl Error {
    pub(crate) fn unreadable(file: &Path, reason: std::io::Error) -> Error {
        Error::Unreadable { file: file.to_owned(), reason }
    }

    pub(crate) fn invalid(file: &Path, reason: impl Into<String>) -> Error {
        Error::Invalid { file: file.to_owned(), reason: reason.into() }
    }

    /// A fixed label for metrics and logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Error::Refused(refusal) => refusal.kind(),
            Error::Unavailable { .. } => "unavailable",
            Error::Unreadable { .. } => "unreadable",
            Error::Invalid { .. } => "invalid",
            Error::Mint(_) => "mint",
            Error::Nats(_) => "nats",
            Error::Admin(_) => "admin",
            Error::Service(_) => "service",
        }
    }
}
