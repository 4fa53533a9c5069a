//! What the run says to its workers (clients, publisher, floor, consumer), each a process of its own so that its
//! processor time is told apart: one line of JSON each way, over a connection that ends a worker when it ends.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use blackhole_dev::process::{Process, Spec};
use mio::{Poll, Token, Waker};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::clients::protocol::Target;
use crate::clients::tally::Tally;
use crate::event::Keys;
use crate::histogram::Histogram;
use crate::load::Load;

/// What a worker is told to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Clients: connect and bind. They are owed events from `from_event` on.
    Connect {
        /// Where to, and how to speak.
        target: Target,
        /// What to bind.
        load: Load,
        /// The first session of this worker.
        first: u32,
        /// How many sessions it has.
        count: u32,
        /// How many may be under way at once.
        window: u32,
        /// The third byte pair of the source addresses, so that runs do not get into each other's ports.
        sources: u8,
        /// Events before this one have been published already.
        from_event: u64,
    },
    /// Clients, consumer: record the latency of events that are due in this time.
    Measure {
        /// From then,
        from: u64,
        /// to then.
        to: u64,
    },
    /// Clients, consumer: wait until the first `events` events have arrived, or for so long, and tell.
    Collect {
        /// How many events have been published in all.
        events: u64,
        /// How long to wait for them.
        patience: Duration,
    },
    /// Clients: subscribe again and again, for so long, each time to a new subject or to the one that is there.
    Subscribe {
        /// How long.
        time: Duration,
        /// To a new subject each time.
        fresh: bool,
    },
    /// Publisher, floor: publish.
    Publish(Phase),
    /// Publisher: connect. Consumer: connect, and take in all events.
    Attach {
        /// Where to.
        sink: Sink,
        /// What is published.
        load: Load,
    },
    /// Floor: serve on this port.
    Serve {
        /// The port of 127.0.0.1.
        port: u16,
        /// What is bound.
        load: Load,
        /// Whether several events go out in one write.
        coalesce: bool,
    },
}

/// Where a publisher publishes to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Sink {
    /// An AMQP broker's topic exchanges.
    Amqp {
        /// Its URL.
        url: String,
        /// How keys are.
        keys: Keys,
        /// Whether each event is confirmed.
        confirms: bool,
    },
    /// A NATS server: `host:port`.
    Nats(String),
    /// nchan's publisher location: `host:port`.
    Nchan(String),
}

/// A stretch of publishing at one rate.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Phase {
    /// The first event's number.
    pub(crate) first: u64,
    /// How many.
    pub(crate) events: u64,
    /// Per second.
    pub(crate) rate: f64,
    /// When the first one is due.
    pub(crate) start: u64,
}

impl Phase {
    /// When its event number `index` (from 0) is due.
    pub(crate) fn due(&self, index: u64) -> u64 {
        self.start + (index as f64 * 1e9 / self.rate) as u64
    }
}

/// What a worker answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// It is done.
    Done,
    /// It could not be done.
    Failed(String),
    /// The sessions are bound, or as many as could be.
    Connected {
        /// How many are.
        bound: u32,
        /// Why others are not: the first one's reason.
        failure: Option<String>,
        /// From the first connection to the last reply.
        seconds: f64,
        /// From a session's connecting to its last reply.
        each: Histogram,
    },
    /// What has arrived.
    Collected(Tally),
    /// How many subscriptions were confirmed, and how long it took.
    Subscribed {
        /// Successful replies.
        count: u64,
        /// Other replies.
        refused: u64,
        /// How long it took.
        seconds: f64,
    },
    /// All was published, or as much as could be.
    Published {
        /// How many events.
        events: u64,
        /// The longest that an event was published after it was due, in ms.
        late_ms: f64,
    },
}

/// A worker, as the run sees it.
pub(crate) struct Worker {
    process: Process,
    lines: tokio::io::Lines<tokio::io::BufReader<tokio::net::tcp::OwnedReadHalf>>,
    writer: tokio::net::tcp::OwnedWriteHalf,
}

impl Worker {
    /// Starts this program once more, in another role.
    pub(crate) async fn start(role: &str, dir: &Path) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let own = std::env::current_exe().context("cannot find this program")?;
        let spec = Spec::new(own)
            .args(["worker", role, &listener.local_addr()?.to_string()])
            .log(dir.join(format!("{role}.log")));
        let process = Process::start(&spec)?;
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            status = process.exited() => bail!("the worker `{role}` ended ({}); {}", status?, process.log_tail(5)),
        };
        let (reader, writer) = stream.into_split();
        Ok(Self { process, lines: tokio::io::BufReader::new(reader).lines(), writer })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> i32 {
        self.process.id()
    }

    /// Tells it to do something and waits until it has.
    pub(crate) async fn ask(&mut self, order: &Order) -> Result<Answer> {
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        self.writer.write_all(&line).await?;
        match self.lines.next_line().await? {
            Some(line) => match serde_json::from_str(&line)? {
                Answer::Failed(reason) => bail!("a worker failed: {reason}"),
                answer => Ok(answer),
            },
            None => bail!("a worker ended; {}", self.process.log_tail(5)),
        }
    }
}

/// A worker's own end.
pub(crate) struct Master {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
}

impl Master {
    /// Connects to the run.
    pub(crate) fn connect(address: &str) -> Result<Self> {
        let writer = TcpStream::connect(address).context("the run is gone")?;
        writer.set_nodelay(true)?;
        Ok(Self { reader: BufReader::new(writer.try_clone()?), writer })
    }

    /// The next order; none when the run is over.
    pub(crate) fn order(&mut self) -> Result<Option<Order>> {
        let mut line = String::new();
        let read = self.reader.read_line(&mut line).unwrap_or(0);
        if read == 0 {
            return Ok(None);
        }
        serde_json::from_str(&line).context("an order that is not understood").map(Some)
    }

    /// Answers.
    pub(crate) fn answer(&mut self, answer: &Answer) -> Result<()> {
        send(&mut self.writer, answer)
    }

    /// A second writer, for a worker that reads orders in a thread of its own.
    pub(crate) fn answers(&self) -> Result<Answers> {
        Ok(Answers(self.writer.try_clone()?))
    }

    /// For workers that wait for sockets: brings each order and wakes `poll` with `token`. The process ends with the run,
    /// and its sockets with it.
    pub(crate) fn orders(mut self, poll: &Poll, token: Token) -> Result<Receiver<Order>> {
        let waker = Waker::new(poll.registry(), token)?;
        let (sender, orders) = sync_channel(1);
        std::thread::spawn(move || {
            while let Ok(Some(order)) = self.order() {
                if sender.send(order).is_err() || waker.wake().is_err() {
                    return;
                }
            }
            std::process::exit(0);
        });
        Ok(orders)
    }
}

/// Where a worker answers.
pub(crate) struct Answers(TcpStream);

impl Answers {
    /// Answers.
    pub(crate) fn send(&mut self, answer: &Answer) -> Result<()> {
        send(&mut self.0, answer)
    }
}

fn send(writer: &mut TcpStream, answer: &Answer) -> Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    Ok(writer.write_all(&line)?)
}
