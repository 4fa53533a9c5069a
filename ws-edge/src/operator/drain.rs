//! Draining: closes all sessions, at a rate that other edges can accept.
//!
//! Monster UI reconnects 250 ms after any close code: only the server can spread the reconnects.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::{Instant, MissedTickBehavior};

use crate::{ids::SessionNumber, outbox::Outbox, protocol::close::Close};

/// Pause between batches of closed sessions.
const TICK: Duration = Duration::from_millis(50);
/// The lowest rate, so that a few sessions do not take long.
const MIN_PER_SECOND: f64 = 100.0;

/// All open sessions.
#[derive(Debug, Default)]
pub(crate) struct OpenSessions {
    open: Mutex<HashMap<SessionNumber, Arc<Outbox>>>,
}

/// Keeps a session among the open ones until this is dropped.
#[derive(Debug)]
pub(crate) struct OpenSession {
    sessions: Arc<OpenSessions>,
    number: SessionNumber,
}

impl OpenSessions {
    /// Adds a session.
    pub(crate) fn open(self: &Arc<Self>, outbox: &Arc<Outbox>) -> OpenSession {
        self.open.lock().insert(outbox.number, Arc::clone(outbox));
        OpenSession { sessions: Arc::clone(self), number: outbox.number }
    }

    /// The sessions that `is_wanted`.
    pub(crate) fn filter(&self, is_wanted: impl Fn(&Outbox) -> bool) -> Vec<Arc<Outbox>> {
        self.open.lock().values().filter(|session| is_wanted(session)).cloned().collect()
    }

    /// Closes all sessions, spread over `time`, but at most `max_per_second`.
    pub(crate) async fn close_all(&self, time: Duration, max_per_second: u32) {
        let mut waiting: Vec<Arc<Outbox>> = self.open.lock().values().cloned().collect();
        let rate = rate(waiting.len(), time, max_per_second);
        tracing::info!(sessions = waiting.len(), per_second = rate.round(), "closing sessions");
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let started = Instant::now();
        let mut closed = 0;
        while !waiting.is_empty() {
            ticks.tick().await;
            let due = (started.elapsed() + TICK).as_secs_f64() * rate;
            while closed < due as usize
                && let Some(session) = waiting.pop()
            {
                session.close(Close::Restart);
                closed += 1;
            }
        }
        // Sessions that were opened meanwhile.
        self.open.lock().values().for_each(|session| session.close(Close::Restart));
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.sessions.open.lock().remove(&self.number);
    }
}

/// Sessions to close per second.
fn rate(sessions: usize, time: Duration, max_per_second: u32) -> f64 {
    let evenly = sessions as f64 / time.as_secs_f64().max(TICK.as_secs_f64());
    evenly.max(MIN_PER_SECOND).min(f64::from(max_per_second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_even_within_its_limits() {
        let drain = Duration::from_secs(30);
        assert_eq!(rate(15_000, drain, 1000), 500.0);
        assert_eq!(rate(90_000, drain, 1000), 1000.0, "the limit makes it take longer");
        assert_eq!(rate(3, drain, 1000), MIN_PER_SECOND, "a few sessions do not take the whole time");
        assert_eq!(rate(3, drain, 1), 1.0);
        assert!(rate(100, Duration::ZERO, 1_000_000) >= 2000.0);
    }

    #[tokio::test(start_paused = true)]
    async fn all_sessions_are_closed_but_not_at_once() {
        let sessions = Arc::new(OpenSessions::default());
        let outboxes: Vec<_> = (0..1000).map(|number| crate::outbox::tests::outbox(number, 1).0).collect();
        let open: Vec<OpenSession> = outboxes.iter().map(|outbox| sessions.open(outbox)).collect();
        let closed = || outboxes.iter().filter(|outbox| outbox.closing() == Some(Close::Restart)).count();
        let closing = sessions.close_all(Duration::from_secs(2), 10_000);
        tokio::pin!(closing);
        let half = tokio::time::timeout(Duration::from_secs(1), &mut closing).await;
        assert!(half.is_err() && (450..=550).contains(&closed()), "{}", closed());
        closing.await;
        assert_eq!(closed(), 1000);
        drop(open);
        assert!(sessions.open.lock().is_empty());
    }
}
