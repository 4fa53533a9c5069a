//! The limits for new sessions.

use super::{accept_limiter::AcceptLimiter, connection_limit::ConnectionLimit};
use crate::config::WsConfig;

/// The limits for new sessions.
#[derive(Debug)]
pub(super) struct Limits {
    /// Open sessions.
    pub(super) connections: ConnectionLimit,
    /// New sessions per second.
    pub(super) accepts: AcceptLimiter,
}

impl Limits {
    /// The configured limits.
    pub(super) fn new(config: &WsConfig) -> Limits {
        Limits {
            connections: ConnectionLimit::new(config.max_connections, config.max_connections_per_ip),
            accepts: AcceptLimiter::new(config.accept_per_second),
        }
    }
}
