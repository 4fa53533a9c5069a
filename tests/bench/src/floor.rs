//! The floor: a server that only writes one prepared frame per event and session. No server can deliver events for
//! less.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use blackhole_dev::websocket::{ACCEPT, push_server_head};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};

use crate::clock;
use crate::control::{Answer, Answers, Order, Phase, RunConnection};
use crate::event::{Keys, Message};
use crate::load::Load;

const WAKE: Token = Token(usize::MAX);
const LISTENER: Token = Token(usize::MAX - 1);
const BACKLOG: i32 = 4096;
/// Maximum size of a write when coalescing, in bytes.
const BATCH: usize = 256 * 1024;

/// Executes orders until the run is over.
pub(crate) fn run(run: RunConnection) -> Result<()> {
    let poll = Poll::new()?;
    let (answers, orders) = (run.answers()?, run.orders(&poll, WAKE)?);
    let (sessions, lanes) = (Vec::new(), HashMap::new());
    Floor { poll, orders, answers, service: None, sessions, lanes }.serve()
}

struct Floor {
    poll: Poll,
    orders: Receiver<Order>,
    answers: Answers,
    service: Option<Service>,
    sessions: Vec<Session>,
    /// The sessions of each lane.
    lanes: HashMap<u32, Vec<usize>>,
}

struct Service {
    listener: TcpListener,
    load: Load,
    coalesce: bool,
}

struct Session {
    stream: TcpStream,
    request: Vec<u8>,
    pending: Vec<u8>,
}

impl Floor {
    fn serve(mut self) -> Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            self.wait(&mut events, None)?;
            while let Ok(order) = self.orders.try_recv() {
                self.execute(order)?;
            }
        }
    }

    fn execute(&mut self, order: Order) -> Result<()> {
        let answer = match order {
            Order::Serve { port, load, coalesce } => {
                let listener = listen(port).with_context(|| format!("cannot listen on port {port}"))?;
                let service = self.service.insert(Service { listener, load, coalesce });
                self.poll.registry().register(&mut service.listener, LISTENER, Interest::READABLE)?;
                Answer::Done
            }
            Order::Publish(phase) => self.publish(&phase)?,
            other => bail!("the floor cannot execute {other:?}"),
        };
        self.answers.send(&answer)
    }

    fn wait(&mut self, events: &mut Events, timeout: Option<Duration>) -> Result<()> {
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        for event in &*events {
            match event.token() {
                WAKE => {}
                LISTENER => self.accept()?,
                Token(index) => {
                    if event.is_readable() {
                        self.read(index);
                    }
                    if event.is_writable() {
                        self.sessions[index].flush();
                    }
                }
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> Result<()> {
        let Some(service) = &self.service else { return Ok(()) };
        loop {
            match service.listener.accept() {
                Ok((mut stream, _)) => {
                    stream.set_nodelay(true)?;
                    let both = Interest::READABLE | Interest::WRITABLE;
                    self.poll.registry().register(&mut stream, Token(self.sessions.len()), both)?;
                    self.sessions.push(Session { stream, request: Vec::new(), pending: Vec::new() });
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("cannot accept"),
            }
        }
    }

    /// Reads the upgrade request, whose path is the lane. Ignores everything later.
    fn read(&mut self, index: usize) {
        let session = &mut self.sessions[index];
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = session.stream.read(&mut buffer) {
            session.request.extend_from_slice(&buffer[..read]);
        }
        if !session.request.ends_with(b"\r\n\r\n") {
            return;
        }
        let request = String::from_utf8_lossy(&std::mem::take(&mut session.request)).into_owned();
        let lane = request.split(' ').nth(1).and_then(|path| path.trim_start_matches('/').parse().ok());
        let response = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
        );
        session.send(response.as_bytes());
        self.lanes.entry(lane.unwrap_or(0)).or_default().push(index);
    }

    fn publish(&mut self, phase: &Phase) -> Result<Answer> {
        let (load, coalesce) =
            self.service.as_ref().map(|one| (one.load, one.coalesce)).context("not serving")?;
        let mut events = Events::with_capacity(1024);
        let mut message = Message::default();
        let mut batches: HashMap<u32, Vec<u8>> = HashMap::new();
        let (mut index, mut late) = (0, 0);
        while index < phase.events {
            let (due, now) = (phase.due(index), clock::now());
            if now < due {
                std::thread::sleep(clock::until(due));
            } else {
                late = late.max(now - due);
            }
            let mut gathered = 0;
            loop {
                message.write(&load, Keys::Kazoo, phase.first + index, phase.due(index));
                let batch = batches.entry(message.lane).or_default();
                push_server_head(batch, message.body.len());
                batch.extend_from_slice(&message.body);
                gathered += message.body.len();
                index += 1;
                let next_is_due = index < phase.events && phase.due(index) <= clock::now();
                if !coalesce || !next_is_due || gathered >= BATCH {
                    break;
                }
            }
            for (lane, batch) in batches.iter_mut().filter(|(_, batch)| !batch.is_empty()) {
                for &index in self.lanes.get(lane).into_iter().flatten() {
                    self.sessions[index].send(batch);
                }
                batch.clear();
            }
            if self.sessions.iter().any(|session| !session.pending.is_empty()) {
                self.wait(&mut events, Some(Duration::ZERO))?;
            }
        }
        while self.sessions.iter().any(|session| !session.pending.is_empty()) {
            self.wait(&mut events, Some(Duration::from_millis(100)))?;
        }
        Ok(Answer::Published { events: index, late_ms: late as f64 / 1e6 })
    }
}

impl Session {
    fn send(&mut self, bytes: &[u8]) {
        if self.pending.is_empty() {
            match self.stream.write(bytes) {
                Ok(written) => self.pending.extend_from_slice(&bytes[written..]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.pending.extend_from_slice(bytes),
                // The session has ended; the tally of the clients shows that.
                Err(_) => {}
            }
        } else {
            self.pending.extend_from_slice(bytes);
        }
    }

    fn flush(&mut self) {
        while !self.pending.is_empty() {
            match self.stream.write(&self.pending) {
                Ok(written) => drop(self.pending.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.pending.clear(),
            }
        }
    }
}

fn listen(port: u16) -> Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}
