//! What waits to be sent to one session, and the only one who writes to its socket.
//!
//! Bounded in bytes, filled without ever waiting. A frame goes into the queue as it goes over the wire, shared by all
//! sessions that get the same; many go to the system in one call. Whoever put something into an empty queue has it
//! flushed (`writers`); where the socket takes no more, the session's own task goes on when it does again.
//!
//! A session is **live**, or it **lags**: more waited than may, or it asked for events of the past. Nothing live is
//! queued for it then; it is brought up to date from the stream (`catchup`), and is live again.

mod queue;

use std::{
    fmt,
    io::{self, ErrorKind, IoSlice},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Context,
    time::Instant,
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::net::TcpStream;

use crate::{
    close::Close,
    fanout::{SessionNumber, SubjectNumber},
    metrics::Metrics,
};
use queue::Queue;

/// How many bytes of replies may wait beside events.
const MOST_OWN_BYTES: usize = 64 << 10;

/// Identifies a pass of the catch-up.
pub type PassNumber = u64;

/// No pass: a session that is not to be brought up to date before [`Outbox::release`].
const HELD: PassNumber = PassNumber::MAX;

/// Where frames go.
pub trait Socket: Send + Sync {
    /// Takes what it can at the moment.
    ///
    /// # Errors
    /// [`ErrorKind::WouldBlock`] if that is nothing; any other error is final.
    fn try_write(&self, frames: &[IoSlice<'_>]) -> io::Result<usize>;
}

impl Socket for TcpStream {
    fn try_write(&self, frames: &[IoSlice<'_>]) -> io::Result<usize> {
        match frames {
            // The system takes one buffer more cheaply than a list of one.
            [frame] => self.try_write(frame),
            frames => self.try_write_vectored(frames),
        }
    }
}

/// The queue of one session.
pub struct Outbox {
    /// The session's number on this edge.
    pub number: SessionNumber,
    most_bytes: usize,
    socket: Arc<dyn Socket>,
    state: Mutex<State>,
    /// The session's task.
    session: AtomicWaker,
    /// When something was last sent, in milliseconds after `begun`.
    sent: AtomicU64,
    begun: Instant,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct State {
    queue: Queue,
    /// Someone is about to flush.
    scheduled: bool,
    /// The socket takes no more; the session's task waits for it.
    blocked: bool,
    failed: bool,
    closing: Option<Close>,
    mode: Mode,
    /// The last pass that made the session live brought everything up to this position.
    caught_up: u64,
    /// The subjects of its memberships, kept by the table.
    subjects: Vec<SubjectNumber>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Live,
    Lagging(Lag),
    /// Nothing more goes out.
    Ended,
}

/// Where a lagging session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// It has had everything up to this position of the stream.
    pub after: u64,
    /// The pass that brings it up to date; `None` while none does.
    pub pass: Option<PassNumber>,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It waits to be sent; the first of the queue: someone has to flush.
    First,
    /// It waits to be sent, behind others.
    Queued,
    /// Not taken: the session lags, or began to with this frame.
    Lagging,
    /// Not taken: the session is over.
    Ended,
}

/// What a flush left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// Nothing waits.
    Empty,
    /// Nothing waits, and the session lags: it can be brought further now.
    Lagging,
    /// The socket takes no more at the moment.
    Blocked,
    /// The connection is gone.
    Failed,
}

impl Outbox {
    /// A queue in front of `socket` that holds at most `most_bytes`; one frame always fits.
    pub fn new(
        number: SessionNumber,
        most_bytes: usize,
        socket: Arc<dyn Socket>,
        metrics: Arc<Metrics>,
    ) -> Outbox {
        let state = State {
            queue: Queue::default(),
            scheduled: false,
            blocked: false,
            failed: false,
            closing: None,
            mode: Mode::Live,
            caught_up: 0,
            subjects: Vec::new(),
        };
        Outbox {
            number,
            most_bytes,
            socket,
            state: Mutex::new(state),
            session: AtomicWaker::new(),
            sent: AtomicU64::new(0),
            begun: Instant::now(),
            metrics,
        }
    }

    /// Queues the frame of a live event with this position in the stream. `frame` is only called if it is wanted.
    ///
    /// A session whose queue is full lags from here on; without a position, where there is no history to bring it up
    /// to date from, it is closed.
    pub fn push_live(&self, sequence: Option<u64>, frame: impl FnOnce() -> Option<Bytes>) -> Pushed {
        let mut state = self.state.lock();
        match state.mode {
            Mode::Live => {}
            Mode::Lagging(_) => return Pushed::Lagging,
            Mode::Ended => return Pushed::Ended,
        }
        let Some(frame) = frame() else { return Pushed::Queued };
        if state.queue.has_room(frame.len(), self.most_bytes) {
            return state.push(frame);
        }
        self.metrics.sessions_overrun.inc();
        match sequence {
            Some(sequence) => {
                state.mode = Mode::Lagging(Lag { after: sequence.saturating_sub(1), pass: None });
                self.metrics.sessions_lagging.inc();
                Pushed::Lagging
            }
            None => {
                drop(state);
                self.close(Close::TooSlow);
                Pushed::Ended
            }
        }
    }

    /// Queues the frame of an event that was missed while later ones came, for a binding that was served up to position
    /// `served`. One that lies before what a lagging session is brought from the stream cannot wait for that; where
    /// there is no room for it, the session is closed.
    pub fn push_late(&self, sequence: u64, served: u64, frame: impl FnOnce() -> Option<Bytes>) -> Pushed {
        let mut state = self.state.lock();
        match state.mode {
            Mode::Live => {}
            Mode::Lagging(lag) if sequence <= lag.after.max(served) => {}
            Mode::Lagging(_) => return Pushed::Lagging,
            Mode::Ended => return Pushed::Ended,
        }
        let Some(frame) = frame() else { return Pushed::Queued };
        if state.queue.has_room(frame.len(), self.most_bytes) {
            return state.push(frame);
        }
        drop(state);
        self.close(Close::Behind);
        Pushed::Ended
    }

    /// Queues the frame of an event of the past for a session that `pass` brings up to date.
    ///
    /// [`Pushed::Lagging`] where it is not: the queue is full and the pass has to leave the session behind, or
    /// something has changed about it.
    pub fn push_missed(&self, pass: PassNumber, sequence: u64, frame: &Bytes) -> Pushed {
        let mut state = self.state.lock();
        match state.mode {
            Mode::Lagging(lag) if lag.pass == Some(pass) => {
                if state.queue.has_room(frame.len(), self.most_bytes) {
                    return state.push(frame.clone());
                }
                let after = lag.after.max(sequence.saturating_sub(1));
                state.mode = Mode::Lagging(Lag { after, pass: None });
                Pushed::Lagging
            }
            Mode::Live | Mode::Lagging(_) => Pushed::Lagging,
            Mode::Ended => Pushed::Ended,
        }
    }

    /// Queues what the session itself has to say: a reply, a control frame. That always fits; a session that
    /// [`Outbox::is_stuffed`] says nothing more. The caller flushes.
    pub fn push_own(&self, frame: Bytes) {
        self.state.lock().push(frame);
    }

    /// Whether so much waits that not even replies may be added.
    pub fn is_stuffed(&self) -> bool {
        self.state.lock().queue.bytes() > self.most_bytes.saturating_add(MOST_OWN_BYTES)
    }

    /// Sends what waits, as far as the socket takes it.
    pub fn flush(&self) -> Flushed {
        let mut state = self.state.lock();
        state.scheduled = false;
        if state.failed {
            return Flushed::Failed;
        }
        while !state.queue.is_empty() {
            match state.queue.write_to(&*self.socket) {
                Ok(0) => return self.fail(state),
                Ok(written) => {
                    let frames = state.queue.sent(written);
                    self.metrics.frames.inc_by(frames);
                    self.metrics.frame_bytes.inc_by(written as u64);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    state.blocked = true;
                    drop(state);
                    self.note_sent();
                    self.session.wake();
                    return Flushed::Blocked;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.fail(state),
            }
        }
        state.blocked = false;
        state.queue.shrink();
        let lags = matches!(state.mode, Mode::Lagging(Lag { pass: None, .. }));
        drop(state);
        self.note_sent();
        if lags { Flushed::Lagging } else { Flushed::Empty }
    }

    /// Gives back the memory of an empty queue: what goes to a session that gets no events is seldom, and the room would
    /// be a part of what it takes that shows.
    pub fn shrink(&self) {
        self.state.lock().queue.shrink_wholly();
    }

    fn fail(&self, mut state: parking_lot::MutexGuard<'_, State>) -> Flushed {
        state.failed = true;
        state.queue = Queue::default();
        drop(state);
        self.session.wake();
        Flushed::Failed
    }

    fn note_sent(&self) {
        let elapsed = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.sent.store(elapsed, Ordering::Relaxed);
    }

    /// When something was last sent.
    pub fn sent(&self) -> Instant {
        self.begun + std::time::Duration::from_millis(self.sent.load(Ordering::Relaxed))
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.state.lock().queue.is_empty()
    }

    /// Whether the session's task has to wait for the socket and flush.
    pub fn is_blocked(&self) -> bool {
        self.state.lock().blocked
    }

    /// Whether the connection has failed.
    pub fn has_failed(&self) -> bool {
        self.state.lock().failed
    }

    /// Has the session closed, for the first of the reasons that were given.
    pub fn close(&self, reason: Close) {
        self.state.lock().closing.get_or_insert(reason);
        self.session.wake();
    }

    /// Why the session is to be closed.
    pub fn closing(&self) -> Option<Close> {
        self.state.lock().closing
    }

    /// Takes no more events. What waits stays, or goes except for a frame that is out in part.
    pub fn end(&self, keep: bool) {
        let mut state = self.state.lock();
        if let Mode::Lagging(_) = state.mode {
            self.metrics.sessions_lagging.dec();
        }
        state.mode = Mode::Ended;
        if !keep {
            state.queue.drop_unsent();
        }
    }

    /// Has the session's task woken when there is something for it. To be called before it looks.
    pub fn register(&self, context: &Context<'_>) {
        self.session.register(context.waker());
    }

    /// The session is owed events from behind position `after` on, when it is released. One that lags already is owed
    /// the older of both. Returns up to where it had everything before: `live` if it was live.
    pub(crate) fn lag(&self, after: u64, live: u64) -> u64 {
        let mut state = self.state.lock();
        let (had, after) = match state.mode {
            Mode::Live => {
                self.metrics.sessions_lagging.inc();
                (live, after.min(live))
            }
            Mode::Lagging(lag) => (lag.after, lag.after.min(after)),
            Mode::Ended => return live,
        };
        state.mode = Mode::Lagging(Lag { after, pass: Some(HELD) });
        had
    }

    /// A session that was held by [`Outbox::lag`] is only owed what lies behind `position`.
    pub(crate) fn forgo_past(&self, position: u64) {
        if let Mode::Lagging(lag) = &mut self.state.lock().mode {
            lag.after = position;
        }
    }

    /// A session that was held by [`Outbox::lag`] may be brought up to date.
    pub(crate) fn release(&self) {
        self.drop_from_pass(HELD);
    }

    /// Takes a lagging session out of its pass, because what it is owed has changed. Returns whether it is to be
    /// brought up to date anew.
    pub(crate) fn leave_pass(&self) -> bool {
        let mut state = self.state.lock();
        match &mut state.mode {
            Mode::Lagging(lag) if lag.pass != Some(HELD) => {
                lag.pass = None;
                true
            }
            _ => false,
        }
    }

    /// Where the session stands, if it lags.
    pub fn lagging(&self) -> Option<Lag> {
        match self.state.lock().mode {
            Mode::Lagging(lag) => Some(lag),
            _ => None,
        }
    }

    /// Whether `pass` brings the session up to date.
    pub(crate) fn is_in_pass(&self, pass: PassNumber) -> bool {
        self.lagging().is_some_and(|lag| lag.pass == Some(pass))
    }

    /// Takes a session that lags, has nothing waiting and is in no pass into `pass`. Returns up to where it has had
    /// everything.
    pub(crate) fn join_pass(&self, pass: PassNumber) -> Option<u64> {
        let mut state = self.state.lock();
        let is_ready = state.queue.is_empty() && !state.failed && state.closing.is_none();
        match &mut state.mode {
            Mode::Lagging(lag) if lag.pass.is_none() && is_ready => {
                lag.pass = Some(pass);
                Some(lag.after)
            }
            _ => None,
        }
    }

    /// A pass has brought everything up to position `after`, if the session is still in it.
    pub(crate) fn advance(&self, pass: PassNumber, after: u64) {
        match &mut self.state.lock().mode {
            Mode::Lagging(lag) if lag.pass == Some(pass) => lag.after = lag.after.max(after),
            _ => {}
        }
    }

    /// The pass is over before its end. Returns whether the session was still in it, and lags on.
    pub(crate) fn drop_from_pass(&self, pass: PassNumber) -> bool {
        let mut state = self.state.lock();
        match &mut state.mode {
            Mode::Lagging(lag) if lag.pass == Some(pass) => {
                lag.pass = None;
                true
            }
            _ => false,
        }
    }

    /// A pass has brought everything up to `position`: the session is live again, if it is still in it.
    pub(crate) fn go_live(&self, pass: PassNumber, position: u64) {
        let mut state = self.state.lock();
        match state.mode {
            Mode::Lagging(Lag { pass: Some(own), .. }) if own == pass => {
                state.mode = Mode::Live;
                state.caught_up = position;
                self.metrics.sessions_lagging.dec();
            }
            _ => {}
        }
    }

    /// Whether the session has been given everything up to `live`, the position up to which all that is live was served,
    /// and nothing beyond: a pass may just have brought it further than that.
    pub(crate) fn is_at(&self, live: u64) -> bool {
        let state = self.state.lock();
        state.mode == Mode::Live && state.caught_up <= live
    }

    /// Notes a subject that the session has joined.
    pub(crate) fn add_subject(&self, subject: SubjectNumber) {
        let mut state = self.state.lock();
        // Most sessions have a handful; doubling would hold twice that.
        if state.subjects.len() == state.subjects.capacity() && state.subjects.len() < 8 {
            state.subjects.reserve_exact(1);
        }
        state.subjects.push(subject);
    }

    /// Notes that the session has left a subject.
    pub(crate) fn remove_subject(&self, subject: SubjectNumber) {
        let mut state = self.state.lock();
        if let Some(index) = state.subjects.iter().position(|own| *own == subject) {
            state.subjects.swap_remove(index);
        }
    }

    /// Whether the session has more than one subject, so that an event may come more than once.
    pub(crate) fn is_bound_often(&self) -> bool {
        self.state.lock().subjects.len() > 1
    }

    /// The subjects that the session has joined; one may stand there several times.
    pub(crate) fn subjects(&self) -> Vec<SubjectNumber> {
        self.state.lock().subjects.clone()
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        if let Mode::Lagging(_) = self.state.get_mut().mode {
            self.metrics.sessions_lagging.dec();
        }
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("number", &self.number).finish_non_exhaustive()
    }
}

impl State {
    fn push(&mut self, frame: Bytes) -> Pushed {
        self.queue.push(frame);
        if self.scheduled || self.blocked {
            return Pushed::Queued;
        }
        self.scheduled = true;
        Pushed::First
    }
}

#[cfg(test)]
pub(crate) mod tests;
