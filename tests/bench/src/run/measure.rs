//! One measurement: connected sessions, events at a constant rate, and the CPU time of each process.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use futures_util::future::try_join_all;

use crate::accounting::{self, Machine};
use crate::clients::tally::Tally;
use crate::clock;
use crate::contender::Contender;
use crate::control::{Answer, Order, Phase, Worker};
use crate::histogram::Histogram;
use crate::load::Load;

/// Sessions per client process, which may open 20,000 files.
const SESSIONS_PER_PROCESS: u32 = 15_000;
/// How many sessions connect at the same time, except in a storm.
pub(crate) const GENTLE_WINDOW: u32 = 200;
/// Time for all workers to receive their orders before the first event is due, in nanoseconds.
const START_DELAY: u64 = 100_000_000;

/// A server with connected sessions, and a publisher.
pub(crate) struct ActiveLoad<'a> {
    /// The server.
    pub(crate) contender: &'a mut Contender,
    /// How the sessions connected.
    pub(crate) connected: Connected,
    /// A plain AMQP consumer, if the shape needs one.
    pub(crate) consumer: Option<Worker>,
    load: Load,
    dir: PathBuf,
    sources: u8,
    clients: Vec<Worker>,
    publisher: Option<Worker>,
    /// The number of events published so far.
    pub(crate) published: u64,
}

/// How the sessions connected.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connected {
    /// From the first connection to the last reply, in seconds.
    pub(crate) seconds: f64,
    /// From the start of each session's connection to its last reply.
    pub(crate) each: Histogram,
    /// A cursor that one of them got with its reply.
    pub(crate) cursor: Option<String>,
}

/// Sessions that have connected, and the workers that hold them.
#[derive(Default)]
pub(crate) struct Joined {
    clients: Vec<Worker>,
    connected: Connected,
}

/// The result of a period of events.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    /// Seconds measured.
    pub(crate) seconds: f64,
    /// Events per second.
    pub(crate) rate: f64,
    /// CPU seconds by process.
    pub(crate) cpu: BTreeMap<&'static str, f64>,
    /// Percentage of CPU time that the host gave to other guests.
    pub(crate) stolen: f64,
    /// Percentage of CPU time that none of the measured processes used: other processes, and work of the kernel.
    pub(crate) others: f64,
    /// The tally since the sessions connected, with the latencies of the measured period.
    pub(crate) tally: Tally,
    /// Maximum time by which an event was published late, in ms.
    pub(crate) late_ms: f64,
    /// Events not published because the server delayed the publisher too much.
    pub(crate) unpublished: u64,
}

impl Sample {
    /// Deliveries in the measured period.
    pub(crate) fn deliveries(&self) -> f64 {
        self.tally.latency.total() as f64
    }

    /// CPU time of a process per delivery, in microseconds.
    pub(crate) fn micros(&self, process: &str) -> f64 {
        self.cpu.get(process).copied().unwrap_or(0.0) * 1e6 / self.deliveries().max(1.0)
    }
}

impl<'a> ActiveLoad<'a> {
    /// Connects and subscribes all sessions of a load to a running server, `window` at a time.
    pub(crate) async fn start(
        contender: &'a mut Contender,
        load: Load,
        window: u32,
        published: u64,
        dir: &Path,
    ) -> Result<Self> {
        let mut active = Self::attach(contender, load, published, dir).await?;
        active.connected = active.connect(0..load.sessions, window, None).await?;
        Ok(active)
    }

    /// A publisher of a load's events, and no session yet.
    pub(crate) async fn attach(
        contender: &'a mut Contender,
        load: Load,
        published: u64,
        dir: &Path,
    ) -> Result<Self> {
        let publisher = match contender.sink() {
            Some(sink) => {
                // The publisher first: it declares the exchanges.
                let mut publisher = Worker::start("publisher", dir).await?;
                publisher.ask(&Order::Attach { sink, load }).await?;
                Some(publisher)
            }
            None => None,
        };
        Ok(Self {
            contender,
            connected: Connected::default(),
            consumer: None,
            load,
            dir: dir.to_owned(),
            sources: next_sources(),
            clients: Vec::new(),
            publisher,
            published,
        })
    }

    /// Connects and subscribes some of the sessions, `window` at a time. They resume `since` a cursor, and expect the events
    /// that are published from now on.
    pub(crate) async fn connect(
        &mut self,
        sessions: Range<u32>,
        window: u32,
        since: Option<&str>,
    ) -> Result<Connected> {
        let Joined { clients, connected } = self.joining(sessions, window, since).await?;
        self.clients.extend(clients);
        Ok(connected)
    }

    /// As [`ActiveLoad::connect`], beside something else.
    pub(crate) fn joining(
        &self,
        sessions: Range<u32>,
        window: u32,
        since: Option<&str>,
    ) -> impl Future<Output = Result<Joined>> + use<> {
        let workers = (sessions.len() as u32).div_ceil(SESSIONS_PER_PROCESS);
        let order = |number: u32| {
            let first = sessions.start + number * SESSIONS_PER_PROCESS;
            Order::Connect {
                target: self.contender.target(),
                load: self.load,
                first,
                count: (sessions.end - first).min(SESSIONS_PER_PROCESS),
                window: (window / workers).max(1),
                sources: self.sources,
                from_event: self.published,
                since: since.map(str::to_owned),
            }
        };
        let orders: Vec<Order> = (0..workers).map(order).collect();
        join(orders, sessions.len() as u32, self.dir.clone())
    }

    /// Publishes for `warm_up` seconds, then for `seconds` seconds, which are measured, and waits for all events to
    /// arrive.
    pub(crate) async fn flow(
        &mut self,
        rate: f64,
        warm_up: f64,
        seconds: f64,
        timeout: Duration,
    ) -> Result<Sample> {
        let nobody = async { Ok(Joined::default()) };
        self.flow_beside(rate, warm_up, seconds, timeout, nobody).await.map(|(sample, _)| sample)
    }

    /// As [`ActiveLoad::flow`], while sessions join, whose latencies do not count.
    pub(crate) async fn flow_beside(
        &mut self,
        rate: f64,
        warm_up: f64,
        seconds: f64,
        timeout: Duration,
        joining: impl Future<Output = Result<Joined>>,
    ) -> Result<(Sample, Connected)> {
        let start = clock::now() + START_DELAY;
        let events = ((rate * (warm_up + seconds)).ceil() as u64).max(1);
        let phase = Phase { first: self.published, events, rate, start };
        let from = start + clock::nanos(warm_up);
        let to = from + clock::nanos(seconds);
        let measure = Order::Measure { from, to };
        for worker in self.clients.iter_mut().chain(&mut self.consumer) {
            worker.ask(&measure).await?;
        }
        let groups = self.groups()?;
        let usage = async {
            tokio::time::sleep(clock::until(from)).await;
            let before = (cpu(&groups), Machine::now());
            tokio::time::sleep(clock::until(to)).await;
            let after = (cpu(&groups), Machine::now());
            let used = |(name, used): (&'static str, f64)| (name, used - before.0.get(name).unwrap_or(&0.0));
            let cpu: BTreeMap<_, _> = after.0.into_iter().map(used).collect();
            let machine = after.1.since(before.1);
            let others = (machine.busy - cpu.values().sum::<f64>()).max(0.0);
            Ok((cpu, machine.stolen * 100.0 / machine.total, others * 100.0 / machine.total))
        };
        let publish = async {
            match &mut self.publisher {
                Some(publisher) => publisher.ask(&Order::Publish(phase)).await,
                None => self.contender.publish(phase).await,
            }
        };
        let (published, (cpu, stolen, others), joined) = tokio::try_join!(publish, usage, joining)?;
        self.clients.extend(joined.clients);
        let Answer::Published { events: published, late_ms } = published else {
            bail!("unexpected answer of the publisher: {published:?}")
        };
        self.published += published;
        let tally = self.collect(timeout).await?;
        let unpublished = events - published;
        let sample = Sample { seconds, rate, cpu, stolen, others, tally, late_ms, unpublished };
        Ok((sample, joined.connected))
    }

    /// Waits until all published events have arrived, or until the timeout.
    pub(crate) async fn collect(&mut self, timeout: Duration) -> Result<Tally> {
        let order = Order::Collect { events: self.published, timeout };
        let answers = try_join_all(self.clients.iter_mut().map(|worker| worker.ask(&order))).await?;
        let mut all = Tally::default();
        for answer in answers {
            let Answer::Collected(tally) = answer else {
                bail!("unexpected answer of the clients: {answer:?}")
            };
            all.add(&tally);
        }
        Ok(all)
    }

    /// CPU seconds of each process while nothing is published.
    pub(crate) async fn idle(&self, seconds: f64) -> Result<BTreeMap<&'static str, f64>> {
        let groups = self.groups()?;
        let before = cpu(&groups);
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        Ok(cpu(&groups).into_iter().map(|(name, used)| (name, used - before[name])).collect())
    }

    /// Makes the sessions subscribe repeatedly.
    pub(crate) async fn subscribe(&mut self, seconds: f64, fresh: bool) -> Result<Answer> {
        let order = Order::Subscribe { time: Duration::from_secs_f64(seconds), fresh };
        match self.clients.first_mut() {
            Some(worker) => worker.ask(&order).await,
            None => bail!("there are no clients"),
        }
    }

    /// The process groups of the server and of the workers.
    pub(crate) fn groups(&self) -> Result<Vec<(&'static str, i32)>> {
        let mut groups = self.contender.groups()?;
        groups.extend(self.publisher.iter().map(|worker| ("publisher", worker.id())));
        groups.extend(self.clients.iter().map(|worker| ("clients", worker.id())));
        groups.extend(self.consumer.iter().map(|worker| ("consumer", worker.id())));
        Ok(groups)
    }
}

/// Starts workers, one for each order, and makes them connect `sessions` sessions in all.
async fn join(orders: Vec<Order>, sessions: u32, dir: PathBuf) -> Result<Joined> {
    let mut clients = try_join_all(orders.iter().map(|_| Worker::start("clients", &dir))).await?;
    let asked = clients.iter_mut().zip(&orders).map(|(worker, order)| worker.ask(order));
    let mut connected = Connected::default();
    let (mut missing, mut reason) = (sessions, None);
    for answer in try_join_all(asked).await? {
        let Answer::Connected { bound, failure, seconds, each, cursor } = answer else {
            bail!("unexpected answer of the clients: {answer:?}")
        };
        missing -= bound;
        reason = reason.or(failure);
        connected.seconds = connected.seconds.max(seconds);
        connected.each.add(&each);
        connected.cursor = connected.cursor.or(cursor);
    }
    if missing > 0 {
        let reason = reason.unwrap_or_default();
        bail!("{missing} of {sessions} sessions are not subscribed: {reason}");
    }
    Ok(Joined { clients, connected })
}

/// CPU seconds so far, summed over groups with the same name.
pub(crate) fn cpu(groups: &[(&'static str, i32)]) -> BTreeMap<&'static str, f64> {
    let mut all = BTreeMap::new();
    for (name, group) in groups {
        *all.entry(*name).or_default() += accounting::cpu_seconds(*group);
    }
    all
}

fn next_sources() -> u8 {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed) % 200 + 20
}
