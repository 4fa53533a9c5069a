//! The protocol between the run and its workers (clients, publisher, floor, consumer), which are separate processes so
//! that their CPU time can be measured separately: one line of JSON per order and per answer. A worker ends with its
//! connection.

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

/// An order to a worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Clients: connect and subscribe. Events are expected from `from_event` on.
    Connect {
        /// Address and protocol.
        target: Target,
        /// The load, which determines the bindings.
        load: Load,
        /// Number of the first session of this worker.
        first: u32,
        /// Number of sessions of this worker.
        count: u32,
        /// Maximum number of sessions that are connecting at a time.
        window: u32,
        /// The second byte of the source addresses, so that measurements do not share ports.
        sources: u8,
        /// The number of events published before.
        from_event: u64,
        /// The cursor to resume from.
        since: Option<String>,
    },
    /// Clients, consumer: record the latency of events that are due in this period.
    Measure {
        /// Start of the period.
        from: u64,
        /// End of the period.
        to: u64,
    },
    /// Clients, consumer: wait until the first `events` events have arrived, and answer with the tally.
    Collect {
        /// Total number of events published.
        events: u64,
        /// Maximum time to wait.
        timeout: Duration,
    },
    /// Clients: subscribe repeatedly, to a new subject each time or always to the same one.
    Subscribe {
        /// For how long.
        time: Duration,
        /// Whether to a new subject each time.
        fresh: bool,
    },
    /// Publisher, floor: publish.
    Publish(Phase),
    /// Publisher: connect. Consumer: connect and consume all events.
    Attach {
        /// The server.
        sink: Sink,
        /// The published load.
        load: Load,
    },
    /// Floor: start serving.
    Serve {
        /// The port of 127.0.0.1.
        port: u16,
        /// The load, which determines the lanes.
        load: Load,
        /// Whether to combine several events in one write.
        coalesce: bool,
    },
}

/// A server to publish to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Sink {
    /// An AMQP broker's topic exchanges.
    Amqp {
        /// Its URL.
        url: String,
        /// The form of the routing keys.
        keys: Keys,
        /// Whether to use publisher confirms.
        confirms: bool,
    },
    /// A NATS server: `host:port`.
    Nats(String),
    /// nchan's publisher location: `host:port`.
    Nchan(String),
}

/// A period of publishing at a constant rate.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Phase {
    /// The number of the first event.
    pub(crate) first: u64,
    /// The number of events.
    pub(crate) events: u64,
    /// Events per second.
    pub(crate) rate: f64,
    /// When the first event is due.
    pub(crate) start: u64,
}

impl Phase {
    /// When the event at `index` (from 0) is due.
    pub(crate) fn due(&self, index: u64) -> u64 {
        self.start + (index as f64 * 1e9 / self.rate) as u64
    }
}

/// A worker's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// Done.
    Done,
    /// The order failed.
    Failed(String),
    /// The sessions are subscribed, or as many of them as possible.
    Connected {
        /// The number of subscribed sessions.
        bound: u32,
        /// Why the first of the other sessions failed.
        failure: Option<String>,
        /// From the first connection to the last reply.
        seconds: f64,
        /// From the start of each session's connection to its last reply.
        each: Histogram,
        /// The cursor in the last reply, if there is one.
        cursor: Option<String>,
    },
    /// The events that have arrived.
    Collected(Tally),
    /// The result of subscribing.
    Subscribed {
        /// Number of successful replies.
        count: u64,
        /// Number of other replies.
        refused: u64,
        /// Seconds that it took.
        seconds: f64,
    },
    /// All events were published, or as many as possible.
    Published {
        /// The number of events.
        events: u64,
        /// Maximum time by which an event was published late, in ms.
        late_ms: f64,
    },
}

/// A worker, on the side of the run.
pub(crate) struct Worker {
    process: Process,
    lines: tokio::io::Lines<tokio::io::BufReader<tokio::net::tcp::OwnedReadHalf>>,
    writer: tokio::net::tcp::OwnedWriteHalf,
}

impl Worker {
    /// Starts this program again as a worker.
    pub(crate) async fn start(role: &str, dir: &Path) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let own = std::env::current_exe().context("cannot find this program")?;
        let spec = Spec::new(own)
            .args(["worker", role, &listener.local_addr()?.to_string()])
            .log(dir.join(format!("{role}.log")));
        let process = Process::start(&spec)?;
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            status = process.exited() => bail!("worker `{role}` ended ({}); {}", status?, process.log_tail(5)),
        };
        let (reader, writer) = stream.into_split();
        Ok(Self { process, lines: tokio::io::BufReader::new(reader).lines(), writer })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> i32 {
        self.process.id()
    }

    /// Sends an order and waits for the answer.
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

/// The connection to the run, on the side of the worker.
pub(crate) struct RunConnection {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
}

impl RunConnection {
    /// Connects to the run.
    pub(crate) fn connect(address: &str) -> Result<Self> {
        let writer = TcpStream::connect(address).context("the run has ended")?;
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
        serde_json::from_str(&line).context("an invalid order").map(Some)
    }

    /// Sends an answer.
    pub(crate) fn answer(&mut self, answer: &Answer) -> Result<()> {
        send(&mut self.writer, answer)
    }

    /// A second writer, for a worker that reads orders in a separate thread.
    pub(crate) fn answers(&self) -> Result<Answers> {
        Ok(Answers(self.writer.try_clone()?))
    }

    /// For workers that poll sockets: sends orders to a channel and wakes `poll` with `token` for each. The process
    /// exits when the run ends.
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

/// A writer for answers.
pub(crate) struct Answers(TcpStream);

impl Answers {
    /// Sends an answer.
    pub(crate) fn send(&mut self, answer: &Answer) -> Result<()> {
        send(&mut self.0, answer)
    }
}

fn send(writer: &mut TcpStream, answer: &Answer) -> Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    Ok(writer.write_all(&line)?)
}
