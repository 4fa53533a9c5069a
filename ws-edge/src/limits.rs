//! What one client and one account may take of an edge, so that enough is left for all others.
//!
//! | module | idea |
//! |---|---|
//! | `client_network` | which addresses count as one client |
//! | `connection_limit` | connections per client, with and without an accepted token, and sessions in total |
//! | `accept_limiter` | how many sessions begin per second, and how many of one client wait for that |
//! | `budget` | how much each may use per second |
//! | `accounts` | sessions and distinct subjects per account |
//!
//! Everything that is kept about a client or an account is forgotten with its last connection.

pub(crate) mod accept_limiter;
pub mod accounts;
pub(crate) mod budget;
pub(crate) mod client_network;
pub(crate) mod connection_limit;

use std::time::Duration;

use parking_lot::Mutex;

use self::{budget::Budgets, client_network::ClientNetwork};
use crate::config::{RateConfig, WsConfig};

/// The limits that all sessions share.
#[derive(Debug)]
pub(crate) struct Limits {
    /// Open connections.
    pub(crate) connections: connection_limit::ConnectionLimit,
    /// New sessions per second.
    pub(crate) accepts: accept_limiter::AcceptLimiter,
    /// Tokens of clients that were refused.
    pub(crate) refusals: Mutex<Budgets<ClientNetwork>>,
    /// What accounts take.
    pub(crate) accounts: accounts::Accounts,
}

impl Limits {
    /// The configured limits.
    pub(crate) fn new(config: &WsConfig) -> Limits {
        let or_none = |limit: usize| if limit == 0 { usize::MAX } else { limit };
        let RateConfig { burst, per_second } = config.refused_tokens;
        let burst = Duration::from_secs_f64(f64::from(burst) / f64::from(per_second));
        Limits {
            refusals: Mutex::new(Budgets::new(f64::from(per_second), burst)),
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
