//! From NATS to the table: the edge's reader of events.
//!
//! It runs on a thread of its own with a single-threaded runtime, which the NATS connection's own task shares.
//! So while the reader drains the subscriptions, nothing is added to them: what it finds is exactly what has
//! arrived so far, and sorted by the stream's positions it is in order across all subjects. The reader never
//! waits for a client.
//!
//! What was missed while the connection was away is read from the stream before live events go on; the table
//! drops what a session has had already.

mod replay;
mod subscriptions;

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::{Client, Event, Message};
use blackhole_common::{
    backoff::Backoff,
    config::NatsConfig,
    nats::{self, NatsError},
    readiness::Latch,
    wire::{self, Subjects},
};
use bytes::Bytes;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    fanout::{Arrival, Fanout, SubjectNumber},
    frame::EventFrames,
    metrics::Metrics,
};
use replay::StreamEnd;
use subscriptions::Subscriptions;

/// Asks the server for a confirmation again after this.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a position that went backwards makes the feed look whether the stream is still the same.
const SUSPICION_INTERVAL: Duration = Duration::from_secs(1);

/// What the connection tells while the reader is busy.
#[derive(Debug, Default)]
struct Signals {
    connected: AtomicBool,
    changed: Notify,
}

/// The edge's reader of events.
pub struct Feed {
    client: Client,
    signals: Arc<Signals>,
    fanout: Arc<Fanout>,
    metrics: Arc<Metrics>,
    subjects: Subjects,
    event_root: String,
    subscriptions: Subscriptions,
    /// Sessions and subjects whose confirmation is being asked for.
    asked: Option<Asked>,
    /// Subjects whose confirmation is to be asked for next.
    to_confirm: Vec<SubjectNumber>,
    /// The stream that positions belong to, by the time of its creation.
    stream: Option<String>,
    /// The newest event that was seen, by its position in that stream.
    position: u64,
    repair: Option<Repair>,
    suspected: Option<Instant>,
}

/// Events may be missing: nothing live is delivered before they are there.
struct Repair {
    backoff: Backoff,
    next_attempt: Instant,
}

struct Asked {
    subjects: Vec<SubjectNumber>,
    sessions: Vec<oneshot::Sender<()>>,
    answer: Pin<Box<dyn Future<Output = Result<Option<StreamEnd>, replay::ReplayError>>>>,
}

impl Feed {
    /// Starts the reader's thread, which ends when `shutdown` is cancelled.
    ///
    /// # Errors
    /// When the thread cannot be started, or what waiting for NATS does not mend.
    pub async fn start(
        config: NatsConfig,
        fanout: Arc<Fanout>,
        metrics: Arc<Metrics>,
        latch: Latch,
        shutdown: CancellationToken,
    ) -> Result<std::thread::JoinHandle<()>, FeedError> {
        let (started, start) = oneshot::channel();
        let thread = std::thread::Builder::new().name("feed".into()).spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    let _ = started.send(Err(FeedError::Thread(error)));
                    return;
                }
            };
            runtime.block_on(async move {
                match Feed::connect(&config, fanout, metrics, latch).await {
                    Ok(feed) => {
                        let _ = started.send(Ok(()));
                        // The budget that tokio gives a task would make a drained subscription look empty.
                        tokio::task::unconstrained(feed.run(shutdown)).await;
                    }
                    Err(error) => {
                        let _ = started.send(Err(FeedError::Nats(error)));
                    }
                }
            });
        })?;
        start.await.map_err(|_| FeedError::Ended)??;
        Ok(thread)
    }

    async fn connect(
        config: &NatsConfig,
        fanout: Arc<Fanout>,
        metrics: Arc<Metrics>,
        latch: Latch,
    ) -> Result<Feed, NatsError> {
        let signals = Arc::new(Signals::default());
        let options = nats::options(config, "ws-edge feed").await?;
        let client = nats::connect_with(config, options, latch, {
            let (signals, metrics) = (Arc::clone(&signals), Arc::clone(&metrics));
            move |event| match event {
                Event::Connected => {
                    signals.connected.store(true, Ordering::Release);
                    signals.changed.notify_one();
                }
                Event::SlowConsumer(_) => {
                    metrics.nats_slow.inc();
                }
                _ => {}
            }
        })
        .await?;
        let subjects = Subjects::new(&config.prefix);
        Ok(Feed {
            subscriptions: Subscriptions::new(client.clone()),
            client,
            signals,
            fanout,
            metrics,
            event_root: subjects.event(),
            subjects,
            asked: None,
            to_confirm: Vec::new(),
            stream: None,
            position: 0,
            repair: None,
            suspected: None,
        })
    }

    async fn run(mut self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            if self.signals.connected.swap(false, Ordering::AcqRel) && self.stream.is_some() {
                self.need_repair();
            }
            self.subscribe_fresh().await;
            self.forget_idle();
            self.ask_for_confirmation();
            self.try_repair().await;
            if self.repair.is_none() {
                self.deliver_arrived();
            }
            self.wait(&shutdown).await;
        }
    }

    /// Waits for anything to do.
    async fn wait(&mut self, shutdown: &CancellationToken) {
        let timer = self
            .repair
            .as_ref()
            .map(|repair| repair.next_attempt)
            .into_iter()
            .chain(self.fanout.next_idle())
            .min();
        let repairing = self.repair.is_some();
        let Feed { signals, fanout, subscriptions, asked, .. } = self;
        let answered = tokio::select! {
            () = shutdown.cancelled() => None,
            () = signals.changed.notified() => None,
            () = fanout.changed() => None,
            () = subscriptions.ready(), if !repairing => None,
            () = sleep_until(timer) => None,
            answer = async {
                match asked {
                    Some(asked) => (&mut asked.answer).await,
                    None => std::future::pending().await,
                }
            } => Some(answer),
        };
        if let Some(answer) = answered {
            self.confirm(answer);
        }
    }

    async fn subscribe_fresh(&mut self) {
        for (number, subject) in self.fanout.take_fresh() {
            match self.subscriptions.add(number, &subject).await {
                Ok(()) => self.to_confirm.push(number),
                // Only a client that was closed for good refuses; readiness shows it, and the request times out.
                Err(error) => tracing::error!(%error, %subject, "cannot subscribe"),
            }
        }
    }

    fn forget_idle(&mut self) {
        for number in self.fanout.take_idle(Instant::now()) {
            self.subscriptions.remove(number);
        }
    }

    /// One question to the stream serves all who wait: the server answers it after it has taken the
    /// subscriptions that were sent before, and it tells where the stream ends at that moment.
    fn ask_for_confirmation(&mut self) {
        if self.asked.is_some() {
            return;
        }
        let sessions = self.fanout.take_unconfirmed();
        let subjects = std::mem::take(&mut self.to_confirm);
        if sessions.is_empty() && subjects.is_empty() {
            return;
        }
        let answer =
            Box::pin(replay::stream_end(self.client.clone(), self.subjects.stream(), CONFIRM_TIMEOUT));
        self.asked = Some(Asked { subjects, sessions, answer });
    }

    fn confirm(&mut self, answer: Result<Option<StreamEnd>, replay::ReplayError>) {
        let Some(asked) = self.asked.take() else { return };
        match answer {
            Ok(end) => {
                if let Some(end) = &end {
                    self.note_stream(end);
                }
                self.fanout.confirm(&asked.subjects, end.map_or(0, |end| end.last));
                for session in asked.sessions {
                    // A session that is gone needs no answer.
                    let _ = session.send(());
                }
            }
            Err(error) => {
                tracing::debug!(%error, "no confirmation from nats, asking again");
                self.to_confirm.extend(asked.subjects);
                self.fanout.wait_on(asked.sessions);
            }
        }
    }

    /// Positions count from the first stream that is seen; of a later one they begin anew.
    fn note_stream(&mut self, end: &StreamEnd) {
        match &self.stream {
            None => {
                self.stream = Some(end.created.clone());
                self.position = self.position.max(end.last);
            }
            Some(created) if *created != end.created => {
                tracing::warn!("the stream was made anew, its positions begin anew");
                self.stream = Some(end.created.clone());
                self.position = 0;
                self.fanout.forget_positions();
                self.need_repair();
            }
            Some(_) => {}
        }
    }

    fn need_repair(&mut self) {
        self.repair
            .get_or_insert_with(|| Repair { backoff: Backoff::for_brokers(), next_attempt: Instant::now() });
    }

    async fn try_repair(&mut self) {
        match &self.repair {
            Some(repair) if repair.next_attempt <= Instant::now() => {}
            _ => return,
        }
        match self.bring_missed().await {
            Ok(brought) => {
                self.repair = None;
                if brought > 0 {
                    tracing::info!(events = brought, "brought missed events from the stream");
                }
            }
            Err(error) => {
                if let Some(repair) = &mut self.repair {
                    repair.next_attempt = Instant::now() + repair.backoff.next_wait();
                }
                tracing::debug!(%error, "cannot read the stream yet");
            }
        }
    }

    async fn bring_missed(&mut self) -> Result<u64, replay::ReplayError> {
        // No stream (any more): there is nothing to bring, and when it is made anew that will be noticed.
        let Some(end) =
            replay::stream_end(self.client.clone(), self.subjects.stream(), CONFIRM_TIMEOUT).await?
        else {
            return Ok(0);
        };
        self.note_stream(&end);
        if end.last <= self.position {
            return Ok(0);
        }
        let mut brought = 0;
        let mut missed =
            replay::Missed::open(&self.client, &self.subjects, self.position + 1, end.last).await?;
        while let Some((sequence, message)) = missed.next().await? {
            self.deliver_missed(sequence, &message);
            self.position = sequence;
            brought += 1;
        }
        self.position = self.position.max(end.last);
        Ok(brought)
    }

    fn deliver_missed(&self, sequence: u64, message: &Message) {
        let Some(rest) = message.subject.strip_prefix(self.subjects.ingest().as_str()) else { return };
        let subject = format!("{}{rest}", self.event_root);
        let tenant = rest.split('.').nth(1).unwrap_or_default();
        self.metrics.events_repaired.inc();
        if let Some(frames) = self.frames(&subject, message) {
            self.fanout.deliver_missed(
                &subject,
                tenant,
                &Arrival { frames: &frames, sequence: Some(sequence) },
            );
        }
    }

    fn deliver_arrived(&mut self) {
        let mut arrived: Vec<(Option<u64>, SubjectNumber, Message)> = self
            .subscriptions
            .drain()
            .map(|(number, message)| (sequence(&message), number, message))
            .collect();
        arrived.sort_by_key(|(sequence, ..)| *sequence);
        for (sequence, number, message) in arrived {
            self.metrics.events.inc();
            if let Some(sequence) = sequence {
                if sequence < self.position {
                    self.suspect();
                }
                self.position = self.position.max(sequence);
            }
            if let Some(frames) = self.frames(&message.subject, &message) {
                self.fanout.deliver(number, &Arrival { frames: &frames, sequence });
            }
        }
    }

    /// A position lower than one before: what a repair has brought comes once more, or the stream is another one.
    fn suspect(&mut self) {
        let now = Instant::now();
        if self.suspected.is_none_or(|last| now - last >= SUSPICION_INTERVAL) {
            self.suspected = Some(now);
            self.need_repair();
        }
    }

    fn frames(&self, subject: &str, message: &Message) -> Option<EventFrames> {
        let name = message.headers.as_ref().and_then(|headers| headers.get(wire::EVENT_NAME));
        let body: Bytes = message.payload.clone();
        let frames = name.and_then(|name| EventFrames::read(&self.event_root, subject, name.as_str(), body));
        if frames.is_none() {
            self.metrics.events_unreadable.inc();
        }
        frames
    }
}

fn sequence(message: &Message) -> Option<u64> {
    message.headers.as_ref()?.get(wire::SEQUENCE)?.as_str().parse().ok()
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}

/// Why the reader did not start.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// No thread or no runtime.
    #[error("cannot start the reader of events: {0}")]
    Thread(#[from] std::io::Error),
    /// The connection to NATS is configured wrongly.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// The thread ended before it began.
    #[error("the reader of events ended at once")]
    Ended,
}
