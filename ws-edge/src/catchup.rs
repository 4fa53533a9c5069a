//! Bringing lagging sessions up to date from the stream: those that read slowly, and those that came back with a
//! cursor.
//!
//! Sessions that want it at the same moment are served together. When an edge dies, thousands come to another one with
//! cursors close to each other: **one shared reader** reads the gap once, whoever it is for. A single session with an
//! old cursor would have it read much that is for nobody: it gets **filtered readers**, one for each of its subjects,
//! in a pass of its own. What is cheaper is reckoned from the number of events in the gap (`shared`), so the cost
//! follows the events, not sessions times the length of the stream; and nobody's live events wait for any of it.
//!
//! A pass reads up to where its sessions' subjects are live, while the table keeps what comes live in the meantime
//! (`fanout::tail`); with that, its sessions are live. A session whose queue is full is left behind and comes again when
//! its client has read.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use blackhole_common::backoff::Backoff;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    close::Close,
    cursor::Identity,
    fanout::{Fanout, Lanes},
    feed::stream::{StreamInfo, Unreadable},
    frame::EventFrames,
    history::{Found, History, Reader},
    metrics::Metrics,
    outbox::{Outbox, PassNumber},
};

/// Those who come within this are served together.
const GATHER: Duration = Duration::from_millis(10);
/// Passes that run at once, at most.
const MOST_PASSES: usize = 4;
/// A pass of many sessions hands out so many events, then lets others have the thread and has the queues flushed.
const AT_ONCE: usize = 64;
/// Reading so many events of all subjects costs about what a filtered reader costs to set up, beside its events.
const EVENTS_PER_READER: u64 = 1000;
/// A session with more subjects than this is never given a reader for each.
const MOST_READERS: usize = 16;

/// Sessions that want to be brought up to date.
#[derive(Debug, Default)]
pub struct Wants {
    /// Each session a few times at most: it is only added when something changed about it.
    sessions: Mutex<Vec<Arc<Outbox>>>,
    changed: Notify,
}

impl Wants {
    /// Adds a session.
    pub fn add(&self, session: Arc<Outbox>) {
        self.sessions.lock().push(session);
        self.changed.notify_one();
    }

    fn take(&self) -> Vec<Arc<Outbox>> {
        let mut sessions = std::mem::take(&mut *self.sessions.lock());
        sessions.sort_by_key(|session| session.number);
        sessions.dedup_by_key(|session| session.number);
        sessions
    }
}

/// Brings sessions up to date.
#[derive(Debug)]
pub struct Catchup {
    wants: Arc<Wants>,
    fanout: Arc<Fanout>,
    history: History,
    /// What the feed takes the stream for.
    stream: watch::Receiver<Option<StreamInfo>>,
    metrics: Arc<Metrics>,
    places: Semaphore,
    last_pass: AtomicU64,
}

/// A session and up to where it has had everything.
type Behind = (Arc<Outbox>, u64);

impl Catchup {
    /// Serves those in `wants` from `history`, as long as that is the `stream` that the feed knows.
    pub fn new(
        wants: Arc<Wants>,
        fanout: Arc<Fanout>,
        history: History,
        stream: watch::Receiver<Option<StreamInfo>>,
        metrics: Arc<Metrics>,
    ) -> Catchup {
        Catchup {
            wants,
            fanout,
            history,
            stream,
            metrics,
            places: Semaphore::new(MOST_PASSES),
            last_pass: AtomicU64::new(0),
        }
    }

    /// Serves until `shutdown`.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let passes = TaskTracker::new();
        let serve = async {
            let mut backoff = Backoff::for_brokers();
            loop {
                self.wants.changed.notified().await;
                tokio::time::sleep(GATHER).await;
                let wanting = self.wants.take();
                match self.info().await {
                    Ok(Some(info)) => {
                        backoff.reset();
                        self.begin_passes(wanting, &info, &passes);
                    }
                    Ok(None) => wanting.iter().for_each(|session| {
                        if session.lagging().is_some() {
                            session.close(Close::Behind);
                        }
                    }),
                    Err(error) => {
                        tracing::debug!(%error, "the stream cannot be asked yet");
                        tokio::time::sleep(backoff.next_wait()).await;
                        wanting.into_iter().for_each(|session| self.wants.add(session));
                    }
                }
            }
        };
        shutdown.run_until_cancelled(serve).await;
        passes.close();
    }

    /// What the stream is. Whether it is another one than before is for the feed to find out.
    async fn info(&self) -> Result<Option<StreamInfo>, Unreadable> {
        let info = self.history.info().await?;
        let known = self.stream.borrow().as_ref().map(|known| known.identity);
        if info.as_ref().map(|info| info.identity) == known {
            Ok(info)
        } else {
            Err(Unreadable::new("the stream is not the one that was known"))
        }
    }

    fn begin_passes(self: &Arc<Self>, wanting: Vec<Arc<Outbox>>, info: &StreamInfo, passes: &TaskTracker) {
        let mut behind: Vec<Behind> = Vec::with_capacity(wanting.len());
        for session in wanting {
            let Some(lag) = session.lagging() else { continue };
            self.metrics.most_lag.observe(info.last.saturating_sub(lag.after) as f64);
            if info.reaches_back_to(lag.after) {
                behind.push((session, lag.after));
            } else {
                session.close(Close::Behind);
            }
        }
        behind.sort_by_key(|(_, after)| std::cmp::Reverse(*after));
        let readers: Vec<(u64, u64)> =
            behind.iter().map(|(session, after)| (*after, session.subjects().len() as u64)).collect();
        let alone = behind.split_off(shared(&readers, info.last));
        for group in std::iter::once(behind).chain(alone.into_iter().map(|one| vec![one])) {
            if !group.is_empty() {
                let (catchup, info) = (Arc::clone(self), info.clone());
                passes.spawn(async move { catchup.pass(group, &info).await });
            }
        }
    }

    async fn pass(self: Arc<Self>, sessions: Vec<Behind>, stream: &StreamInfo) {
        let Ok(_place) = self.places.acquire().await else { return };
        let pass: PassNumber = self.last_pass.fetch_add(1, Ordering::Relaxed) + 1;
        let sessions: Vec<Behind> = sessions
            .into_iter()
            .filter_map(|(session, _)| session.join_pass(pass).map(|after| (session, after)))
            .collect();
        if sessions.is_empty() {
            return;
        }
        let (mut lanes, mut again) = self.fanout.lanes(pass, sessions, stream.leader.is_some());
        let result = self.bring_up_to_date(&mut lanes, stream).await;
        self.fanout.flush_these(lanes.filled());
        if let Err(error) = result {
            self.fanout.drop_tail(pass);
            tracing::debug!(%error, "cannot read the stream to its end, trying again");
            again.extend(lanes.give_up());
        }
        if !again.is_empty() {
            tokio::time::sleep(Backoff::for_brokers().next_wait()).await;
            again.into_iter().for_each(|session| self.wants.add(session));
        }
    }

    async fn bring_up_to_date(&self, lanes: &mut Lanes, stream: &StreamInfo) -> Result<(), Unreadable> {
        let (identity, mut after) = (stream.identity, lanes.begin());
        while lanes.is_wanted() {
            let live = self.fanout.start_tail(lanes);
            let info = self.info().await?.filter(|info| info.identity == identity);
            let Some(info) = info else {
                lanes.close_behind(u64::MAX);
                self.fanout.drop_tail(lanes.pass());
                return Ok(());
            };
            // Everything up to here is in the stream, everything beyond comes live.
            let last = live.max(info.last);
            let texts = lanes.texts();
            // Where a filtered reader is served by a server that does not have everything yet, nothing tells; positions
            // without a gap do.
            let is_shared = info.leader.is_some()
                || lanes.sessions().nth(1).is_some()
                || shared(&[(after, texts.len() as u64)], last) == 1
                || texts.len() > MOST_READERS;
            if is_shared {
                self.read_all(lanes, self.history.read(identity, after, last, None).await?).await?;
            } else {
                self.read_filtered(lanes, &texts, identity, after, last).await?;
                // What left the stream while it was read shows only in where it begins now.
                let still = self.info().await?.is_some_and(|info| info.reaches_back_to(after));
                if !still {
                    lanes.close_behind(u64::MAX);
                }
            }
            lanes.advance(last);
            if self.fanout.finish(lanes, last) {
                return Ok(());
            }
            after = last;
        }
        self.fanout.drop_tail(lanes.pass());
        Ok(())
    }

    async fn read_all(&self, lanes: &mut Lanes, mut reader: Reader) -> Result<(), Unreadable> {
        let mut handed = 0;
        loop {
            match reader.next().await? {
                Found::Event(event) => self.hand_out(lanes, &event),
                Found::Gone(position) => lanes.close_behind(position),
                Found::End => return Ok(()),
            }
            handed += 1;
            if handed % AT_ONCE == 0 {
                self.fanout.flush_these(lanes.filled());
                if !lanes.is_wanted() {
                    return Ok(());
                }
                tokio::task::yield_now().await;
            }
        }
    }

    /// One reader for each subject; what they bring is put in order.
    async fn read_filtered(
        &self,
        lanes: &mut Lanes,
        subjects: &[Arc<str>],
        identity: Identity,
        after: u64,
        last: u64,
    ) -> Result<(), Unreadable> {
        let mut heads = Vec::with_capacity(subjects.len());
        for subject in subjects {
            let mut reader = self.history.read(identity, after, last, Some(subject)).await?;
            if let Found::Event(event) = reader.next().await? {
                heads.push((event, reader));
            }
        }
        let mut handed = 0;
        let place = |event: &crate::frame::Event| event.place.map(|place| place.sequence);
        while let Some(first) = heads.iter().map(|(event, _)| place(event)).min() {
            let mut is_new = true;
            for index in (0..heads.len()).rev() {
                let Some((event, reader)) = heads.get_mut(index) else { continue };
                if place(event) != first {
                    continue;
                }
                // An event that matches two subjects comes from both readers.
                if std::mem::take(&mut is_new) {
                    self.hand_out(lanes, event);
                }
                match reader.next().await? {
                    Found::Event(next) => *event = next,
                    Found::Gone(_) | Found::End => drop(heads.swap_remove(index)),
                }
            }
            handed += 1;
            if handed % AT_ONCE == 0 {
                self.fanout.flush_these(lanes.filled());
                if !lanes.is_wanted() {
                    return Ok(());
                }
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    fn hand_out(&self, lanes: &mut Lanes, event: &crate::frame::Event) {
        self.metrics.events_caught_up.inc();
        match EventFrames::read(self.fanout.event_root(), event) {
            Some(frames) => lanes.deliver(event, &frames),
            None => drop(self.metrics.events_unreadable.inc()),
        }
    }
}

/// How many of these sessions one shared reader serves best, the newest first: each is given by its position and the
/// number of its subjects. The rest gets readers of its own.
///
/// A shared reader costs the events from the oldest of its sessions to the end; readers of one's own cost something for
/// each subject, and the events that match, which are handed out either way.
fn shared(sessions: &[(u64, u64)], last: u64) -> usize {
    let own = |subjects: u64| {
        if subjects as usize > MOST_READERS {
            u64::MAX / 4
        } else {
            subjects.saturating_mul(EVENTS_PER_READER)
        }
    };
    let mut rest: u64 = sessions.iter().fold(0, |sum: u64, (_, subjects)| sum.saturating_add(own(*subjects)));
    let mut best = (rest, 0);
    for (index, (after, subjects)) in sessions.iter().enumerate() {
        rest = rest.saturating_sub(own(*subjects));
        let cost = last.saturating_sub(*after).saturating_add(rest);
        if cost <= best.0 {
            best = (cost, index + 1);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_with_recent_cursors_share_a_reader() {
        let storm: Vec<(u64, u64)> = (0..5000).map(|session| (1_000_000 - session, 3)).collect();
        assert_eq!(shared(&storm, 1_050_000), 5000);
    }

    #[test]
    fn one_with_an_old_cursor_gets_readers_of_its_own_and_delays_nobody() {
        let mut sessions: Vec<(u64, u64)> = (0..100).map(|session| (1_000_000 - session, 3)).collect();
        sessions.push((100, 3));
        assert_eq!(shared(&sessions, 1_000_100), 100);
        assert_eq!(shared(&[(100, 3)], 1_000_000), 0);
    }

    #[test]
    fn a_short_gap_is_read_whole() {
        assert_eq!(shared(&[(100, 1)], 200), 1);
        assert_eq!(shared(&[(100, 1)], 100), 1);
        assert_eq!(shared(&[], 100), 0);
    }

    #[test]
    fn a_session_with_very_many_subjects_reads_everything() {
        assert_eq!(shared(&[(0, 1000)], 10_000_000), 1);
    }
}
