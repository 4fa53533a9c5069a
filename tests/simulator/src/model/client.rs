//! The clients: their connections, what they ask, and how they take what they get.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, IoSlice},
    task::{Context, Poll, Waker},
    time::SystemTime,
};

use serde_json::json;
use ws_edge::{outbox::queue::OutboundSocket, session::websocket::ClientSocket};

use super::{Model, Shared, frames, thread::Thread};

/// What the network keeps for a client that does not read.
const BUFFER: usize = 1000;

/// A client.
#[derive(Debug, Default)]
pub(crate) struct Client {
    pub(crate) account: usize,
    pub(crate) session: Option<Session>,
    pub(crate) last_session: u64,
    /// It will resume as soon as it can.
    pub(crate) must_resume: bool,
    pub(crate) threads: BTreeMap<String, Thread>,
    /// Bindings that are asked for and not answered, or just ended, for which events may come.
    pub(crate) early: BTreeMap<String, Thread>,
    pub(crate) pending: VecDeque<Pending>,
    /// Where it would resume: a cursor and the event that it had then.
    pub(crate) last: Option<Position>,
    /// In this session some bindings went back further than others, so one cursor is not enough for all.
    pub(crate) is_mixed: bool,
    /// Earlier cursors.
    pub(crate) cursors: Vec<Position>,
    pub(crate) last_request: u64,
    /// An event has come since the last request.
    pub(crate) got_since_request: bool,
}

/// A cursor.
#[derive(Clone, Debug)]
pub(crate) struct Position {
    pub(crate) cursor: String,
    /// What was stored up to this event is before it, or is the event itself.
    pub(crate) number: u64,
    /// It came with that event.
    pub(crate) of_event: bool,
    /// How often the stream had lost its newest events by then.
    pub(crate) losses: u64,
}

/// A request that is not answered.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) id: u64,
    pub(crate) asked: Asked,
    pub(crate) sent_at: SystemTime,
}

/// What a client asks.
#[derive(Clone, Debug)]
pub(crate) enum Asked {
    Ping,
    Subscribe { bindings: Vec<String>, since: Since },
    Unsubscribe { bindings: Vec<String> },
}

/// From where on a client wants events.
#[derive(Clone, Debug)]
pub(crate) enum Since {
    Now,
    /// From the last frame on: what it had goes on.
    Last(Position),
    /// From any other cursor on.
    Cursor(Position),
    Ago(u64),
}

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) number: u64,
    pub(crate) edge: usize,
    pub(crate) is_reading: bool,
    /// It did not read for some time.
    pub(crate) was_slow: bool,
    pub(super) received: Vec<u8>,
    to_edge: VecDeque<u8>,
    pub(super) close_code: Option<u16>,
    pub(super) reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Model {
    /// A client connects. Returns the edge's end.
    pub(crate) fn connect(&mut self, shared: &Shared, client: usize, edge: usize) -> Connection {
        let own = &mut self.clients[client];
        own.last_session += 1;
        let number = own.last_session;
        own.session = Some(Session {
            number,
            edge,
            is_reading: true,
            was_slow: false,
            received: Vec::new(),
            to_edge: VecDeque::new(),
            close_code: None,
            reader: None,
            writer: None,
        });
        own.pending.clear();
        own.early.clear();
        self.counts.sessions += 1;
        self.say(|| format!("client {client} connects to edge {edge}"));
        Connection { model: shared.clone(), client, number }
    }

    /// A client sends a request.
    pub(crate) fn ask(&mut self, client: usize, asked: Asked, now: SystemTime) {
        let own = &mut self.clients[client];
        let Some(session) = &mut own.session else { return };
        own.last_request += 1;
        own.got_since_request = false;
        let id = own.last_request;
        let token = format!("{:032x}", own.account);
        let request = match &asked {
            Asked::Ping => json!({ "action": "ping", "request_id": id, "auth_token": token }),
            Asked::Subscribe { bindings, since } => {
                let since = match since {
                    Since::Now => None,
                    Since::Last(position) | Since::Cursor(position) => Some(position.cursor.clone()),
                    Since::Ago(seconds) => Some(format!("-{seconds}s")),
                };
                let data = json!({ "bindings": bindings, "since": since });
                json!({ "action": "subscribe", "request_id": id, "auth_token": token, "data": data })
            }
            Asked::Unsubscribe { bindings } => {
                let data = json!({ "bindings": bindings });
                json!({ "action": "unsubscribe", "request_id": id, "auth_token": token, "data": data })
            }
        };
        if let Asked::Subscribe { bindings, since } = &asked {
            own.is_mixed |= matches!(since, Since::Cursor(_) | Since::Ago(_));
            for binding in bindings {
                own.early.entry(binding.clone()).or_default();
            }
        }
        session.to_edge.extend(frames::text(request.to_string().as_bytes()));
        if let Some(reader) = session.reader.take() {
            reader.wake();
        }
        own.pending.push_back(Pending { id, asked: asked.clone(), sent_at: now });
        self.say(|| format!("client {client} asks {asked:?}"));
    }

    /// A client goes away without a word.
    pub(crate) fn leave(&mut self, client: usize) {
        if let Some(session) = self.clients[client].session.take() {
            self.say(|| format!("client {client} goes away"));
            session.reader.into_iter().chain(session.writer).for_each(Waker::wake);
            self.ended(client);
        }
    }

    /// A client stops reading, or reads again.
    pub(crate) fn read(&mut self, client: usize, is_reading: bool) {
        let Some(session) = &mut self.clients[client].session else { return };
        session.is_reading = is_reading;
        session.was_slow |= !is_reading;
        self.say(|| format!("client {client} {}", if is_reading { "reads again" } else { "stops reading" }));
        if is_reading {
            self.take_frames(client);
            if let Some(session) = &mut self.clients[client].session
                && let Some(writer) = session.writer.take()
            {
                writer.wake();
            }
        }
    }

    /// A session has ended.
    pub(super) fn ended(&mut self, client: usize) {
        let own = &mut self.clients[client];
        own.session = None;
        own.pending.clear();
        own.early.clear();
        own.must_resume = !own.threads.is_empty();
    }

    pub(super) fn send(&mut self, client: usize, frame: Vec<u8>) {
        if let Some(session) = &mut self.clients[client].session {
            session.to_edge.extend(frame);
            if let Some(reader) = session.reader.take() {
                reader.wake();
            }
        }
    }
}

/// The edge's end of a client's connection.
#[derive(Debug)]
pub(crate) struct Connection {
    model: Shared,
    client: usize,
    number: u64,
}

impl Connection {
    fn with<T>(&self, work: impl FnOnce(&mut Session) -> T) -> Option<T> {
        let mut model = self.model.lock();
        let session = model.clients.get_mut(self.client)?.session.as_mut()?;
        (session.number == self.number).then(|| work(session))
    }
}

impl OutboundSocket for Connection {
    fn try_write(&self, frames: &[IoSlice<'_>]) -> io::Result<usize> {
        let written = self.with(|session| {
            let all: usize = frames.iter().map(|frame| frame.len()).sum();
            let room = if session.is_reading { all } else { BUFFER.saturating_sub(session.received.len()) };
            let mut left = room.min(all);
            let written = left;
            for frame in frames {
                let size = left.min(frame.len());
                session.received.extend_from_slice(&frame[..size]);
                left -= size;
            }
            written
        });
        match written {
            None => Err(io::ErrorKind::BrokenPipe.into()),
            Some(0) => Err(io::ErrorKind::WouldBlock.into()),
            Some(written) => {
                let mut model = self.model.lock();
                if model.clients[self.client].session.as_ref().is_some_and(|session| session.is_reading) {
                    model.take_frames(self.client);
                }
                Ok(written)
            }
        }
    }
}

impl ClientSocket for Connection {
    fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let is_waiting = self.with(|session| {
            session.reader = Some(context.waker().clone());
            session.to_edge.is_empty() && session.close_code.is_none()
        });
        if is_waiting == Some(true) { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let is_waiting = self.with(|session| {
            session.writer = Some(context.waker().clone());
            !session.is_reading && session.received.len() >= BUFFER
        });
        if is_waiting == Some(true) { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.with(|session| {
            let size = session.to_edge.len().min(buffer.len());
            for (to, from) in buffer.iter_mut().zip(session.to_edge.drain(..size)) {
                *to = from;
            }
            if size == 0 && session.close_code.is_none() { None } else { Some(size) }
        });
        match read {
            // The client is gone.
            None => Ok(0),
            Some(None) => Err(io::ErrorKind::WouldBlock.into()),
            Some(Some(size)) => Ok(size),
        }
    }

    fn shutdown_write(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut model = self.model.lock();
        let Some(session) = &model.clients[self.client].session else { return };
        if session.number != self.number {
            return;
        }
        let (code, was_slow, edge) = (session.close_code, session.was_slow, session.edge);
        let client = self.client;
        model.say(|| format!("client {client}'s session at edge {edge} ends with {code:?}"));
        match code {
            Some(4008) => {
                model.counts.behind += 1;
                if !model.may_miss && !model.may_be_late {
                    model.blame(format!("client {client} is closed with 4008, though nothing is missing"));
                }
            }
            Some(1013) if model.may_refuse => {}
            Some(1012) => {}
            // A client that does not read may not see the close frame.
            None if was_slow => {}
            code => model.blame(format!("client {client} is closed with {code:?}")),
        }
        model.digest(u64::from(code.unwrap_or_default()));
        model.ended(client);
    }
}
