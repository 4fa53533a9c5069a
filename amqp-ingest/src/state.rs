//! The state: keeps the last event of each living thing, for clients that ask for the present.
//!
//! The kept events follow from the stream of events alone: the keeper reads that in order, from where the kept events
//! are, and carries out what a batch of events changes: the last event of each thing is written to the thing's own
//! subject, and what has ended is deleted by its position. Then it notes how far that is. So nothing depends on who was
//! killed when: whoever goes on begins at the noted position, and writes or deletes the same again.
//!
//! What a reader finds is at least what was true at the noted position, and things that are newer say so by their own
//! position. With the events after the noted position it is complete.
//!
//! All ingests could keep it, and one does. Each write names the position of the last message in the stream of kept
//! events (`Nats-Expected-Last-Sequence`), so that of two keepers one is refused at its next write. It stands by until
//! the other one does not go on.
//!
//! Nothing of it is in the way of events: it has a connection and a task of its own. It reads all events, in order, and
//! parses those of the families that have a state. If no family has one, it does not run.

pub mod living;
mod source;
mod store;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_nats::{Client, jetstream};
use blackhole_common::{
    backoff::Backoff,
    catalogue::Catalogue,
    nats::{self, Latches, NatsError},
    readiness::{Latch, Readiness},
    subject,
    wire::{StateFamily, StateProgress, Subjects},
};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use self::{
    living::{Changes, Living},
    source::{Source, StreamInfo},
    store::Store,
};
use crate::{
    config::{HistoryConfig, IngestConfig},
    metrics::Metrics,
};

/// How long to wait for events.
const INTERVAL: Duration = Duration::from_millis(100);
/// How long to wait for events when none came for a while.
const IDLE_INTERVAL: Duration = Duration::from_millis(250);
/// How often to note the position at least: it also tells other keepers that this one goes on.
const NOTE_INTERVAL: Duration = Duration::from_secs(1);
/// How often to look for things that are too old.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(10);
/// Events before the noted position that a keeper reads again when it begins.
const RECHECKED: u64 = 20_000;
/// Another keeper that has not gone on for this long is taken for dead.
const STALLED: Duration = Duration::from_secs(3);
/// A lagging stream of a cluster is not believed to be another one before this long.
const CONTRADICTED: Duration = Duration::from_secs(10);

/// Keeps the last event of each living thing.
#[derive(Debug)]
pub(crate) struct Keeper {
    client: Client,
    subjects: Subjects,
    history: HistoryConfig,
    catalogue: Arc<Catalogue>,
    ready: Latch,
    metrics: Metrics,
}

/// Why keeping stopped.
#[derive(Debug)]
enum Stop {
    /// Another keeper writes.
    Conflict,
    /// The stream was replaced, or has lost events that were not read: what is kept is of no use.
    Anew,
    /// NATS does not do what was asked.
    Failed(String),
}

impl From<String> for Stop {
    fn from(reason: String) -> Stop {
        Stop::Failed(reason)
    }
}

impl Keeper {
    /// A keeper of what the catalogue says.
    ///
    /// # Errors
    /// If NATS's credentials cannot be used.
    pub(crate) async fn new(
        config: &IngestConfig,
        catalogue: Arc<Catalogue>,
        readiness: &Readiness,
        metrics: Metrics,
    ) -> Result<Keeper, NatsError> {
        // Of its own: a flood of requests must not delay it, nor it them.
        let ready = readiness.optional("state");
        let connection = readiness.optional("state over nats");
        let latches = Latches { connection, permissions: readiness.optional("state permissions") };
        let client = nats::connect(&config.nats, "amqp-ingest state", latches).await?;
        let (subjects, history) = (Subjects::new(&config.nats.prefix), config.history.clone());
        Ok(Keeper { client, subjects, history, catalogue, ready, metrics })
    }

    /// Whether there is anything to keep.
    pub(crate) fn is_needed(catalogue: &Catalogue, history: &HistoryConfig) -> bool {
        !history.is_off() && catalogue.families().iter().any(|family| family.has_state())
    }

    /// Keeps until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let _ = shutdown.run_until_cancelled(self.keep_on()).await;
    }

    async fn keep_on(&self) {
        let mut backoff = Backoff::for_brokers();
        let mut anew = false;
        loop {
            if !anew {
                self.stand_by().await;
            }
            let started = Instant::now();
            match self.keep(std::mem::take(&mut anew)).await {
                Stop::Conflict => {
                    tracing::debug!("another ingest keeps the state");
                    sleep(STALLED).await;
                }
                Stop::Anew => anew = true,
                Stop::Failed(reason) => {
                    if self.ready.set(false) {
                        tracing::warn!(reason, "the state is not kept at the moment, retrying");
                    }
                    if started.elapsed() > Duration::from_secs(10) {
                        backoff.reset();
                    }
                    sleep(backoff.next_wait()).await;
                }
            }
        }
    }

    /// Returns when nobody else keeps the state.
    async fn stand_by(&self) {
        let context = jetstream::new(self.client.clone());
        let mut seen = None;
        loop {
            // Nobody answers for a stream that does not exist.
            if !matches!(source::info(&self.client, &self.subjects.state_stream()).await, Ok(Some(_))) {
                return;
            }
            let now = match store::progress(&context, &self.subjects).await {
                Ok(Some((sequence, _))) => Some(sequence),
                Ok(None) | Err(_) => return,
            };
            if now == seen {
                return;
            }
            seen = now;
            // Another ingest does the work.
            self.metrics.state_things.set(0);
            sleep(STALLED).await;
        }
    }

    /// Keeps until something prevents it. `anew`: begins from nothing.
    async fn keep(&self, anew: bool) -> Stop {
        match self.try_keep(anew).await {
            Ok(never) => match never {},
            Err(stop) => stop,
        }
    }

    async fn try_keep(&self, anew: bool) -> Result<std::convert::Infallible, Stop> {
        let stream = self.subjects.stream();
        let ask = || source::info(&self.client, &stream);
        let missing = || Stop::Failed("there is no stream yet".to_owned());
        let mut info = ask().await?.ok_or_else(missing)?;
        let mut living = Living::default();
        let family = |word: &str| family_of(&self.catalogue, word);
        let (mut store, progress) =
            Store::open(self.client.clone(), &self.subjects, &self.history, family, &mut living).await?;
        if let Some(progress) = progress.as_ref().filter(|progress| !anew && !continues(progress, &info)) {
            return Err(self.contradicted(progress, ask).await?);
        }
        let goes_on = progress.filter(|_| !anew);
        let mut changes = Changes::default();
        let mut progress = self.begin(goes_on, &info, store.last());
        let begins: Vec<u64> = self.families(&progress, |family| family.begins);
        living.begin_anew(|family| begins.get(family).copied().unwrap_or_default(), &mut changes);
        // First what does not count any more, then its deletion.
        store.save(&mut living, &mut Changes::default(), &progress).await?;
        store.save(&mut living, &mut changes, &progress).await?;
        let root = self.subjects.ingest();
        // A server that was killed may have again what was deleted in its last seconds.
        let known = progress.position;
        let from = known.saturating_sub(RECHECKED).max(info.first.saturating_sub(1));
        let mut source = Source::new(self.client.clone(), stream.clone(), root, from.min(known));
        let (mut noted_at, mut expired_at, mut moved_at) = (Instant::now(), Instant::now(), Instant::now());
        self.ready.set(true);
        tracing::info!(things = living.count(), "keeping the state");
        loop {
            let (events, complete) = source.next(&info).await?;
            // Had something left the stream before it was read?
            info = ask().await?.ok_or_else(missing)?;
            if !continues(&progress, &info) {
                return Err(self.contradicted(&progress, ask).await?);
            }
            let mut changes = Changes::default();
            for event in &events {
                living.apply(&self.catalogue, event, event.position <= known, &mut changes);
            }
            if expired_at.elapsed() > EXPIRY_INTERVAL {
                expired_at = Instant::now();
                living.expire(now_ms(), &mut changes);
            }
            let max_bytes = usize::try_from(self.history.state_max_bytes.as_u64()).unwrap_or(usize::MAX);
            self.note_trimmed(&mut progress, &living.trim(max_bytes, &mut changes));
            if complete > progress.position {
                (progress.position, moved_at) = (complete, Instant::now());
            }
            if !changes.is_empty() || noted_at.elapsed() > NOTE_INTERVAL {
                self.metrics.state_writes.inc_by(changes.writes().count() as u64);
                store.save(&mut living, &mut changes, &progress).await?;
                noted_at = Instant::now();
            }
            self.metrics.state_things.set(i64::try_from(living.count()).unwrap_or(i64::MAX));
            if complete >= info.last {
                sleep(if moved_at.elapsed() > NOTE_INTERVAL { IDLE_INTERVAL } else { INTERVAL }).await;
            }
        }
    }

    /// The progress to begin with, after the message `last` of the kept events.
    fn begin(&self, earlier: Option<StateProgress>, info: &StreamInfo, last: u64) -> StateProgress {
        let now = now_ms();
        let since =
            |is_new: bool| if is_new && info.first <= info.last { info.first_ms.min(now) } else { now };
        let position = earlier.as_ref().map_or(info.first.saturating_sub(1), |earlier| earlier.position);
        let families = self.catalogue.families().iter().filter(|family| family.has_state()).map(|family| {
            let definition = digest(&family.state_definition());
            let known = earlier.as_ref().and_then(|earlier| earlier.families.get(&family.name));
            let own = match known.filter(|known| known.definition == definition) {
                Some(known) => known.clone(),
                None => StateFamily { definition, begins: last, since_ms: since(earlier.is_none()) },
            };
            (family.name.clone(), own)
        });
        StateProgress { stream: info.created.clone(), position, families: families.collect() }
    }

    /// A value for each family of the catalogue.
    fn families(&self, progress: &StateProgress, value: impl Fn(&StateFamily) -> u64) -> Vec<u64> {
        let families = self.catalogue.families().iter();
        families.map(|family| progress.families.get(&family.name).map(&value).unwrap_or_default()).collect()
    }

    fn note_trimmed(&self, progress: &mut StateProgress, trimmed: &HashMap<usize, u64>) {
        for (family, youngest) in trimmed {
            let name = self.catalogue.families().get(*family).map(|family| family.name.as_str());
            let Some(own) = name.and_then(|name| progress.families.get_mut(name)) else { continue };
            tracing::warn!(
                family = name,
                "history.state_max_bytes is too small: the oldest things are forgotten"
            );
            own.since_ms = own.since_ms.max(youngest.saturating_add(1));
        }
    }

    /// The stream is not what it was. A former leader of a cluster may say so: waits until it is certain.
    async fn contradicted<F>(&self, progress: &StateProgress, ask: impl Fn() -> F) -> Result<Stop, Stop>
    where
        F: Future<Output = Result<Option<StreamInfo>, String>>,
    {
        let started = Instant::now();
        loop {
            match ask().await? {
                Some(info) if continues(progress, &info) => {
                    return Ok(Stop::Failed("the stream was contradicted".into()));
                }
                Some(info) if info.leader.is_none() => return Ok(Stop::Anew),
                _ if started.elapsed() > CONTRADICTED => return Ok(Stop::Anew),
                _ => sleep(IDLE_INTERVAL).await,
            }
        }
    }
}

/// Whether everything after the noted position is in the stream.
fn continues(progress: &StateProgress, info: &StreamInfo) -> bool {
    progress.stream == info.created
        && progress.position.saturating_add(1) >= info.first
        && progress.position <= info.last
}

fn family_of(catalogue: &Catalogue, word: &str) -> Option<usize> {
    catalogue.families().iter().position(|family| {
        let mut own = String::new();
        subject::push_word(&mut own, family.name.as_bytes());
        own == word && family.has_state()
    })
}

fn digest(text: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
