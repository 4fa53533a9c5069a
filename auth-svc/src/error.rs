//! The errors of auth-svc.

use std::path::{Path, PathBuf};

use blackhole_common::nats::NatsError;
use thiserror::Error;

use crate::refusal::Refusal;

/// The errors of auth-svc. The messages are for operators; clients see only [`Refusal`].
#[derive(Debug, Error)]
pub enum Error {
    /// The token is refused. Unlike the other variants this is a decision.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A source of keys or accounts is unavailable, so no decision is possible.
    #[error("{what} unavailable: {reason}")]
    Unavailable {
        /// The source.
        what: &'static str,
        /// Why it is unavailable.
        reason: String,
    },
    /// A file or directory cannot be read.
    #[error("{}: {reason}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The error of the operating system.
        reason: std::io::Error,
    },
    /// The content of a file is invalid.
    #[error("{}: {reason}", file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// What is wrong, on one line.
        reason: String,
    },
    /// CouchDB cannot be used with this configuration, or not be read by a command.
    #[error("couchdb: {0}")]
    CouchDb(String),
    /// The keys of an issuer cannot be read with this configuration.
    #[error("auth.issuers: {iss}: {reason}")]
    Issuer {
        /// The issuer.
        iss: String,
        /// Why.
        reason: String,
    },
    /// Crossbar cannot be used with this configuration.
    #[error("crossbar: {0}")]
    Crossbar(String),
    /// A token cannot be minted.
    #[error("{0}")]
    Mint(String),
    /// Connecting to NATS failed permanently.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// The admin server cannot listen.
    #[error(transparent)]
    Admin(std::io::Error),
    /// The NATS micro service could not be set up, or ended by itself.
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
            Error::CouchDb(_) => "couchdb",
            Error::Issuer { .. } => "issuer",
            Error::Crossbar(_) => "crossbar",
            Error::Mint(_) => "mint",
            Error::Nats(_) => "nats",
            Error::Admin(_) => "admin",
            Error::Service(_) => "service",
        }
    }
}
