//! The limits that every new session passes.

use super::{accept_limiter::AcceptLimiter, connection_limit::ConnectionLimit};
use crate::config::WsConfig;

/// The limits that every new session passes.
#[derive(Debug)]
pub(super) struct Limits {
    /// Sessions at the same time.
    pub(super) connections: ConnectionLimit,
    /// New sessions per second.
    pub(super) accepts: AcceptLimiter,
}

impl Limits {
    /// Those of the configuration.
    pub(super) fn new(config: &WsConfig) -> Limits {
        Limits {
            connections: ConnectionLimit::new(config.max_connections, config.max_connections_per_ip),
            accepts: AcceptLimiter::new(config.accept_per_second),
        }
    }
}
