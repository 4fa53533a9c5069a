//! Leaving in order: sessions are closed at a pace at which other edges can take them.
//!
//! Monster UI comes back a quarter of a second after any close, whatever its code says: only the server can spread
//! that.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::{Instant, MissedTickBehavior};

use crate::{close::Close, fanout::SessionNumber, outbox::Outbox};

/// How often some are closed.
const TICK: Duration = Duration::from_millis(50);
/// At least so many per second, so that a few do not take long.
const LEAST_PER_SECOND: f64 = 100.0;

/// The sessions that there are, to be closed.
#[derive(Debug, Default)]
pub struct Sessions {
    open: Mutex<HashMap<SessionNumber, Arc<Outbox>>>,
}

/// A session that is there, until this is dropped.
#[derive(Debug)]
pub struct Open {
    sessions: Arc<Sessions>,
    number: SessionNumber,
}

impl Sessions {
    /// Adds a session.
    pub fn open(self: &Arc<Self>, outbox: &Arc<Outbox>) -> Open {
        self.open.lock().insert(outbox.number, Arc::clone(outbox));
        Open { sessions: Arc::clone(self), number: outbox.number }
    }

    /// Closes all, spread over `time`, but at most `most_per_second`.
    pub async fn close_all(&self, time: Duration, most_per_second: u32) {
        let mut waiting: Vec<Arc<Outbox>> = self.open.lock().values().cloned().collect();
        let pace = pace(waiting.len(), time, most_per_second);
        tracing::info!(sessions = waiting.len(), per_second = pace.round(), "closing sessions");
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let began = Instant::now();
        let mut closed = 0;
        while !waiting.is_empty() {
            ticks.tick().await;
            let due = (began.elapsed() + TICK).as_secs_f64() * pace;
            while closed < due as usize
                && let Some(session) = waiting.pop()
            {
                session.close(Close::Restart);
                closed += 1;
            }
        }
        // Whoever slipped in at the last moment.
        self.open.lock().values().for_each(|session| session.close(Close::Restart));
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.sessions.open.lock().remove(&self.number);
    }
}

/// Sessions per second.
fn pace(sessions: usize, time: Duration, most_per_second: u32) -> f64 {
    let evenly = sessions as f64 / time.as_secs_f64().max(TICK.as_secs_f64());
    evenly.max(LEAST_PER_SECOND).min(f64::from(most_per_second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_even_within_its_bounds() {
        let drain = Duration::from_secs(30);
        assert_eq!(pace(15_000, drain, 1000), 500.0);
        assert_eq!(pace(90_000, drain, 1000), 1000.0, "it takes longer than asked for");
        assert_eq!(pace(3, drain, 1000), LEAST_PER_SECOND, "a few do not wait for one another");
        assert_eq!(pace(3, drain, 1), 1.0);
        assert!(pace(100, Duration::ZERO, 1_000_000) >= 2000.0);
    }

    #[tokio::test(start_paused = true)]
    async fn everyone_is_closed_and_not_at_once() {
        let sessions = Arc::new(Sessions::default());
        let outboxes: Vec<_> = (0..1000).map(|number| crate::outbox::tests::outbox(number, 1).0).collect();
        let open: Vec<Open> = outboxes.iter().map(|outbox| sessions.open(outbox)).collect();
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
