//! From NATS to the table: the edge's reader of events.
//!
//! It runs on a thread of its own with a single-threaded runtime, and reads one connection ([`Link`]), on which the
//! server sends everything in the order of the stream. It never waits for a client, and it has no queue that could
//! overflow: what it has not read waits at the server, which closes the connection if that becomes too much.
//!
//! **It trusts what comes live as long as it can tell that nothing is missing**, and looks every second: it asks the
//! stream's leader where the stream ends. When the connection was lost, the leader has changed or does not answer, or
//! positions go backwards, live events are held back; what was missed is read from the stream, and then they go on.

mod repair;
pub mod stream;

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use blackhole_common::{
    backoff::Backoff,
    config::NatsConfig,
    nats::{
        self, NatsError,
        link::{Link, Servers},
        protocol::{Message, Op},
    },
    readiness::Latch,
    wire::{self, Subjects},
};
use bytes::Bytes;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    cursor::Place,
    fanout::{Fanout, INBOX, SubjectNumber},
    frame::{Event, EventFrames},
    history::History,
    metrics::Metrics,
};
use repair::{Brought, Seen};
use stream::{StreamInfo, Unreadable};

/// How the connection is called in the server's lists.
const CLIENT_NAME: &str = "ws-edge feed";
/// How often the stream is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// An answer that takes longer will not come.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// A server that was not heard for this long is dead.
const SILENT_AT_MOST: Duration = Duration::from_secs(6);
/// A connection that lasted this long was no failure: the next attempt comes soon.
const GOOD_AFTER: Duration = Duration::from_secs(10);
/// So many answers in a row are not believed, a quarter of [`LOOK_EVERY`] apart.
const MOST_STALE: u32 = 60;
/// What is held back at most; beyond it is dropped, and read from the stream instead.
const MOST_HELD_BYTES: usize = 16 << 20;

/// The edge's reader of events.
pub struct Feed {
    servers: Servers,
    fanout: Arc<Fanout>,
    history: History,
    metrics: Arc<Metrics>,
    subjects: Subjects,
    event_root: String,
    latch: Latch,
    /// What the stream is, for everyone who wants to know.
    stream: watch::Sender<Option<StreamInfo>>,
    /// What answers come for.
    inbox: String,
    asked: Option<Asked>,
    questions: u64,
    next_look: Instant,
    /// Nothing is asked before: the last answer could not be used.
    not_before: Instant,
    /// Subjects whose confirmation is to be asked for next.
    to_confirm: Vec<SubjectNumber>,
    /// The newest event that was handed on, by its position in the stream and its subject.
    position: u64,
    subject: Bytes,
    /// What comes live at or below this position was brought from the stream already, or is known to come late.
    settled: u64,
    /// Where the stream ended when it was last looked at in good faith: everything up to here has come.
    verified: u64,
    /// Where it ended a look later; verified with the next.
    looked: (Instant, u64),
    /// What has come since, where a leader may take events with it.
    seen: Seen,
    /// What repairs that did not come to their end have brought already.
    brought: Brought,
    /// Answers in a row that came from a leader who does not know yet that it is none any more.
    stale: u32,
    trust: Trust,
    held: VecDeque<Message>,
    held_bytes: usize,
    /// Something was dropped that should have been held, or a further leader may have taken events with it: what is
    /// being repaired is not all.
    again: bool,
}

/// Whether live events are handed on.
enum Trust {
    /// They are: nothing is missing.
    Full,
    /// Something may be missing. The stream is being asked, or will be.
    Doubt,
    /// What is missing up to this position is being read.
    Repair(u64, Pin<Box<dyn Future<Output = Result<u64, Unreadable>> + Send>>),
}

struct Asked {
    number: u64,
    at: Instant,
    /// What had come by then: who leads the stream has at least that.
    position: u64,
    subjects: Vec<SubjectNumber>,
    sessions: Vec<oneshot::Sender<()>>,
}

impl Feed {
    /// Starts the reader's thread, which ends when `shutdown` is cancelled. Returns with it what tells of the stream.
    ///
    /// # Errors
    /// When the thread cannot be started, or what waiting for NATS does not mend.
    pub async fn start(
        config: NatsConfig,
        fanout: Arc<Fanout>,
        history: History,
        metrics: Arc<Metrics>,
        latch: Latch,
        shutdown: CancellationToken,
    ) -> Result<(std::thread::JoinHandle<()>, watch::Receiver<Option<StreamInfo>>), FeedError> {
        // Credentials that cannot be read are a mistake of the configuration.
        nats::options(&config, CLIENT_NAME).await?;
        let (stream, told) = watch::channel(None);
        let subjects = Subjects::new(&config.prefix);
        let now = Instant::now();
        let feed = Feed {
            servers: Servers::new(config),
            fanout,
            history,
            metrics,
            event_root: subjects.event(),
            subjects,
            latch,
            stream,
            inbox: format!("_INBOX.{:032x}", rand::random::<u128>()),
            asked: None,
            questions: 0,
            next_look: now,
            not_before: now,
            to_confirm: Vec::new(),
            position: 0,
            subject: Bytes::new(),
            settled: 0,
            verified: 0,
            looked: (now, 0),
            seen: Seen::default(),
            brought: Brought::default(),
            stale: 0,
            trust: Trust::Doubt,
            held: VecDeque::new(),
            held_bytes: 0,
            again: false,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new()
            .name("feed".into())
            .spawn(move || runtime.block_on(feed.run(shutdown)))?;
        Ok((thread, told))
    }

    async fn run(mut self, shutdown: CancellationToken) {
        let mut backoff = Backoff::for_brokers();
        let mut told = false;
        while !shutdown.is_cancelled() {
            let connected = tokio::select! {
                () = shutdown.cancelled() => return,
                connected = self.servers.connect(CLIENT_NAME) => connected,
            };
            let began = Instant::now();
            let error = match connected {
                Ok(mut link) => {
                    self.begin(&mut link);
                    let error = tokio::select! {
                        () = shutdown.cancelled() => return,
                        error = self.serve(&mut link) => error,
                    };
                    told = false;
                    error
                }
                Err(error) => error,
            };
            self.latch.set(false);
            self.trust = Trust::Doubt;
            if began.elapsed() > GOOD_AFTER {
                backoff.reset();
            }
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(%error, "no events from nats, trying again until it is back");
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(backoff.next_wait()) => {}
            }
        }
    }

    /// A fresh connection knows nothing of us.
    fn begin(&mut self, link: &mut Link) {
        link.subscribe(INBOX, &format!("{}.*", self.inbox));
        for (number, subject) in self.fanout.take_all() {
            link.subscribe(number, &subject);
            self.to_confirm.push(number);
        }
        if let Some(asked) = self.asked.take() {
            self.fanout.wait_on(asked.sessions);
        }
        self.forget_held();
        self.trust = Trust::Doubt;
        self.next_look = Instant::now();
    }

    /// Serves a connection; returns why it is of no more use.
    async fn serve(&mut self, link: &mut Link) -> io::Error {
        let mut heard = Instant::now();
        loop {
            self.subscribe(link);
            self.look(link);
            if let Err(error) = link.flush().await {
                return error;
            }
            let timer = self.next_timer(heard);
            let Feed { fanout, trust, .. } = self;
            let repaired = tokio::select! {
                filled = link.fill() => {
                    heard = Instant::now();
                    if let Err(error) = filled.and_then(|()| self.take_in(link)) {
                        return error;
                    }
                    self.fanout.flush();
                    None
                }
                () = fanout.changed() => None,
                () = tokio::time::sleep_until(timer.into()) => None,
                repaired = async {
                    match trust {
                        Trust::Repair(_, repair) => repair.await,
                        _ => std::future::pending().await,
                    }
                } => Some(repaired),
            };
            if let Some(repaired) = repaired {
                self.repaired(repaired);
            }
            if heard.elapsed() > SILENT_AT_MOST {
                return io::Error::new(io::ErrorKind::TimedOut, "the server is silent");
            }
        }
    }

    fn next_timer(&self, heard: Instant) -> Instant {
        let answer = self.asked.as_ref().map(|asked| asked.at + ANSWER_WITHIN);
        let idle = self.fanout.next_idle();
        let next = answer.unwrap_or(self.next_look.max(self.not_before)).min(heard + SILENT_AT_MOST);
        idle.map_or(next, |idle| idle.min(next))
    }

    fn subscribe(&mut self, link: &mut Link) {
        for (number, subject) in self.fanout.take_fresh() {
            link.subscribe(number, &subject);
            self.to_confirm.push(number);
        }
        for number in self.fanout.take_idle(Instant::now()) {
            link.unsubscribe(number);
        }
    }

    /// One question to the stream serves all who wait: its leader answers it after it has heard of the subscriptions
    /// that were sent before, and it tells where the stream ends at that moment.
    fn look(&mut self, link: &mut Link) {
        let now = Instant::now();
        if let Some(asked) = &self.asked {
            if now < asked.at + ANSWER_WITHIN {
                return;
            }
            self.unanswered();
        }
        if now < self.not_before {
            return;
        }
        let sessions = self.fanout.take_unconfirmed();
        if sessions.is_empty() && self.to_confirm.is_empty() && now < self.next_look {
            return;
        }
        self.questions += 1;
        link.publish(
            &stream::info_subject(&self.subjects),
            &format!("{}.{}", self.inbox, self.questions),
            b"",
            b"",
        );
        // Even where nobody knows of a stream, the server itself answers this.
        link.ping();
        let subjects = std::mem::take(&mut self.to_confirm);
        let position = self.position.max(self.verified);
        self.asked = Some(Asked { number: self.questions, at: now, position, subjects, sessions });
        self.next_look = now + LOOK_EVERY;
    }

    /// A stream that is led by one of several servers may be without a leader: the next may have taken events that
    /// the last one did not send.
    fn unanswered(&mut self) {
        let Some(asked) = self.asked.take() else { return };
        tracing::debug!("no answer about the stream, asking again");
        self.to_confirm.extend(asked.subjects);
        self.fanout.wait_on(asked.sessions);
        let is_led = self.stream.borrow().as_ref().is_some_and(|info| info.leader.is_some());
        if is_led {
            self.doubt();
        }
    }

    fn doubt(&mut self) {
        if matches!(self.trust, Trust::Full) {
            self.trust = Trust::Doubt;
            self.next_look = Instant::now();
        }
    }

    /// Handles everything that has been read.
    fn take_in(&mut self, link: &mut Link) -> io::Result<()> {
        while let Some(op) = link.next_op()? {
            match op {
                Op::Message(message) if message.subscription == INBOX => self.answered(&message),
                Op::Message(message) => self.arrived(message),
                Op::Info(info) if Link::is_lame_duck(&info) => {
                    return Err(io::Error::new(
                        io::ErrorKind::ConnectionAborted,
                        "the server is shutting down",
                    ));
                }
                Op::Error(error) => tracing::warn!(error, "nats refuses something"),
                // Servers of a cluster tell of each other's coming and going: the stream's leader may be among them, and
                // the next one is not elected yet.
                Op::Info(_) if self.is_led() => self.doubt(),
                Op::Info(_) | Op::Ping | Op::Pong | Op::Ok => {}
            }
        }
        Ok(())
    }

    fn answered(&mut self, message: &Message) {
        let number = message.subject().rsplit('.').next().and_then(|number| number.parse::<u64>().ok());
        let Some(asked) = self.asked.take_if(|asked| Some(asked.number) == number) else { return };
        // A server without JetStream has no stream.
        let info = if message.status() == Some(503) { Ok(None) } else { stream::read(&message.payload) };
        let info = match info.and_then(|info| self.believed(info, asked.position)) {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "no answer about the stream, asking again");
                self.asked = Some(asked);
                self.unanswered();
                self.not_before = Instant::now() + LOOK_EVERY / 4;
                self.next_look = self.not_before;
                return;
            }
        };
        self.note(info.as_ref());
        self.fanout.confirm(&asked.subjects);
        // Who is told looks at the stream next.
        self.stream.send_replace(info);
        for session in asked.sessions {
            // A session that is gone needs no answer.
            let _ = session.send(());
        }
        if self.latch.set(true) {
            tracing::info!("events come from nats");
        }
    }

    /// An answer that contradicts what is known is only believed when it has come again and again.
    fn believed(
        &mut self,
        info: Option<StreamInfo>,
        position: u64,
    ) -> Result<Option<StreamInfo>, Unreadable> {
        let known = self.stream.borrow();
        let is_stale = known.as_ref().is_some_and(|known| known.is_contradicted(info.as_ref(), position));
        drop(known);
        self.stale = if is_stale { self.stale + 1 } else { 0 };
        if (1..MOST_STALE).contains(&self.stale) {
            return Err(Unreadable::new("another server of the cluster knew better"));
        }
        Ok(info)
    }

    /// Compares what the stream is with what it was.
    fn note(&mut self, info: Option<&StreamInfo>) {
        let before = self.stream.borrow().clone();
        let Some(info) = info else {
            if before.is_some() {
                tracing::warn!("there is no stream any more, events have no history");
                self.begin_anew();
            }
            if !matches!(self.trust, Trust::Full) {
                self.release();
            }
            return;
        };
        match &before {
            Some(before) if before.identity != info.identity => {
                tracing::warn!("the stream was made anew, its positions begin anew");
                self.begin_anew();
                self.doubt();
            }
            Some(before) if before.leader != info.leader => {
                tracing::info!(leader = info.leader, "the stream has another leader");
                self.again = true;
                self.doubt();
            }
            Some(_) => {}
            // What was stored before is nobody's here: no session was told of a subscription yet.
            None if self.position == 0 => {
                self.position = info.last;
                self.verified = info.last;
                self.fanout.verify(info.last);
            }
            None => {}
        }
        match self.trust {
            Trust::Full => self.verify(info),
            Trust::Doubt => self.begin_repair(info),
            Trust::Repair(..) => {}
        }
    }

    /// What the stream had a look ago has come by now.
    fn verify(&mut self, info: &StreamInfo) {
        let now = Instant::now();
        if now - self.looked.0 < LOOK_EVERY {
            return;
        }
        self.verified = self.looked.1;
        self.looked = (now, info.last);
        self.seen.forget(self.verified);
        self.fanout.verify(self.verified);
    }

    fn begin_repair(&mut self, info: &StreamInfo) {
        // On one connection to one server everything came in order. A leader that is gone may have kept some to itself.
        let after = match info.leader {
            Some(_) => self.verified,
            None => self.position.max(self.verified),
        };
        self.again = false;
        if info.last <= after {
            self.release();
            return;
        }
        let seen = info.leader.is_some().then(|| self.seen.clone());
        let repair = repair::bring(
            self.history.clone(),
            Arc::clone(&self.fanout),
            Arc::clone(&self.metrics),
            info.identity,
            after..info.last,
            seen.unwrap_or_default(),
            self.brought.clone(),
        );
        self.trust = Trust::Repair(info.last, Box::pin(repair));
    }

    fn repaired(&mut self, result: Result<u64, Unreadable>) {
        let Trust::Repair(last, _) = std::mem::replace(&mut self.trust, Trust::Doubt) else { return };
        match result {
            Ok(brought) => {
                if brought > 0 {
                    tracing::info!(events = brought, "brought missed events from the stream");
                }
                self.position = self.position.max(last);
                self.verified = last;
                self.fanout.verify(last);
                self.looked = (Instant::now(), last);
                self.seen = Seen::default();
                self.brought.forget();
                if self.again {
                    self.next_look = Instant::now();
                } else {
                    self.release();
                }
            }
            Err(error) => {
                tracing::debug!(%error, "cannot read the stream yet");
                self.next_look = Instant::now() + LOOK_EVERY / 4;
            }
        }
    }

    /// Nothing is missing any more: what was held back goes on.
    fn release(&mut self) {
        self.trust = Trust::Full;
        self.settled = self.settled.max(self.position);
        self.held_bytes = 0;
        let mut held = std::mem::take(&mut self.held);
        while let Some(message) = held.pop_front() {
            self.arrived(message);
            // One of them may have raised a doubt; the rest is held on.
            if !matches!(self.trust, Trust::Full) {
                for message in held {
                    self.arrived(message);
                }
                return;
            }
        }
        self.fanout.flush();
    }

    fn forget_held(&mut self) {
        self.held = VecDeque::new();
        self.held_bytes = 0;
    }

    fn begin_anew(&mut self) {
        self.position = 0;
        self.subject = Bytes::new();
        self.settled = 0;
        self.verified = 0;
        self.looked.1 = 0;
        self.seen = Seen::default();
        self.brought.forget();
        // A repair that goes on would bring the other stream's events.
        if let Trust::Repair(..) = self.trust {
            self.trust = Trust::Doubt;
        }
        self.fanout.forget_positions();
    }

    fn arrived(&mut self, message: Message) {
        if !matches!(self.trust, Trust::Full) {
            self.hold(message);
            return;
        }
        let sequence = message.header(wire::SEQUENCE).and_then(|sequence| sequence.parse::<u64>().ok());
        let place = match sequence {
            None => None,
            Some(sequence) => {
                let identity = self.stream.borrow().as_ref().map(|info| info.identity);
                let Some(stream) = identity.filter(|_| !self.goes_back(sequence, &message)) else {
                    // Which stream it is has to be asked.
                    self.doubt();
                    self.hold(message);
                    return;
                };
                if sequence >= self.position {
                    self.position = sequence;
                    self.subject = message.subject.clone();
                }
                if self.is_led() {
                    self.seen.add(sequence);
                }
                Some(Place { stream, sequence })
            }
        };
        self.metrics.events.inc();
        let Some(name) = message.header(wire::EVENT_NAME) else {
            self.metrics.events_unreadable.inc();
            return;
        };
        let name = message.headers.slice_ref(name.as_bytes());
        let event = Event { subject: message.subject, name, body: message.payload, place };
        match EventFrames::read(&self.event_root, &event) {
            Some(frames) => self.fanout.deliver(message.subscription, &event, &frames),
            None => drop(self.metrics.events_unreadable.inc()),
        }
    }

    /// Positions only grow, on one connection and in one stream; an event that matches several subscriptions comes
    /// several times.
    fn goes_back(&self, sequence: u64, message: &Message) -> bool {
        let is_back =
            sequence < self.position || (sequence == self.position && message.subject != self.subject);
        is_back && sequence > self.settled
    }

    fn is_led(&self) -> bool {
        self.stream.borrow().as_ref().is_some_and(|info| info.leader.is_some())
    }

    fn hold(&mut self, message: Message) {
        self.held_bytes += message.payload.len() + message.headers.len() + size_of::<Message>();
        if self.held_bytes > MOST_HELD_BYTES {
            self.forget_held();
            self.again = true;
        } else {
            self.held.push_back(message);
        }
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
}
