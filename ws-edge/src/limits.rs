//! What one client and one account may take of an edge, so that enough is left for all others.
//!
//! | module | idea |
//! |---|---|
//! | `client_network` | which addresses count as one client |
//! | `places` | connections per client, with and without an accepted token, and sessions in total |
//! | `pace` | how many sessions begin per second, and how many of one client wait for that |
//! | `accounts` | sessions and distinct subjects per account |
//!
//! Everything that is kept about a client or an account is forgotten with its last connection.

pub mod accounts;
pub(crate) mod client_network;
pub(crate) mod pace;
pub(crate) mod places;

use crate::config::WsConfig;

/// The limits that all sessions share.
#[derive(Debug)]
pub(crate) struct Limits {
    /// Open connections.
    pub(crate) places: places::Places,
    /// New sessions per second.
    pub(crate) pace: pace::Pace,
    /// What accounts take.
    pub(crate) accounts: accounts::Accounts,
}

impl Limits {
    /// The configured limits.
    pub(crate) fn new(config: &WsConfig) -> Limits {
        let or_none = |limit: usize| if limit == 0 { usize::MAX } else { limit };
        Limits {
            places: places::Places::new(
                config.max_connections,
                or_none(config.max_connections_per_ip),
                or_none(config.max_tokenless_per_ip),
            ),
            pace: pace::Pace::new(config.accept_per_second),
            accounts: accounts::Accounts::new(
                or_none(config.max_sessions_per_account),
                or_none(config.max_subjects_per_account),
            ),
        }
    }
}
