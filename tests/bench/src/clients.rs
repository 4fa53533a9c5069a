//! The load generator: thousands of WebSocket clients in one thread, directly on epoll. Of a frame they parse only the
//! length and the stamp.

mod connection;
pub(crate) mod protocol;
mod stream;
mod subscriber;
pub(crate) mod tally;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use blackhole_dev::websocket::{Frame, push_client_frame, upgrade_end};
use mio::{Events, Interest, Poll, Token};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Socket, Type};
use tokio_rustls::rustls::ClientConfig;

use self::connection::{Connection, State};
use self::protocol::{Progress, Target};
pub(crate) use self::stream::SERVER_NAME;
use self::stream::Stream;
use self::subscriber::Subscriber;
use self::tally::{Ledger, expected_lanes};
use crate::clock;
use crate::control::{Answer, Answers, Order, RunConnection};
use crate::histogram::Histogram;
use crate::load::Load;

/// The bit of a frame's first byte that marks the last frame of a message.
const LAST: u8 = 0x80;
const WAKE: Token = Token(usize::MAX);
/// Connections started before existing ones are served again: servers limit the time for a handshake.
const CONNECT_BATCH: u32 = 256;
/// Size of the read buffer that all connections share.
const BUFFER: usize = 256 * 1024;
/// Sessions per source address: far fewer than there are ports.
const SESSIONS_PER_ADDRESS: u32 = 5_000;
/// How long all sessions together may take to subscribe.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(120);

/// Executes orders until the run is over.
pub(crate) fn run(run: RunConnection) -> Result<()> {
    let poll = Poll::new()?;
    let (answers, orders) = (run.answers()?, run.orders(&poll, WAKE)?);
    Clients::new(poll, orders, answers).serve()
}

struct Clients {
    poll: Poll,
    orders: Receiver<Order>,
    answers: Answers,
    buffer: Vec<u8>,
    /// Position of the last stamp in its frame.
    stamp_position: usize,
    connections: Vec<Connection>,
    ledger: Ledger,
    plan: Option<Plan>,
    connecting: Option<Connecting>,
    collecting: Option<Collecting>,
    subscriber: Option<Subscriber>,
    reason: Option<String>,
}

/// The content of [`Order::Connect`].
struct Plan {
    target: Target,
    load: Load,
    first: u32,
    count: u32,
    window: u32,
    sources: u8,
    from_event: u64,
    since: Option<String>,
    tls: Option<Arc<ClientConfig>>,
}

struct Connecting {
    began: u64,
    bound: u32,
    failed: u32,
    each: Histogram,
    cursor: Option<String>,
}

struct Collecting {
    events: u64,
    expected: u64,
    until: u64,
}

impl Clients {
    fn new(poll: Poll, orders: Receiver<Order>, answers: Answers) -> Self {
        Self {
            poll,
            orders,
            answers,
            buffer: vec![0; BUFFER],
            stamp_position: 0,
            connections: Vec::new(),
            ledger: Ledger::default(),
            plan: None,
            connecting: None,
            collecting: None,
            subscriber: None,
            reason: None,
        }
    }

    fn serve(mut self) -> Result<()> {
        let mut events = Events::with_capacity(4096);
        loop {
            // Poll with a timeout only while something has a time limit.
            let busy = self.connecting.is_some() || self.collecting.is_some() || self.subscriber.is_some();
            match self.poll.poll(&mut events, busy.then_some(Duration::from_millis(20))) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                if event.token() == WAKE {
                    continue;
                }
                let index = event.token().0;
                if event.is_writable() {
                    self.writable(index);
                }
                if event.is_readable() || event.is_read_closed() || event.is_error() {
                    self.readable(index);
                }
            }
            while let Ok(order) = self.orders.try_recv() {
                self.execute(order)?;
            }
            self.tick()?;
        }
    }

    fn execute(&mut self, order: Order) -> Result<()> {
        match order {
            Order::Connect { target, load, first, count, window, sources, from_event, since } => {
                self.connections.reserve(count as usize);
                let tls = target.tls.as_deref().map(stream::client_config).transpose()?;
                self.plan =
                    Some(Plan { target, load, first, count, window, sources, from_event, since, tls });
                let (began, each) = (clock::now(), Histogram::default());
                self.connecting = Some(Connecting { began, bound: 0, failed: 0, each, cursor: None });
            }
            Order::Measure { from, to } => {
                self.ledger.measure(from..to);
                self.answers.send(&Answer::Done)?;
            }
            Order::Collect { events, timeout } => {
                let until = clock::now() + timeout.as_nanos() as u64;
                let expected = self.tally(events)?.expected;
                self.collecting = Some(Collecting { events, expected, until });
            }
            Order::Subscribe { time, fresh } => self.subscribe(time, fresh)?,
            other => bail!("clients cannot execute {other:?}"),
        }
        Ok(())
    }

    /// Work that has a time limit, or has to wait until all received data is processed.
    fn tick(&mut self) -> Result<()> {
        if self.connecting.is_some() {
            self.connect_more()?;
        }
        if let Some(collecting) = &self.collecting {
            let done = self.ledger.delivered >= collecting.expected;
            if done || clock::now() > collecting.until {
                let events = collecting.events;
                self.collecting = None;
                let tally = self.tally(events)?;
                self.answers.send(&Answer::Collected(tally))?;
            }
        }
        if let Some(subscriber) = self.subscriber.as_ref().filter(|subscriber| subscriber.is_over()) {
            let answer = subscriber.answer();
            self.subscriber = None;
            self.answers.send(&answer)?;
        }
        Ok(())
    }

    fn tally(&self, events: u64) -> Result<tally::Tally> {
        let plan = self.plan.as_ref().context("no session is connected")?;
        let sessions = self.connections.iter().map(|one| (&*one.lanes, one.state != State::Closed));
        let mut tally = self.ledger.close(&plan.load, events, sessions);
        tally.reason.clone_from(&self.reason);
        Ok(tally)
    }

    fn connect_more(&mut self) -> Result<()> {
        let (Some(plan), Some(connecting)) = (&self.plan, &mut self.connecting) else { return Ok(()) };
        let ended = connecting.bound + connecting.failed;
        let started = self.connections.len() as u32;
        let late = clock::now() > connecting.began + CONNECT_TIMEOUT.as_nanos() as u64;
        if ended >= plan.count || late {
            let answer = Answer::Connected {
                bound: connecting.bound,
                failure: self
                    .reason
                    .clone()
                    .or_else(|| late.then(|| "not subscribed within the timeout".into())),
                seconds: (clock::now() - connecting.began) as f64 / 1e9,
                each: std::mem::take(&mut connecting.each),
                cursor: connecting.cursor.take(),
            };
            self.connecting = None;
            return self.answers.send(&answer);
        }
        for number in started..plan.count.min(ended + plan.window).min(started + CONNECT_BATCH) {
            let index = self.connections.len();
            let stream = Stream::new(connect(plan, number)?, plan.tls.as_ref())?;
            let session = plan.first + number;
            let mut connection =
                Connection::new(stream, session, expected_lanes(&plan.load, session, plan.from_event));
            connection.out = plan.target.protocol.upgrade(&plan.load, session);
            let both = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(connection.stream.tcp(), Token(index), both)?;
            self.connections.push(connection);
        }
        Ok(())
    }

    fn writable(&mut self, index: usize) {
        if let Some(connection) = self.connections.get_mut(index)
            && let Err(error) = connection.flush()
        {
            self.close(index, &format!("cannot write: {error}"));
        }
    }

    fn readable(&mut self, index: usize) {
        let mut buffer = std::mem::take(&mut self.buffer);
        while let Some(connection) = self.connections.get_mut(index) {
            if connection.state == State::Closed {
                break;
            }
            match connection.read(&mut buffer) {
                Ok(Some((length, drained))) => {
                    let used = self.process(index, &buffer[..length]);
                    if let Some(connection) = self.connections.get_mut(index) {
                        connection.rest.extend_from_slice(&buffer[used..length]);
                    }
                    if drained {
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    self.close(index, &error.to_string());
                    break;
                }
            }
        }
        self.buffer = buffer;
    }

    /// Processes all complete frames, and returns the position after them.
    fn process(&mut self, index: usize, bytes: &[u8]) -> usize {
        let now = clock::now();
        let mut at = 0;
        if self.connections[index].state == State::Upgrading {
            match upgrade_end(bytes) {
                Ok(Some(end)) => at = end,
                Ok(None) => return 0,
                Err(answer) => {
                    self.close(index, &format!("not upgraded: {answer}"));
                    return bytes.len();
                }
            }
            self.open(index, now);
        }
        while let Some(frame) = Frame::parse(bytes, at) {
            at = frame.payload.end;
            let opcode = frame.opcode();
            let payload = &bytes[frame.payload];
            match opcode {
                0..=2 => self.message(index, payload, now),
                8 => {
                    let code = payload.get(..2).map_or(0, |code| u16::from_be_bytes([code[0], code[1]]));
                    self.close(index, &format!("closed by the server with {code}"));
                    return bytes.len();
                }
                9 => self.send(index, 10, payload),
                _ => {}
            }
        }
        at
    }

    fn message(&mut self, index: usize, payload: &[u8], now: u64) {
        let connection = &mut self.connections[index];
        if self.plan.as_ref().is_some_and(|plan| plan.target.protocol == protocol::Protocol::Nats) {
            let mut stream = std::mem::take(&mut connection.stream_rest);
            let joined = if stream.is_empty() {
                payload
            } else {
                stream.extend_from_slice(payload);
                &stream
            };
            let mut at = 0;
            while let Some((line, body, end)) = connection::nats_message(joined, at) {
                at = end;
                match body {
                    Some(body) => self.event(index, &joined[body], now),
                    None => self.handle_reply(index, &joined[line], now),
                }
            }
            self.connections[index].stream_rest = joined[at..].to_vec();
            return;
        }
        self.event(index, payload, now);
    }

    fn event(&mut self, index: usize, payload: &[u8], now: u64) {
        match crate::stamp::Stamp::find(payload, &mut self.stamp_position) {
            Some(stamp) => {
                let connection = &mut self.connections[index];
                self.ledger.arrived(connection.session, &mut connection.lanes, stamp, now);
            }
            None => self.handle_reply(index, payload, now),
        }
    }

    fn handle_reply(&mut self, index: usize, text: &[u8], now: u64) {
        let (Some(plan), session) = (&self.plan, self.connections[index].session) else { return };
        if let Some(subscriber) = &mut self.subscriber {
            if let Some(request) = subscriber.handle_reply(session, text) {
                self.send(index, 1, &request);
            }
            return;
        }
        match plan.target.protocol.interpret(&plan.load, session, text) {
            Progress::None => {}
            Progress::Send(text) => self.send(index, 1, &text),
            Progress::Refused(reason) => self.close(index, &reason),
            Progress::Confirmed => {
                if let State::Binding(missing) = &mut self.connections[index].state {
                    *missing -= 1;
                    if *missing == 0 {
                        self.mark_bound(index, now);
                        if let Some(connecting) = &mut self.connecting {
                            connecting.cursor = protocol::cursor(text);
                        }
                    }
                }
            }
        }
    }

    fn open(&mut self, index: usize, now: u64) {
        let Some(plan) = &self.plan else { return };
        let session = self.connections[index].session;
        let (messages, confirmations) =
            plan.target.protocol.opening(&plan.load, session, plan.since.as_deref());
        self.connections[index].state = State::Binding(confirmations);
        if confirmations == 0 {
            self.mark_bound(index, now);
        }
        for text in messages {
            self.send(index, 1, &text);
        }
    }

    fn mark_bound(&mut self, index: usize, now: u64) {
        let connection = &mut self.connections[index];
        connection.state = State::Bound;
        if let Some(connecting) = &mut self.connecting {
            connecting.bound += 1;
            connecting.each.record(now.saturating_sub(connection.began));
        }
    }

    fn send(&mut self, index: usize, opcode: u8, text: &[u8]) {
        let connection = &mut self.connections[index];
        push_client_frame(&mut connection.out, LAST | opcode, text);
        if let Err(error) = connection.flush() {
            self.close(index, &format!("cannot write: {error}"));
        }
    }

    fn close(&mut self, index: usize, reason: &str) {
        let connection = &mut self.connections[index];
        let was = std::mem::replace(&mut connection.state, State::Closed);
        if was == State::Closed {
            return;
        }
        let _ = self.poll.registry().deregister(connection.stream.tcp());
        let _ = connection.stream.tcp().shutdown(std::net::Shutdown::Both);
        self.reason.get_or_insert_with(|| reason.to_owned());
        if let Some(connecting) = self.connecting.as_mut().filter(|_| was != State::Bound) {
            connecting.failed += 1;
        }
    }

    fn subscribe(&mut self, time: Duration, fresh: bool) -> Result<()> {
        let load = self.plan.as_ref().context("no session is connected")?.load;
        let mut subscriber = Subscriber::new(load, time, fresh);
        let first: Vec<_> = self.connections.iter().map(|one| subscriber.request(one.session)).collect();
        self.subscriber = Some(subscriber);
        for (index, request) in first.into_iter().enumerate() {
            self.send(index, 1, &request);
        }
        Ok(())
    }
}

/// Starts to connect, from an address with free ports.
fn connect(plan: &Plan, number: u32) -> Result<mio::net::TcpStream> {
    let source = Ipv4Addr::new(
        127,
        plan.sources,
        (plan.first / SESSIONS_PER_ADDRESS + number / SESSIONS_PER_ADDRESS) as u8,
        1,
    );
    let port = plan.target.ports[number as usize % plan.target.ports.len()];
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).context("cannot open a socket")?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    // Choose the port once the remote address is known: after a storm, finding a completely free port takes long.
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
    socket
        .bind(&SocketAddr::from((source, 0)).into())
        .with_context(|| format!("no free port at {source}"))?;
    match socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()) {
        Err(error) if error.raw_os_error() != Some(nix::errno::Errno::EINPROGRESS as i32) => {
            Err(error).context("cannot connect")
        }
        _ => Ok(mio::net::TcpStream::from_std(socket.into())),
    }
}
