//! A session's deadlines: pings, dead peers, idle sessions and the expiry of its token.

use std::time::{Duration, Instant};

use crate::{
    config::WsConfig,
    outbox::Outbox,
    protocol::{close::Close, event_stream::Framing},
};
use blackhole_common::chance;

/// A client that has sent nothing during this many pings is dead.
const MAX_UNANSWERED_PINGS: u32 = 2;
/// A client that does not read cannot answer pings, so it gets more time.
const MAX_UNANSWERED_PINGS_BLOCKED: u32 = 10;

/// When to ping a session, and when to end it.
#[derive(Debug)]
pub(super) struct Keepalive {
    /// The interval between pings.
    interval: Duration,
    /// Pings sent since the client was last heard. A time would include pauses of the edge itself.
    unanswered: u32,
    next_ping: Instant,
    last_request: Instant,
    /// When the token expires; before a token is accepted, the time by which one must be.
    expires: Option<Instant>,
    is_authenticated: bool,
}

/// What is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Close the session.
    Close(Close),
    /// The client is dead.
    Dead,
    /// Ping the client.
    Ping,
    /// Nothing before this time.
    Nothing(Instant),
}

impl Keepalive {
    /// The keepalive of a session that starts now without a token.
    pub(super) fn new(config: &WsConfig, framing: Framing, now: Instant) -> Keepalive {
        let interval = match framing {
            Framing::WebSocket | Framing::CompressedWebSocket => config.ping_interval,
            // Proxies end a response that is silent for as long as half a minute.
            Framing::EventStream => config.ping_interval / 2,
        };
        // Random, so that sessions that start together do not ping together forever.
        let first_ping = interval.mul_f64(0.5 + chance::random::<f64>() / 2.0);
        let expires = now.checked_add(config.auth_timeout);
        Keepalive {
            interval,
            unanswered: 0,
            next_ping: now + first_ping,
            last_request: now,
            expires,
            is_authenticated: false,
        }
    }

    /// Notes that the client has sent something.
    pub(super) fn heard(&mut self) {
        self.unanswered = 0;
    }

    /// Notes that the client has sent a request.
    pub(super) fn requested(&mut self, now: Instant) {
        self.last_request = now;
    }

    /// Notes the session's token and when it expires (`None`: never).
    pub(super) fn authenticated(&mut self, expires: Option<Instant>) {
        self.expires = expires;
        self.is_authenticated = true;
    }

    /// Whether a timer set for this time is early enough. Only a new expiry can be earlier.
    pub(super) fn is_in_time(&self, timer: Instant) -> bool {
        self.expires.is_none_or(|expires| timer <= expires)
    }

    /// What is due now. A client is not dead while the edge does not read from it (`is_reading`).
    pub(super) fn due(&mut self, now: Instant, config: &WsConfig, outbox: &Outbox, is_reading: bool) -> Due {
        if self.expires.is_some_and(|expires| expires <= now) {
            let close = if self.is_authenticated { Close::TokenExpired } else { Close::Unauthenticated };
            return Due::Close(close);
        }
        let idle = self.last_request.max(outbox.last_event()) + config.idle_timeout;
        if idle <= now {
            return Due::Close(Close::Idle);
        }
        if self.next_ping <= now {
            let max = if outbox.is_blocked() { MAX_UNANSWERED_PINGS_BLOCKED } else { MAX_UNANSWERED_PINGS };
            if self.unanswered >= max && is_reading {
                return Due::Dead;
            }
            self.unanswered = self.unanswered.saturating_add(1);
            self.next_ping = now + self.interval;
            return Due::Ping;
        }
        let next = self.expires.map_or(self.next_ping, |expires| expires.min(self.next_ping));
        Due::Nothing(next.min(idle))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::outbox::tests::outbox;

    /// Of an authenticated session, and when it began.
    fn keepalive(config: &WsConfig) -> (Keepalive, Instant) {
        let now = Instant::now();
        let mut keepalive = Keepalive::new(config, Framing::WebSocket, now);
        keepalive.authenticated(None);
        (keepalive, now)
    }

    /// What is due after each of `count` ping intervals.
    fn dues(
        keepalive: &mut Keepalive,
        start: Instant,
        count: u32,
        outbox: &Outbox,
        is_reading: bool,
    ) -> Vec<Due> {
        let config = WsConfig::default();
        (1..=count)
            .map(|n| keepalive.due(start + config.ping_interval * n, &config, outbox, is_reading))
            .collect()
    }

    #[test]
    fn expiry_precedes_idleness_which_precedes_pings() {
        let config = WsConfig { idle_timeout: Duration::from_secs(600), ..WsConfig::default() };
        let (outbox, _) = outbox(1, 100);
        let (mut keepalive, start) = keepalive(&config);
        let late = start + Duration::from_secs(700);
        keepalive.authenticated(Some(late));
        assert_eq!(keepalive.due(late, &config, &outbox, true), Due::Close(Close::TokenExpired));
        keepalive.authenticated(None);
        assert_eq!(keepalive.due(late, &config, &outbox, true), Due::Close(Close::Idle));
        keepalive.requested(late);
        assert_eq!(keepalive.due(late, &config, &outbox, true), Due::Ping);
        let next_ping = late + config.ping_interval;
        assert_eq!(keepalive.due(late, &config, &outbox, true), Due::Nothing(next_ping));
    }

    #[test]
    fn a_token_must_come_in_time() {
        let (config, now) = (WsConfig::default(), Instant::now());
        let (outbox, _) = outbox(1, 100);
        let mut keepalive = Keepalive::new(&config, Framing::WebSocket, now);
        let deadline = now + config.auth_timeout;
        keepalive.heard();
        assert_eq!(keepalive.due(deadline, &config, &outbox, true), Due::Close(Close::Unauthenticated));
        keepalive.authenticated(None);
        assert_eq!(keepalive.due(deadline, &config, &outbox, true), Due::Ping);
    }

    #[test]
    fn only_events_and_requests_keep_a_session_from_being_idle() {
        let config = WsConfig { ping_interval: Duration::from_secs(7200), ..WsConfig::default() };
        let (outbox, _) = outbox(1, 100);
        let (mut keepalive, _) = keepalive(&config);
        let begun = Instant::now();
        let idle = |keepalive: &mut Keepalive| {
            let end = outbox.last_event().max(begun) + config.idle_timeout;
            keepalive.due(end, &config, &outbox, true) == Due::Close(Close::Idle)
        };
        outbox.push_own(Bytes::from_static(b"ping"));
        outbox.flush();
        assert!(idle(&mut keepalive), "the edge's own pings do not count");
        std::thread::sleep(Duration::from_millis(5));
        outbox.push_live(None, || Some(Bytes::from_static(b"event").into()));
        outbox.flush();
        assert_eq!(
            keepalive.due(begun + config.idle_timeout, &config, &outbox, true),
            Due::Nothing(outbox.last_event() + config.idle_timeout)
        );
    }

    #[test]
    fn the_timer_is_set_for_the_earliest_deadline() {
        let config = WsConfig { idle_timeout: Duration::from_secs(10), ..WsConfig::default() };
        let (outbox, _) = outbox(1, 100);
        let (mut keepalive, start) = keepalive(&config);
        let (expires, idle) = (start + Duration::from_secs(5), start + Duration::from_secs(10));
        assert_eq!(keepalive.due(start, &config, &outbox, true), Due::Nothing(idle));
        assert!(keepalive.is_in_time(idle));
        keepalive.authenticated(Some(expires));
        assert!(!keepalive.is_in_time(idle));
        assert_eq!(keepalive.due(start, &config, &outbox, true), Due::Nothing(expires));
    }

    #[test]
    fn a_client_is_dead_after_two_unanswered_pings() {
        let (outbox, _) = outbox(1, 100);
        let (mut keepalive, start) = keepalive(&WsConfig::default());
        assert_eq!(dues(&mut keepalive, start, 3, &outbox, true), [Due::Ping, Due::Ping, Due::Dead]);
        keepalive.heard();
        let later = start + WsConfig::default().ping_interval * 3;
        assert_eq!(dues(&mut keepalive, later, 3, &outbox, true), [Due::Ping, Due::Ping, Due::Dead]);
    }

    #[test]
    fn a_client_that_does_not_read_is_dead_after_ten_unanswered_pings() {
        let (outbox, kept) = outbox(1, 100);
        kept.allow(0);
        outbox.push_own(Bytes::from_static(b"frame"));
        outbox.flush();
        assert!(outbox.is_blocked());
        let (mut keepalive, start) = keepalive(&WsConfig::default());
        let dues = dues(&mut keepalive, start, 11, &outbox, true);
        assert!(dues[..10].iter().all(|due| *due == Due::Ping), "{dues:?}");
        assert_eq!(dues[10], Due::Dead);
    }

    #[test]
    fn an_event_stream_is_silent_for_half_as_long() {
        let (config, now) = (WsConfig::default(), Instant::now());
        let (outbox, _) = outbox(1, 100);
        let mut keepalive = Keepalive::new(&config, Framing::EventStream, now);
        keepalive.authenticated(None);
        let later = now + config.ping_interval / 2;
        assert_eq!(keepalive.due(later, &config, &outbox, false), Due::Ping);
        let next = later + config.ping_interval / 2;
        assert_eq!(keepalive.due(later, &config, &outbox, false), Due::Nothing(next));
    }

    #[test]
    fn silence_does_not_count_while_the_edge_does_not_read() {
        let (outbox, _) = outbox(1, 100);
        let (mut keepalive, start) = keepalive(&WsConfig::default());
        assert!(dues(&mut keepalive, start, 20, &outbox, false).iter().all(|due| *due == Due::Ping));
    }
}
