//! What one client and one account may take of an edge, so that enough is left for all others.
//!
//! | module | idea |
//! |---|---|
//! | `client_network` | which addresses count as one client |
//! | `connection_limit` | connections per client, with and without an accepted token, and sessions in total |
//! | `accept_limiter` | how many sessions begin per second, and how many of one client wait for that |
//! | `accounts` | sessions and distinct subjects per account |
//!
//! Everything that is kept about a client or an account is forgotten with its last connection.

pub(crate) mod accept_limiter;
pub mod accounts;
pub(crate) mod client_network;
pub(crate) mod connection_limit;

use crate::config::WsConfig;

/// The limits that all sessions share.
#[derive(Debug)]
pub(crate) struct Limits {
    /// Open connections.
    pub(crate) connections: connection_limit::ConnectionLimit,
    /// New sessions per second.
    pub(crate) accepts: accept_limiter::AcceptLimiter,
    /// What accounts take.
    pub(crate) accounts: accounts::Accounts,
}

impl Limits {
    /// The configured limits.
    pub(crate) fn new(config: &WsConfig) -> Limits {
        let or_none = |limit: usize| if limit == 0 { usize::MAX } else { limit };
        Limits {
            connections: connection_limit::ConnectionLimit::new(
                config.max_connections,
                or_none(config.max_connections_per_ip),
                or_none(config.max_tokenless_per_ip),
            ),
            accepts: accept_limiter::AcceptLimiter::new(config.accept_per_second),
            accounts: accounts::Accounts::new(
                or_none(config.max_sessions_per_account),
                or_none(config.max_subjects_per_account),
            ),
        }
    }
}
