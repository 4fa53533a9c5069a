//! A session's deadlines: pings, dead peers, idle sessions and the expiry of its token.

use std::time::Instant;

use crate::{config::WsConfig, outbox::Outbox, protocol::close::Close};

/// A client that has sent nothing since this many pings is dead.
const MAX_UNANSWERED_PINGS: u32 = 2;
/// A client that does not read cannot answer pings: it has longer.
const MAX_UNANSWERED_PINGS_BLOCKED: u32 = 10;

/// When a session is pinged, and when it is over.
#[derive(Debug)]
pub(super) struct Keepalive {
    /// Pings sent since the client was last heard. Counted, because a time would include pauses of the edge itself.
    unanswered: u32,
    next_ping: Instant,
    last_request: Instant,
    /// When the token expires.
    expires: Option<Instant>,
}

/// What is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// The session is closed.
    Close(Close),
    /// The client is dead.
    Dead,
    /// The client is pinged.
    Ping,
    /// Nothing before this time.
    Nothing(Instant),
}

impl Keepalive {
    /// Of a session that begins now.
    pub(super) fn new(config: &WsConfig, expires: Option<Instant>, now: Instant) -> Keepalive {
        // Sessions that begin together must not ping together forever.
        let first_ping = config.ping_interval.mul_f64(0.5 + rand::random::<f64>() / 2.0);
        Keepalive { unanswered: 0, next_ping: now + first_ping, last_request: now, expires }
    }

    /// The client has sent something.
    pub(super) fn heard(&mut self) {
        self.unanswered = 0;
    }

    /// The client has sent a request.
    pub(super) fn requested(&mut self, now: Instant) {
        self.last_request = now;
    }

    /// The token's expiry may have changed.
    pub(super) fn set_expiry(&mut self, expires: Option<Instant>) {
        self.expires = expires;
    }

    /// Whether a timer that is set for this time is early enough. Only a new token may bring an earlier deadline.
    pub(super) fn is_in_time(&self, timer: Instant) -> bool {
        self.expires.is_none_or(|expires| timer <= expires)
    }

    /// What is due now. While the edge does not read (`is_reading`), silence is not the client's fault.
    pub(super) fn due(&mut self, now: Instant, config: &WsConfig, outbox: &Outbox, is_reading: bool) -> Due {
        if self.expires.is_some_and(|expires| expires <= now) {
            return Due::Close(Close::TokenExpired);
        }
        let idle = self.last_request.max(outbox.last_sent()) + config.idle_timeout;
        if idle <= now {
            return Due::Close(Close::Idle);
        }
        if self.next_ping <= now {
            let max = if outbox.is_blocked() { MAX_UNANSWERED_PINGS_BLOCKED } else { MAX_UNANSWERED_PINGS };
            if self.unanswered >= max && is_reading {
                return Due::Dead;
            }
            self.unanswered = self.unanswered.saturating_add(1);
            self.next_ping = now + config.ping_interval;
            return Due::Ping;
        }
        let next = self.expires.map_or(self.next_ping, |expires| expires.min(self.next_ping));
        Due::Nothing(next.min(idle))
    }
}
