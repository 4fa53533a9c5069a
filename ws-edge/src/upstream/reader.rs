//! The event reader: reads live events from NATS and hands them to the dispatcher.
//!
//! It runs on a thread of its own with a single-threaded runtime, and reads one connection ([`Link`]), on which the
//! server sends everything in the order of the stream. It never waits for a client and has no queue that could overflow:
//! what it has not read waits at the server, which closes the connection if that becomes too much.
//!
//! In a cluster it connects to the server that leads the stream. What another server sends has come over a connection
//! between servers, which may break and lose events without anybody's notice, and which answers need not have come over.
//!
//! It asks the stream for its state every second, and whenever sessions wait for the confirmation of their subjects.
//! [`StreamSync`] decides from the answers whether live events are complete.

use std::{
    io::{self, ErrorKind},
    pin::Pin,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use blackhole_common::{
    backoff::Backoff,
    clock,
    nats::{
        link::{Link, Servers},
        protocol::{Message, Op},
    },
    readiness::Latch,
    wire::{self, Subjects},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    backlog::Backlog,
    history::History,
    latency::Latency,
    question::Questions,
    repair::repair,
    stream_info::{self, StreamError, StreamInfo},
    stream_sync::{Effect, StreamSync},
};
use crate::{
    delivery::{
        dispatcher::Dispatcher,
        frame::{builder::EventFrames, event::Event},
    },
    error::EdgeError,
    ids::{ELECTIONS, INBOX},
    metrics::Metrics,
    protocol::cursor::EventPosition,
};

/// The connection's name in the server's lists.
pub(crate) const CLIENT_NAME: &str = "ws-edge feed";
/// A server that was silent for this long is dead.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(6);
/// A connection that lasted this long resets the backoff.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// Reads events from NATS.
pub(crate) struct EventReader {
    servers: Servers,
    dispatcher: Arc<Dispatcher>,
    history: History,
    metrics: Arc<Metrics>,
    event_root: String,
    ready: Latch,
    /// The stream's state, for everyone who needs it.
    stream: watch::Sender<Option<StreamInfo>>,
    questions: Questions,
    sync: StreamSync,
    /// The stream's last leader that a connection to was tried.
    leader: Option<String>,
    held: Backlog,
    repair: Option<Repair>,
    latency: Latency,
}

/// Why a connection is left.
enum End {
    /// It has ended.
    Lost(io::Error),
    /// Another server leads the stream.
    LedElsewhere,
}

/// A running repair. Resolves to the number of events that it has delivered.
type Repair = Pin<Box<dyn Future<Output = Result<u64, StreamError>> + Send>>;

impl EventReader {
    /// A reader of the events that `servers` send. Also returns the stream's state, as the reader learns it.
    pub(crate) fn new(
        servers: Servers,
        subjects: &Subjects,
        dispatcher: Arc<Dispatcher>,
        history: History,
        metrics: Arc<Metrics>,
        ready: Latch,
    ) -> (EventReader, watch::Receiver<Option<StreamInfo>>) {
        let (stream, receiver) = watch::channel(None);
        let reader = EventReader {
            servers,
            questions: Questions::new(subjects, Arc::clone(&dispatcher)),
            dispatcher,
            history,
            metrics,
            event_root: subjects.event(),
            ready,
            stream,
            sync: StreamSync::new(clock::now()),
            leader: None,
            held: Backlog::default(),
            repair: None,
            latency: Latency::default(),
        };
        (reader, receiver)
    }

    /// Starts the reader's thread, which ends when `shutdown` is cancelled.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn start(self, shutdown: CancellationToken) -> Result<JoinHandle<()>, EdgeError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(EdgeError::EventReader)?;
        std::thread::Builder::new()
            .name("event-reader".into())
            .spawn(move || runtime.block_on(self.run(shutdown)))
            .map_err(EdgeError::EventReader)
    }

    /// Reads until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut backoff = Backoff::for_brokers();
        let mut is_logged = false;
        while !shutdown.is_cancelled() {
            // Without a connection sessions come, wait in vain, and go.
            self.dispatcher.take_unused(clock::now());
            let connected = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                connected = self.servers.connect_to(self.leader.as_deref(), CLIENT_NAME) => connected,
            };
            let began = clock::now();
            let error = match connected {
                Ok(mut link) => {
                    tracing::debug!(server = link.server_name(), "connected for events");
                    self.questions.begin(&mut link);
                    self.sync.connected(link.is_clustered(), clock::now());
                    let end = tokio::select! {
                        biased;
                        () = shutdown.cancelled() => return,
                        end = self.serve(&mut link) => end,
                    };
                    is_logged = false;
                    match end {
                        End::Lost(error) => error,
                        End::LedElsewhere => continue,
                    }
                }
                Err(error) => error,
            };
            self.ready.set(false);
            self.disconnected();
            if clock::now() - began > STABLE_AFTER {
                backoff.reset();
            }
            if !std::mem::replace(&mut is_logged, true) {
                tracing::warn!(%error, "no events from nats, trying again until it is back");
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(backoff.next_wait()) => {}
            }
        }
    }

    fn disconnected(&mut self) {
        self.sync.disconnected(clock::now());
        self.repair = None;
        self.held.take();
    }

    /// Serves a connection until it ends.
    async fn serve(&mut self, link: &mut Link) -> End {
        let mut heard = clock::now();
        loop {
            self.questions.subscribe(link);
            self.questions.ask(link, &mut self.sync, clock::now());
            if let Err(error) = link.flush().await {
                return End::Lost(error);
            }
            let timer = self.next_timer(heard);
            let EventReader { dispatcher, repair, .. } = self;
            let repaired = tokio::select! {
                biased;
                repaired = async {
                    match repair {
                        Some(repair) => repair.await,
                        None => std::future::pending().await,
                    }
                } => Some(repaired),
                filled = link.fill() => {
                    heard = clock::now();
                    if let Err(error) = filled.and_then(|()| self.read(link)) {
                        return End::Lost(error);
                    }
                    self.dispatcher.flush();
                    self.latency.written();
                    if self.is_led_elsewhere(link) {
                        return End::LedElsewhere;
                    }
                    None
                }
                () = dispatcher.changed() => None,
                () = tokio::time::sleep_until(timer.into()) => None,
            };
            if let Some(repaired) = repaired {
                self.repaired(repaired);
            }
            if self.questions.are_unanswered(clock::now()) {
                if self.ready.set(false) {
                    tracing::warn!(
                        "JetStream does not answer about the stream: new subscriptions are not confirmed, and gaps are not noticed"
                    );
                }
                if link.is_clustered() {
                    // The server may have lost its routes to the others, and events with them, for as long as it runs.
                    self.leader = None;
                    return End::Lost(io::Error::new(
                        ErrorKind::TimedOut,
                        "the server's JetStream does not answer",
                    ));
                }
            }
            if clock::now() - heard >= SILENCE_TIMEOUT {
                return End::Lost(io::Error::new(ErrorKind::TimedOut, "the server is silent"));
            }
        }
    }

    /// Whether another server leads the stream, a connection to which was not tried yet.
    fn is_led_elsewhere(&mut self, link: &Link) -> bool {
        let Some(leader) = self.sync.leader().filter(|leader| Some(*leader) != self.leader.as_deref()) else {
            return false;
        };
        self.leader = Some(leader.to_owned());
        leader != link.server_name()
    }

    fn next_timer(&self, heard: Instant) -> Instant {
        let next = self.questions.deadline().unwrap_or(self.sync.next_check()).min(heard + SILENCE_TIMEOUT);
        self.dispatcher.next_unused().map_or(next, |unused| unused.min(next))
    }

    /// Handles everything that the link has read.
    fn read(&mut self, link: &mut Link) -> io::Result<()> {
        while let Some(op) = link.next_op()? {
            match op {
                Op::Message(message) if message.subscription == INBOX => self.answered(&message),
                // Perhaps the same one, and nothing else would tell.
                Op::Message(message) if message.subscription == ELECTIONS => self.sync.elected(clock::now()),
                Op::Message(message) => self.received(message),
                Op::Info(info) if Link::is_lame_duck(&info) => {
                    return Err(io::Error::new(ErrorKind::ConnectionAborted, "the server is shutting down"));
                }
                Op::Error(error) => {
                    tracing::warn!(error, "nats refuses something");
                    if self.questions.is_refused_itself(&error) {
                        // Another connection tries it again.
                        return Err(io::Error::new(ErrorKind::PermissionDenied, error));
                    }
                    self.questions.refused(&error);
                }
                // A server of the cluster has come or gone. It may be the stream's leader.
                Op::Info(_) if self.sync.is_replicated() => self.sync.doubt(clock::now()),
                Op::Info(_) | Op::Ping | Op::Pong | Op::Ok => {}
            }
        }
        Ok(())
    }

    fn answered(&mut self, message: &Message) {
        let Some(question) = self.questions.answered(message) else { return };
        // A server without JetStream has no stream.
        let info = if message.status() == Some(503) { Ok(None) } else { stream_info::read(&message.payload) };
        let info = match info.and_then(|info| self.sync.believe(info, question.position, clock::now())) {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "the answer about the stream cannot be used");
                self.questions.unanswered(question, &mut self.sync);
                self.sync.unusable(clock::now());
                return;
            }
        };
        self.questions.used();
        let effects = self.sync.informed(info.clone(), question.position, clock::now());
        self.apply(effects);
        let last = info.as_ref().map_or(0, |info| info.last);
        let unverified = last.saturating_sub(self.dispatcher.position());
        self.metrics.unverified.set(i64::try_from(unverified).unwrap_or(i64::MAX));
        let refused = self.dispatcher.confirm(&question.subjects, &question.sessions, last);
        // Confirmed sessions look at the stream's state next.
        self.stream.send_replace(info);
        question.sessions.into_iter().for_each(|session| session.end(&refused));
        if self.ready.set(true) {
            tracing::info!("events come from nats");
        }
    }

    fn apply(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::ResetPositions => {
                    self.repair = None;
                    self.dispatcher.reset_positions();
                }
                Effect::Truncate(position) => {
                    self.repair = None;
                    self.dispatcher.truncate_positions(position);
                }
                Effect::Verified(position) => self.dispatcher.verify(position),
                Effect::Release => self.release(),
                Effect::Repair(gap) => {
                    let (dispatcher, metrics) = (Arc::clone(&self.dispatcher), Arc::clone(&self.metrics));
                    self.repair = Some(Box::pin(repair(self.history.clone(), dispatcher, metrics, gap)));
                }
            }
        }
    }

    fn repaired(&mut self, result: Result<u64, StreamError>) {
        self.repair = None;
        match &result {
            Ok(0) => {}
            Ok(events) => tracing::info!(events, "delivered missed events from the stream"),
            Err(error) => tracing::debug!(%error, "cannot read the stream yet"),
        }
        let effects = self.sync.repaired(result.is_ok(), clock::now());
        self.apply(effects);
    }

    /// Delivers what was held back. If one of the messages raises a doubt, the rest is held back again. If there is no
    /// stream, their positions mean nothing.
    fn release(&mut self) {
        let has_no_stream = self.sync.has_no_stream(clock::now());
        for message in self.held.take() {
            if has_no_stream { self.deliver(message, None) } else { self.received(message) }
        }
        self.dispatcher.flush();
        self.latency.written();
    }

    /// Delivers a live message, or holds it back.
    fn received(&mut self, message: Message) {
        if !self.sync.is_in_sync() {
            self.hold(message);
            return;
        }
        let sequence = message.header(wire::SEQUENCE).and_then(|sequence| sequence.parse::<u64>().ok());
        let position = match sequence {
            None => None,
            Some(sequence) => match self.sync.accept(sequence, &message.subject, clock::now()) {
                Some(stream) => Some(EventPosition { stream, sequence }),
                None => {
                    self.sync.doubt(clock::now());
                    self.hold(message);
                    return;
                }
            },
        };
        self.deliver(message, position);
    }

    fn deliver(&mut self, message: Message, position: Option<EventPosition>) {
        self.metrics.events.inc();
        let Some(name) = message.header(wire::EVENT_NAME) else {
            self.metrics.events_unreadable.inc();
            return;
        };
        let name = message.headers.slice_ref(name.as_bytes());
        self.latency.delivered(&message, &self.metrics);
        let owner = message.header(wire::OWNER).map(|owner| message.headers.slice_ref(owner.as_bytes()));
        let owner = owner.unwrap_or_default();
        let event = Event { subject: message.subject, name, body: message.payload, owner, position };
        match EventFrames::read(&self.event_root, &event) {
            Some(frames) => self.dispatcher.deliver(message.subscription, &event, &frames),
            None => drop(self.metrics.events_unreadable.inc()),
        }
    }

    fn hold(&mut self, message: Message) {
        if !self.held.push(message) {
            self.sync.dropped();
        }
    }
}
