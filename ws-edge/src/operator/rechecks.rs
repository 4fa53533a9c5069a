//! Has sessions ask auth-svc again: those that an announced change concerns, at once; and all, one after the other, in an
//! interval, should an announcement have been lost.

use std::{collections::HashSet, sync::Arc, time::Duration};

use async_nats::{Client, Message, Subscriber};
use blackhole_common::wire::AuthChanged;
use futures_util::{FutureExt, StreamExt};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::drain::OpenSessions;
use crate::{access::authorizer::Authorizer, outbox::Outbox};

/// Parts in which all sessions are checked.
const PARTS: u32 = 60;
/// The time over which sessions are spread that a change concerns.
const SPREAD: Duration = Duration::from_secs(2);
/// Sessions are spread in steps of this length.
const STEP: Duration = Duration::from_millis(50);
/// This many sessions ask in one step.
const MIN_STEP_SESSIONS: usize = 50;

/// Waits for what auth-svc announces.
pub(crate) struct Rechecks {
    sessions: Arc<OpenSessions>,
    authorizer: Authorizer,
    interval: Duration,
}

impl Rechecks {
    /// Checks each of `sessions` in an `interval`.
    pub(crate) fn new(sessions: Arc<OpenSessions>, authorizer: Authorizer, interval: Duration) -> Rechecks {
        Rechecks { sessions, authorizer, interval }
    }

    /// Runs until `shutdown`. Announcements come on `subject`.
    pub(crate) async fn run(self, client: Client, subject: String, shutdown: CancellationToken) {
        let run = async {
            let mut announced = loop {
                match client.subscribe(subject.clone()).await {
                    Ok(announced) => break announced,
                    Err(error) => tracing::warn!(%error, "cannot subscribe to changes, trying again"),
                }
                sleep(SPREAD).await;
            };
            tokio::join!(self.follow(&mut announced), self.check_all());
        };
        shutdown.run_until_cancelled(run).await;
    }

    async fn follow(&self, announced: &mut Subscriber) {
        while let Some(message) = announced.next().await {
            let mut changed = read(&message);
            // What was announced meanwhile is acted on together.
            while let Some(Some(message)) = announced.next().now_or_never() {
                changed = changed.zip(read(&message)).map(|(one, other)| &one | &other);
            }
            self.authorizer.forget();
            let sessions = self
                .sessions
                .filter(|session| changed.as_ref().is_none_or(|accounts| session.concerns(accounts)));
            tracing::debug!(sessions = sessions.len(), "access has changed, asking again");
            recheck(sessions).await;
        }
    }

    async fn check_all(&self) {
        let mut ticks = interval((self.interval / PARTS).max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for part in (0..PARTS).cycle() {
            ticks.tick().await;
            let sessions =
                self.sessions.filter(|session| session.number % u64::from(PARTS) == u64::from(part));
            sessions.iter().for_each(|session| session.recheck());
        }
    }
}

/// The accounts that have changed; `None` if any may have.
fn read(message: &Message) -> Option<HashSet<String>> {
    match serde_json::from_slice::<AuthChanged>(&message.payload) {
        Ok(changed) => Some(changed.accounts?.into_iter().collect()),
        Err(error) => {
            tracing::warn!(%error, "cannot read what auth-svc announced, taking it for a change of all");
            None
        }
    }
}

/// Has these sessions ask auth-svc, spread over [`SPREAD`]: not all in one moment.
async fn recheck(sessions: Vec<Arc<Outbox>>) {
    let steps = SPREAD.as_millis().checked_div(STEP.as_millis()).unwrap_or(1);
    let size = sessions.len().div_ceil(usize::try_from(steps).unwrap_or(1)).max(MIN_STEP_SESSIONS);
    let mut groups = sessions.chunks(size).peekable();
    while let Some(group) = groups.next() {
        group.iter().for_each(|session| session.recheck());
        if groups.peek().is_some() {
            sleep(STEP).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::outbox::tests::outbox;

    #[tokio::test(start_paused = true)]
    async fn many_sessions_are_spread_and_few_are_asked_at_once() {
        for (count, longest) in
            [(1, Duration::ZERO), (50, Duration::ZERO), (51, STEP + STEP), (10_000, SPREAD)]
        {
            let sessions: Vec<_> = (0..count).map(|number| outbox(number, 1).0).collect();
            let began = Instant::now();
            recheck(sessions.clone()).await;
            assert!(began.elapsed() <= longest, "{count}");
            assert!(sessions.iter().all(|session| session.take_recheck() && !session.take_recheck()));
        }
    }

    #[test]
    fn a_session_is_concerned_by_its_account_and_by_those_it_gets_events_of() {
        let (session, _) = outbox(1, 1);
        let concerned = |account: &str| session.concerns(&HashSet::from([account.to_owned()]));
        assert!(!concerned("a") && !concerned(""));
        session.set_account(&"a".into());
        session.set_other_accounts(vec!["b".into()]);
        assert!(concerned("a") && concerned("b") && !concerned("c"));
    }
}
