//! The catch-up: brings lagging sessions up to date from the stream, those that read slowly and those that resume with a
//! cursor.
//!
//! Sessions that fall behind within a short window share one replay. When an edge dies, thousands of sessions resume on
//! another one with cursors close to each other: one **unfiltered reader** reads the gap once for all of them. For the
//! sessions of one account with an old cursor it would read many events that nobody needs: they get a replay of their own
//! with **filtered readers**, one for each tenant. [`plan`] chooses by the number of events in the gap. Live events of
//! other sessions wait for none of this.
//!
//! A cursor is not signed: anybody may claim to stand at the beginning of the stream. So what an account can cause is
//! bounded: [`schedule`] gives each account one place, and [`budget`] limits what is read for it per second. A replay
//! whose account has used that up ends where it is, and another one goes on later.
//!
//! A replay reads up to where its sessions' subjects are live, while the dispatcher buffers the live events that come
//! meanwhile. With those its sessions are live. A session whose outbox is full leaves the replay, and joins another one
//! when its client has read.

mod budget;
mod health;
pub(crate) mod plan;
mod read;
pub(crate) mod replay;
mod schedule;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use blackhole_common::{backoff::Backoff, clock, readiness::Latch};
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    task::{self, JoinError, JoinSet},
    time::{sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use self::{
    budget::{BURST, Charge},
    health::Health,
    plan::{ReadEnd, Reading},
    replay::ReplayBatch,
    schedule::{Job, Schedule},
};
use crate::{
    delivery::dispatcher::Dispatcher,
    ids::ReplayId,
    limits::budget::Budgets,
    metrics::Metrics,
    outbox::{Outbox, Stage, lagging_sessions::LaggingSessions},
    protocol::close::Close,
    upstream::{
        history::History,
        stream_info::{StreamError, StreamInfo},
    },
};

/// Sessions that fall behind within this window share one replay.
const GATHER_TIME: Duration = Duration::from_millis(10);

/// Brings lagging sessions up to date.
#[derive(Debug)]
pub(crate) struct Catchup {
    lagging: Arc<LaggingSessions>,
    dispatcher: Arc<Dispatcher>,
    history: History,
    /// The stream as the event reader knows it.
    stream: watch::Receiver<Option<StreamInfo>>,
    budgets: Mutex<Budgets<Arc<str>>>,
    health: Health,
    metrics: Arc<Metrics>,
}

impl Catchup {
    /// Serves the sessions in `lagging` from `history`, while that is the `stream` that the event reader knows. Reads at
    /// most `bytes_per_second` for each account. `readable` is not ready while the history cannot be read.
    pub(crate) fn new(
        lagging: Arc<LaggingSessions>,
        dispatcher: Arc<Dispatcher>,
        history: History,
        stream: watch::Receiver<Option<StreamInfo>>,
        bytes_per_second: u64,
        readable: Latch,
        metrics: Arc<Metrics>,
    ) -> Catchup {
        let budgets = Mutex::new(Budgets::new(bytes_per_second as f64, BURST));
        let health = Health::new(readable);
        Catchup { lagging, dispatcher, history, stream, budgets, health, metrics }
    }

    /// Runs until `shutdown`.
    pub(crate) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        shutdown.run_until_cancelled(self.serve()).await;
    }

    async fn serve(self: Arc<Self>) {
        let mut schedule = Schedule::default();
        let mut replays = JoinSet::new();
        let mut ids = HashMap::new();
        let mut backoff = Backoff::for_brokers();
        loop {
            let paid = self.next_paid(&schedule);
            tokio::select! {
                biased;
                () = self.lagging.changed() => {
                    sleep(GATHER_TIME).await;
                    self.lagging.take().into_iter().for_each(|session| add(&mut schedule, session));
                }
                Some(ended) = replays.join_next_with_id() => {
                    let id = ended.map_or_else(|error: JoinError| error.id(), |(id, ())| id);
                    if let Some(replay) = ids.remove(&id) {
                        schedule.finished(replay);
                    }
                }
                () = async { sleep_until(paid.unwrap_or_else(clock::now).into()).await }, if paid.is_some() => {}
            }
            if schedule.is_empty() {
                continue;
            }
            match self.info().await {
                Ok(Some(info)) => {
                    backoff.reset();
                    self.start_replays(&mut schedule, &info, &mut replays, &mut ids);
                }
                Ok(None) => {
                    let lagging = schedule.take_all().filter(|session| session.lagging().is_some());
                    lagging.for_each(|session| session.close(Close::Behind));
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot get the stream's state, trying again");
                    sleep(backoff.next_wait()).await;
                    schedule.take_all().for_each(|session| self.lagging.add(session));
                }
            }
        }
    }

    /// When the first account that waits for its budget may read again.
    fn next_paid(&self, schedule: &Schedule<Arc<Outbox>>) -> Option<Instant> {
        let (budgets, now) = (self.budgets.lock(), clock::now());
        schedule.accounts().filter_map(|account| budgets.exhausted_until(account, now)).min()
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

    fn start_replays(
        self: &Arc<Self>,
        schedule: &mut Schedule<Arc<Outbox>>,
        info: &StreamInfo,
        replays: &mut JoinSet<()>,
        ids: &mut HashMap<task::Id, ReplayId>,
    ) {
        loop {
            let now = clock::now();
            let may_read = |account: &str| self.budgets.lock().exhausted_until(account, now).is_none();
            let Some(job) = schedule.next(info.last, may_read) else { return };
            let (id, catchup, info) = (job.id, Arc::clone(self), info.clone());
            let task = replays.spawn(async move { catchup.replay(job, &info).await });
            ids.insert(task.id(), id);
        }
    }

    async fn replay(self: Arc<Self>, job: Job<Arc<Outbox>>, stream: &StreamInfo) {
        let Job { id, accounts, sessions } = job;
        let mut behind = Vec::with_capacity(sessions.len());
        for waiting in sessions {
            self.metrics.lag.observe(stream.last.saturating_sub(waiting.after) as f64);
            if stream.reaches_back_to(waiting.after) {
                behind.push(waiting.session);
            } else {
                waiting.session.close(Close::Behind);
            }
        }
        let (mut batch, mut again) = ReplayBatch::new(id, behind, &self.dispatcher, stream.leader.is_some());
        let mut charge = Charge::new(&self.budgets, &self.metrics, accounts);
        let result = self.bring_up_to_date(&mut batch, stream, &mut charge).await;
        self.dispatcher.flush_these(&mut batch.filled);
        self.dispatcher.drop_buffer(id);
        match &result {
            Ok(_) => self.health.succeeded(),
            Err(error) => self.health.failed(error),
        }
        if !matches!(result, Ok(ReadEnd::Complete)) {
            let unfinished = batch.abort();
            match result {
                // Those that wait only for their budget need no pause: the schedule knows when it is paid.
                Ok(_) => unfinished.into_iter().for_each(|session| self.lagging.add(session)),
                Err(error) => {
                    tracing::debug!(%error, "cannot read the stream to its end, trying again");
                    again.extend(unfinished);
                }
            }
        }
        if !again.is_empty() {
            sleep(Backoff::for_brokers().next_wait()).await;
            again.into_iter().for_each(|session| self.lagging.add(session));
        }
    }

    /// Reads until the sessions are live, nobody needs it any more, or the budget is used up.
    async fn bring_up_to_date(
        &self,
        batch: &mut ReplayBatch,
        stream: &StreamInfo,
        charge: &mut Charge<'_>,
    ) -> Result<ReadEnd, StreamError> {
        while batch.is_needed() {
            let after = batch.start();
            let live = self.dispatcher.start_buffer(batch.id(), batch.subject_numbers());
            let Some(info) = self.info().await?.filter(|info| info.id == stream.id) else {
                batch.close_behind(u64::MAX);
                break;
            };
            // Everything up to here is in the stream; everything after it comes live.
            let last = live.max(info.last);
            let gap = last.saturating_sub(after);
            let end = match Reading::choose(self.dispatcher.event_root(), batch.subjects(), gap) {
                Reading::Everything => {
                    let reader = self.history.read(stream.id, after, last, None).await?;
                    self.read_everything(batch, reader, charge).await?
                }
                Reading::Filtered(filters) => {
                    self.read_filtered(batch, &filters, &info, after, last, charge).await?
                }
            };
            match end {
                ReadEnd::Complete => batch.advance(last),
                ReadEnd::Unneeded => break,
                ReadEnd::Exhausted(position) => {
                    batch.advance(position);
                    return Ok(end);
                }
            }
            let is_live = self.dispatcher.end_buffer(batch.id(), |events| {
                batch.finish(self.dispatcher.event_root(), last, events, &self.metrics);
            });
            if is_live {
                return Ok(ReadEnd::Complete);
            }
        }
        Ok(ReadEnd::Unneeded)
    }
}

/// Adds a session to those that wait, if it needs a replay.
fn add(schedule: &mut Schedule<Arc<Outbox>>, session: Arc<Outbox>) {
    if let Some(lag) = session.lagging().filter(|lag| lag.stage == Stage::Waiting) {
        schedule.add(session.number, session.account(), lag.after, session);
    }
}
