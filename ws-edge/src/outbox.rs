//! The outbox of a session: what waits to be sent to it. Only the outbox writes to the session's socket.
//!
//! It is bounded in bytes, and filling it never waits. Frames are queued as they go over the wire, shared by all
//! sessions that get the same frame, and many of them are written in one system call. Whoever puts a frame into an empty
//! queue has the outbox flushed ([`flusher`]); when the socket is full, the session's own task goes on once it is
//! writable again.
//!
//! A session is **live** or **lagging**: too much waited for it, or it asked for past events. A lagging session gets no
//! live events; a replay of the catch-up makes it live again.

mod delivery_state;
mod flush;
pub mod flusher;
pub mod frame;
pub mod lagging_sessions;
pub mod queue;
mod replay;
mod slow_consumer;

use std::{
    collections::HashSet,
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Context,
    time::{Duration, Instant},
};

use blackhole_common::clock;
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

pub use self::delivery_state::{Lag, Stage};
use self::{
    delivery_state::DeliveryState,
    frame::Frame,
    queue::{OutboundSocket, Queue},
};
use crate::{
    ids::{SessionNumber, SubjectNumber},
    metrics::Metrics,
    protocol::close::Close,
};

/// Bytes of replies that may wait beside events.
const MAX_REPLY_BYTES: usize = 64 << 10;

/// The outbox of one session.
pub struct Outbox {
    /// The session's number on this edge.
    pub number: SessionNumber,
    /// The account of the session's token.
    account: OnceLock<Arc<str>>,
    /// The session is to ask auth-svc again.
    is_recheck_due: AtomicBool,
    max_bytes: usize,
    /// Events go out compressed.
    is_compressed: bool,
    socket: Arc<dyn OutboundSocket>,
    state: Mutex<State>,
    /// Wakes the session's task.
    session: AtomicWaker,
    /// When an event was last sent, in milliseconds after `created`.
    last_event: AtomicU64,
    created: Instant,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct State {
    queue: Queue,
    /// An event was queued since the last flush.
    has_events: bool,
    /// Someone is about to flush.
    scheduled: bool,
    /// The socket is full; the session's task waits until it is writable.
    blocked: bool,
    failed: bool,
    closing: Option<Close>,
    delivery: DeliveryState,
    /// The newest position of an event that was queued, while the session has subjects.
    newest: u64,
    /// The subjects of the session's memberships. The dispatcher maintains them.
    subjects: Vec<SubjectNumber>,
    /// The accounts whose events the session gets, beside its own.
    other_accounts: Vec<Arc<str>>,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// Queued as the first frame: the caller has to have the outbox flushed.
    First,
    /// Queued behind others.
    Queued,
    /// Not queued: the session lags, or began to with this frame.
    Lagging,
    /// Not queued: the session has ended.
    Ended,
}

/// What a flush left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// An empty queue.
    Empty,
    /// An empty queue of a session that waits for a replay.
    Lagging,
    /// A full socket.
    Blocked,
    /// A lost connection.
    Failed,
}

impl Outbox {
    /// An outbox in front of `socket` that holds at most `max_bytes`, but always one frame.
    pub fn new(
        number: SessionNumber,
        max_bytes: usize,
        socket: Arc<dyn OutboundSocket>,
        metrics: Arc<Metrics>,
    ) -> Outbox {
        let state = State {
            queue: Queue::default(),
            has_events: false,
            scheduled: false,
            blocked: false,
            failed: false,
            closing: None,
            delivery: DeliveryState::Live { caught_up: 0 },
            newest: 0,
            subjects: Vec::new(),
            other_accounts: Vec::new(),
        };
        Outbox {
            number,
            account: OnceLock::new(),
            is_recheck_due: AtomicBool::new(false),
            max_bytes,
            is_compressed: false,
            socket,
            state: Mutex::new(state),
            session: AtomicWaker::new(),
            last_event: AtomicU64::new(0),
            created: clock::now(),
            metrics,
        }
    }

    /// The same for a client that takes compressed frames, and may send some, if it does.
    #[must_use]
    pub fn compressed(mut self, is_compressed: bool) -> Outbox {
        self.is_compressed = is_compressed;
        self
    }

    /// Whether the client takes compressed frames, and may send some.
    pub(crate) fn is_compressed(&self) -> bool {
        self.is_compressed
    }

    /// Notes the account of the session's token. A session belongs to the account of its first token.
    pub(crate) fn set_account(&self, account: &Arc<str>) {
        self.account.get_or_init(|| Arc::clone(account));
    }

    /// The account of the session's token; empty before it has one.
    pub(crate) fn account(&self) -> Arc<str> {
        self.account.get().cloned().unwrap_or_else(|| "".into())
    }

    /// Has the session ask auth-svc whether it may still have what it has.
    pub(crate) fn recheck(&self) {
        self.is_recheck_due.store(true, Ordering::Relaxed);
        self.session.wake();
    }

    /// Whether the session is to ask auth-svc now.
    pub(crate) fn take_recheck(&self) -> bool {
        self.is_recheck_due.load(Ordering::Relaxed) && self.is_recheck_due.swap(false, Ordering::Relaxed)
    }

    /// Sets the accounts whose events the session gets, beside its own.
    pub(crate) fn set_other_accounts(&self, accounts: Vec<Arc<str>>) {
        self.state.lock().other_accounts = accounts;
    }

    /// Whether the session's account, or another one whose events it gets, is among these.
    pub(crate) fn concerns(&self, accounts: &HashSet<String>) -> bool {
        self.account.get().is_some_and(|own| accounts.contains(&**own))
            || self.state.lock().other_accounts.iter().any(|other| accounts.contains(&**other))
    }

    /// Queues a frame of the session itself: a reply or a control frame. It always fits; a session that
    /// [`Outbox::is_stuffed`] reads no further requests. The caller flushes.
    pub(crate) fn push_own(&self, frame: impl Into<Frame>) {
        self.state.lock().push_own(frame.into());
    }

    /// Has nothing flushed by others before [`Outbox::open`].
    pub(crate) fn hold_back(&self) {
        self.state.lock().scheduled = true;
    }

    /// Puts a frame before all that waits behind [`Outbox::hold_back`]. `frame` is told whether that is nothing. The caller
    /// flushes, and from here on others do, too.
    pub(crate) fn open(&self, frame: impl FnOnce(bool) -> Bytes) {
        let mut state = self.state.lock();
        let frame = frame(state.queue.is_empty());
        state.queue.push_first(frame.into());
    }

    /// Queues one of two frames of the session itself: `frame(true)` if no event after position `position` was queued. The
    /// caller flushes.
    pub(crate) fn push_own_at(&self, position: u64, frame: impl FnOnce(bool) -> Bytes) {
        let mut state = self.state.lock();
        let is_at = state.newest <= position;
        state.push_own(frame(is_at).into());
    }

    /// Whether so much waits that no reply may be added.
    pub(crate) fn is_stuffed(&self) -> bool {
        self.state.lock().queue.bytes() > self.max_bytes.saturating_add(MAX_REPLY_BYTES)
    }

    /// Whether there is room for more of what a session gets without being live.
    pub(crate) fn has_room(&self) -> bool {
        let mut state = self.state.lock();
        !state.blocked && state.queue.has_room(MAX_REPLY_BYTES, self.max_bytes)
    }

    /// When an event was last sent.
    pub(crate) fn last_event(&self) -> Instant {
        self.created + Duration::from_millis(self.last_event.load(Ordering::Relaxed))
    }

    /// Whether the session's task has to wait for the socket and flush.
    pub(crate) fn is_blocked(&self) -> bool {
        self.state.lock().blocked
    }

    /// Whether the connection is lost.
    pub(crate) fn has_failed(&self) -> bool {
        self.state.lock().failed
    }

    /// Has the session closed. The first reason counts.
    pub(crate) fn close(&self, reason: Close) {
        self.state.lock().closing.get_or_insert(reason);
        self.session.wake();
    }

    /// Why the session is to be closed.
    pub(crate) fn closing(&self) -> Option<Close> {
        self.state.lock().closing
    }

    /// Takes no more events. Without `keep`, drops what waits, except for a frame that is partly sent.
    pub(crate) fn end(&self, keep: bool) {
        let mut state = self.state.lock();
        if state.delivery.lag().is_some() {
            self.metrics.sessions_lagging.dec();
        }
        state.delivery = DeliveryState::Ended;
        if !keep {
            state.queue.drop_unsent();
        }
    }

    /// Has the session's task woken when there is something for it. Call it before looking.
    pub(crate) fn register(&self, context: &Context<'_>) {
        self.session.register(context.waker());
    }

    /// Whether the session has been given everything up to `live`, the position up to which all live sessions have been
    /// served, and nothing after it: a replay may just have brought it further.
    pub(crate) fn is_at(&self, live: u64) -> bool {
        matches!(self.state.lock().delivery, DeliveryState::Live { caught_up } if caught_up <= live)
    }

    /// Notes a subject that the session has joined.
    pub(crate) fn add_subject(&self, subject: SubjectNumber) {
        let mut state = self.state.lock();
        // Most sessions have a handful; doubling would reserve twice that.
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

    /// Whether the session has several subjects, so that it may get an event several times.
    pub(crate) fn has_several_subjects(&self) -> bool {
        self.state.lock().subjects.len() > 1
    }

    /// The subjects that the session has joined; one may be in the list several times.
    pub(crate) fn subjects(&self) -> Vec<SubjectNumber> {
        self.state.lock().subjects.clone()
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        if self.state.get_mut().delivery.lag().is_some() {
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
    /// Queues the frame of an event.
    fn push(&mut self, frame: Frame) -> Pushed {
        self.has_events = true;
        self.push_own(frame)
    }

    fn push_own(&mut self, frame: Frame) -> Pushed {
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
