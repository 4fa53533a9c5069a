//! The catch-up: brings lagging sessions up to date from the stream, those that read slowly and those that resume with a
//! cursor.
//!
//! Sessions that fall behind within a short window share one replay. When an edge dies, thousands of sessions resume on
//! another one with cursors close to each other: one **unfiltered reader** reads the gap once for all of them. For a
//! single session with an old cursor it would read many events that nobody needs: that one gets a replay of its own with
//! **filtered readers**, one for each of its subjects. [`plan`] chooses by the number of events in the gap, so the cost
//! follows the events, not the number of sessions times the length of the stream. Live events of other sessions wait for
//! none of this.
//!
//! A replay reads up to where its sessions' subjects are live, while the dispatcher buffers the live events that come
//! meanwhile. With those its sessions are live. A session whose outbox is full leaves the replay, and joins another one
//! when its client has read.

mod plan;
mod read;
mod replay;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use blackhole_common::backoff::Backoff;
use tokio::{
    sync::{Semaphore, watch},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    plan::{Gap, MAX_FILTERED_READERS, shared},
    replay::ReplayBatch,
};
use crate::{
    delivery::dispatcher::Dispatcher,
    metrics::Metrics,
    outbox::{Outbox, lagging_sessions::LaggingSessions},
    protocol::close::Close,
    upstream::{
        history::History,
        stream_info::{StreamError, StreamInfo},
    },
};

/// Sessions that fall behind within this window share one replay.
const GATHER_TIME: Duration = Duration::from_millis(10);
/// Replays that run at the same time.
const MAX_REPLAYS: usize = 4;

/// Brings lagging sessions up to date.
#[derive(Debug)]
pub(crate) struct Catchup {
    lagging: Arc<LaggingSessions>,
    dispatcher: Arc<Dispatcher>,
    history: History,
    /// The stream as the event reader knows it.
    stream: watch::Receiver<Option<StreamInfo>>,
    metrics: Arc<Metrics>,
    running: Semaphore,
    last_replay: AtomicU64,
}

impl Catchup {
    /// Serves the sessions in `lagging` from `history`, while that is the `stream` that the event reader knows.
    pub(crate) fn new(
        lagging: Arc<LaggingSessions>,
        dispatcher: Arc<Dispatcher>,
        history: History,
        stream: watch::Receiver<Option<StreamInfo>>,
        metrics: Arc<Metrics>,
    ) -> Catchup {
        let running = Semaphore::new(MAX_REPLAYS);
        Catchup { lagging, dispatcher, history, stream, metrics, running, last_replay: AtomicU64::new(0) }
    }

    /// Runs until `shutdown`.
    pub(crate) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let replays = TaskTracker::new();
        let serve = async {
            let mut backoff = Backoff::for_brokers();
            loop {
                self.lagging.changed().await;
                sleep(GATHER_TIME).await;
                let sessions = self.lagging.take();
                match self.info().await {
                    Ok(Some(info)) => {
                        backoff.reset();
                        self.start_replays(sessions, &info, &replays);
                    }
                    Ok(None) => {
                        let lagging = sessions.iter().filter(|session| session.lagging().is_some());
                        lagging.for_each(|session| session.close(Close::Behind));
                    }
                    Err(error) => {
                        tracing::debug!(%error, "cannot get the stream's state, trying again");
                        sleep(backoff.next_wait()).await;
                        sessions.into_iter().for_each(|session| self.lagging.add(session));
                    }
                }
            }
        };
        shutdown.run_until_cancelled(serve).await;
        replays.close();
    }

    /// The stream's state. Whether it is still the same stream is for the event reader to find out.
    async fn info(&self) -> Result<Option<StreamInfo>, StreamError> {
        let info = self.history.info().await?;
        let known = self.stream.borrow().as_ref().map(|known| known.id);
        if info.as_ref().map(|info| info.id) == known {
            Ok(info)
        } else {
            Err(StreamError::new("the stream is not the one that was known"))
        }
    }

    /// Starts one replay for the sessions that share a reader, and one for each of the others.
    fn start_replays(self: &Arc<Self>, sessions: Vec<Arc<Outbox>>, info: &StreamInfo, replays: &TaskTracker) {
        let mut behind = Vec::with_capacity(sessions.len());
        for session in sessions {
            let Some(lag) = session.lagging() else { continue };
            self.metrics.lag.observe(info.last.saturating_sub(lag.after) as f64);
            if info.reaches_back_to(lag.after) {
                behind.push((lag.after, session));
            } else {
                session.close(Close::Behind);
            }
        }
        behind.sort_by_key(|(after, _)| std::cmp::Reverse(*after));
        let gaps: Vec<Gap> = behind
            .iter()
            .map(|(after, session)| Gap { after: *after, subjects: session.subjects().len() })
            .collect();
        let mut behind: Vec<Arc<Outbox>> = behind.into_iter().map(|(_, session)| session).collect();
        let alone = behind.split_off(shared(&gaps, info.last));
        for group in std::iter::once(behind).chain(alone.into_iter().map(|session| vec![session])) {
            if !group.is_empty() {
                let (catchup, info) = (Arc::clone(self), info.clone());
                replays.spawn(async move { catchup.replay(group, &info).await });
            }
        }
    }

    async fn replay(self: Arc<Self>, sessions: Vec<Arc<Outbox>>, stream: &StreamInfo) {
        let Ok(_permit) = self.running.acquire().await else { return };
        let id = self.last_replay.fetch_add(1, Ordering::Relaxed) + 1;
        let is_replicated = stream.leader.is_some();
        let (mut batch, mut again) = ReplayBatch::new(id, sessions, &self.dispatcher, is_replicated);
        let result = self.bring_up_to_date(&mut batch, stream).await;
        self.dispatcher.flush_these(&mut batch.filled);
        if let Err(error) = result {
            self.dispatcher.drop_buffer(id);
            tracing::debug!(%error, "cannot read the stream to its end, trying again");
            again.extend(batch.abort());
        }
        if !again.is_empty() {
            sleep(Backoff::for_brokers().next_wait()).await;
            again.into_iter().for_each(|session| self.lagging.add(session));
        }
    }

    async fn bring_up_to_date(
        &self,
        batch: &mut ReplayBatch,
        stream: &StreamInfo,
    ) -> Result<(), StreamError> {
        let mut after = batch.start();
        while batch.is_needed() {
            let live = self.dispatcher.start_buffer(batch.id(), batch.subject_numbers());
            let Some(info) = self.info().await?.filter(|info| info.id == stream.id) else {
                batch.close_behind(u64::MAX);
                break;
            };
            // Everything up to here is in the stream; everything after it comes live.
            let last = live.max(info.last);
            let subjects = batch.subjects();
            // A filtered reader does not notice that its server lacks events that the leader has; an unfiltered reader sees
            // a gap in the positions.
            let is_shared = info.leader.is_some()
                || batch.len() > 1
                || shared(&[Gap { after, subjects: subjects.len() }], last) == 1
                || subjects.len() > MAX_FILTERED_READERS;
            if is_shared {
                let reader = self.history.read(stream.id, after, last, None).await?;
                self.read_unfiltered(batch, reader).await?;
            } else {
                self.read_filtered(batch, &subjects, stream.id, after, last).await?;
                // A filtered reader does not notice either that events have left the stream.
                let is_complete = self.info().await?.is_some_and(|info| info.reaches_back_to(after));
                if !is_complete {
                    batch.close_behind(u64::MAX);
                }
            }
            batch.advance(last);
            let is_live = self.dispatcher.end_buffer(batch.id(), |events| {
                batch.finish(self.dispatcher.event_root(), last, &events, &self.metrics);
            });
            if is_live {
                return Ok(());
            }
            after = last;
        }
        self.dispatcher.drop_buffer(batch.id());
        Ok(())
    }
}
