//! Why CouchDB gave no usable answer.

use thiserror::Error;

/// Why CouchDB gave no usable answer. Neither passwords nor documents are in it.
#[derive(Clone, Debug, Error)]
pub enum CouchError {
    /// The connection failed.
    #[error("{server} is not reachable: {reason}")]
    Unreachable {
        /// The server.
        server: String,
        /// Why.
        reason: String,
    },
    /// No answer in time.
    #[error("{server} does not answer within auth.couchdb.timeout")]
    Timeout {
        /// The server.
        server: String,
    },
    /// A status that says that the question cannot be answered.
    #[error("{server} answers {path} with status {status}{}", advice(*status))]
    Status {
        /// The server.
        server: String,
        /// The path and query.
        path: String,
        /// The status.
        status: u16,
    },
    /// The answer is larger than any that is needed.
    #[error("the answer to {path} is larger than 32 MiB")]
    TooLarge {
        /// The path and query.
        path: String,
    },
    /// The answer is not what CouchDB answers.
    #[error("the answer to {path} is not what CouchDB answers: {reason}")]
    Malformed {
        /// The path and query.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The documents read are older than those that a change has told of.
    #[error("{path} has older documents than were announced")]
    Stale {
        /// The database.
        path: String,
    },
}

fn advice(status: u16) -> &'static str {
    match status {
        401 => ": check auth.couchdb.user and auth.couchdb.password",
        403 => {
            ": the user must be a member of this database, see docs/couchdb.md (or is locked for 5 minutes, as CouchDB 3.4 does after wrong passwords)"
        }
        404 => ": this is not KAZOO's CouchDB, or the database is missing",
        _ => "",
    }
}

impl CouchError {
    /// A fixed label for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            CouchError::Unreachable { .. } => "unreachable",
            CouchError::Timeout { .. } => "timeout",
            CouchError::Status { status: 401 | 403, .. } => "denied",
            CouchError::Status { .. } => "status",
            CouchError::TooLarge { .. } => "too_large",
            CouchError::Malformed { .. } => "malformed",
            CouchError::Stale { .. } => "stale",
        }
    }

    /// Whether another server may answer.
    pub(super) fn is_of_server(&self) -> bool {
        match self {
            CouchError::Unreachable { .. } | CouchError::Timeout { .. } => true,
            CouchError::Status { status, .. } => *status >= 500,
            _ => false,
        }
    }
}
