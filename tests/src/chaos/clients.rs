//! Kinds of clients. Each records the numbers it receives, by binding and call, in order of arrival.

use std::{collections::BTreeMap, fmt, io, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{
    deployment::Deployment,
    source::{CALLS, NAMES, Source},
    verdict::{ClientVerdict, Findings, Verdict},
};
use crate::{
    lean::{LeanClient, TextFrame},
    stack::Stack,
};

/// Number of clients of each kind.
const CLIENTS_PER_KIND: usize = 6;
/// A reply that takes longer counts as lost.
const REPLY_TIMEOUT: Duration = Duration::from_secs(15);
/// Events arrive steadily: after this long without one, a client tries another edge.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(12);
/// Maximum of the first backoff; it doubles with each attempt.
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
/// Maximum of all backoffs.
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// Receive buffer of a lagging client, in bytes.
const SMALL_RECEIVE_BUFFER: u32 = 4096;

/// How a client reads and reconnects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Resumes from its last cursor, on any edge.
    Resuming,
    /// Resumes too, and reads with long pauses.
    Lagging,
    /// Resumes too, and leaves its edge for another one every few seconds.
    Roaming,
    /// Does not resume: events between its connections are not expected.
    Plain,
}

/// The clients of a run.
#[derive(Debug)]
pub struct Clients {
    clients: Vec<Arc<Client>>,
    source: Arc<Source>,
    overruns: Arc<Mutex<[u64; 2]>>,
    _running: JoinSet<()>,
}

#[derive(Debug)]
struct Client {
    name: String,
    kind: Kind,
    /// Index of its account: the calls with this number modulo 2 belong to it.
    account: usize,
    bindings: Vec<String>,
    record: Mutex<Record>,
}

/// The received numbers by binding and call.
type Streams = BTreeMap<(String, usize), Vec<u64>>;

#[derive(Debug, Default)]
struct Record {
    /// One segment per connection of a plain client; a single one for the other kinds.
    segments: Vec<Segment>,
    received: usize,
    connections: usize,
    unrecovered: Vec<String>,
    refused: Vec<String>,
    ends: Vec<String>,
}

#[derive(Debug, Default)]
struct Segment {
    /// For each call, the first expected number.
    expected_from: [u64; CALLS],
    streams: Streams,
}

impl Clients {
    /// Starts some clients of each kind and waits until they are subscribed.
    pub async fn start(
        deployment: &Arc<Deployment>,
        source: &Arc<Source>,
        kinds: &[Kind],
        seed: u64,
    ) -> Clients {
        // A wildcard, exact words, and overlapping bindings.
        let sets: [&[&str]; 3] = [
            &["call.*.*"],
            &["call.CHANNEL_CREATE.*", "call.CHANNEL_ANSWER.*", "call.CHANNEL_DESTROY.*"],
            &["call.*.*", "call.CHANNEL_CREATE.*"],
        ];
        let mut clients = Vec::new();
        let mut running = JoinSet::new();
        for &kind in kinds {
            for number in 0..CLIENTS_PER_KIND {
                let client = Arc::new(Client {
                    name: format!("{kind} {number}"),
                    kind,
                    account: number % 2,
                    bindings: sets[number % sets.len()].iter().map(|&binding| binding.to_owned()).collect(),
                    record: Mutex::default(),
                });
                clients.push(Arc::clone(&client));
                let rng = StdRng::seed_from_u64(seed.wrapping_mul(1000) + clients.len() as u64);
                let (deployment, source) = (Arc::clone(deployment), Arc::clone(source));
                running.spawn(async move { client.run(&deployment, &source, rng).await });
            }
        }
        let overruns = Arc::new(Mutex::new([0; 2]));
        let (watched, total) = (Arc::clone(deployment), Arc::clone(&overruns));
        running.spawn(async move { watch_overruns(&watched, &total).await });
        crate::eventually("the clients' subscriptions", || async {
            clients.iter().all(|client| client.record.lock().connections > 0)
        })
        .await;
        Clients { clients, source: Arc::clone(source), overruns, _running: running }
    }

    /// The number of times that clients have subscribed.
    pub fn connections(&self) -> usize {
        self.clients.iter().map(|client| client.record.lock().connections).sum()
    }

    /// The number of events that all clients have received.
    pub fn received(&self) -> usize {
        self.clients.iter().map(|client| client.record.lock().received).sum()
    }

    /// Whether each client has received the last event of each of its calls.
    pub fn have_all(&self) -> bool {
        self.clients.iter().all(|client| {
            let record = client.record.lock();
            record.segments.last().is_some_and(|segment| {
                client.streams().all(|(binding, call)| {
                    let last = last_of(&binding, call, &self.source);
                    let received =
                        segment.streams.get(&(binding, call)).and_then(|numbers| numbers.last().copied());
                    last.is_none() || last <= received || last < Some(segment.expected_from[call])
                })
            })
        })
    }

    /// Compares what clients received with what was sent. `may_be_late`: see [`Verdict::is_clean`].
    pub fn verdict(&self, may_be_late: bool) -> Verdict {
        let clients = self.clients.iter().map(|client| client.verdict(&self.source, may_be_late)).collect();
        Verdict { clients, overruns: self.overruns.lock().iter().sum() }
    }
}

/// Adds up a counter of the edges, which starts from 0 whenever an edge restarts.
async fn watch_overruns(deployment: &Deployment, overruns: &Mutex<[u64; 2]>) {
    let mut before = [0_u64; 2];
    loop {
        for (index, edge) in deployment.edges.iter().enumerate() {
            if let Ok(text) = edge.service.metrics().await {
                let now = Stack::sum(&text, "blackhole_edge_sessions_overrun_total") as u64;
                overruns.lock()[index] += if now >= before[index] { now - before[index] } else { now };
                before[index] = now;
            }
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Whether the event with this number matches the binding.
fn is_for(binding: &str, number: u64) -> bool {
    let name = NAMES[usize::try_from(number).unwrap() % NAMES.len()];
    binding == "call.*.*" || binding == format!("call.{name}.*")
}

fn last_of(binding: &str, call: usize, source: &Source) -> Option<u64> {
    let mut sent = (0..source.sent(call)).rev();
    sent.find(|number| is_for(binding, *number) && source.is_certain(call, *number))
}

impl Client {
    fn streams(&self) -> impl Iterator<Item = (String, usize)> {
        let calls = (0..CALLS).filter(|call| call % 2 == self.account);
        calls.flat_map(|call| self.bindings.iter().map(move |binding| (binding.clone(), call)))
    }

    async fn run(&self, deployment: &Deployment, source: &Source, mut rng: StdRng) {
        let mut cursor = None;
        let mut backoff = FIRST_BACKOFF;
        loop {
            let port = deployment.edges[rng.random_range(0..deployment.edges.len())].port;
            let Err(error) = self.connect_once(port, source, &mut cursor, &mut backoff, &mut rng).await;
            self.record_end(&error, source);
            // Full jitter.
            tokio::time::sleep(backoff.mul_f64(rng.random())).await;
            backoff = (backoff * 2).min(MAX_BACKOFF);
        }
    }

    fn record_end(&self, error: &io::Error, source: &Source) {
        let mut record = self.record.lock();
        let text = error.to_string();
        if record.ends.last().is_none_or(|last| !last.ends_with(&text)) {
            record.ends.push(format!("at {:?}: {text}", source.counts()));
        }
    }

    /// One connection, until it ends.
    async fn connect_once(
        &self,
        port: u16,
        source: &Source,
        cursor: &mut Option<String>,
        backoff: &mut Duration,
        rng: &mut impl Rng,
    ) -> io::Result<std::convert::Infallible> {
        let receive_buffer = (self.kind == Kind::Lagging).then_some(SMALL_RECEIVE_BUFFER);
        let mut client =
            timeout(REPLY_TIMEOUT, LeanClient::connect(port, "view=args", receive_buffer)).await??;
        let account = source.account(self.account);
        let mut data = json!({ "account_id": account.id, "bindings": self.bindings });
        let since = if self.kind == Kind::Plain { None } else { cursor.clone() };
        if let Some(cursor) = &since {
            data["since"] = json!(cursor);
        }
        let request = json!({ "action": "subscribe", "auth_token": account.token(), "data": data });
        client.send(&request.to_string()).await?;
        let reply = timeout(REPLY_TIMEOUT, reply(&mut client)).await??;
        if !reply.is_success() {
            self.record.lock().refused.push(reply.data().to_owned());
            return Err(io::Error::other(reply.data().to_owned()));
        }
        {
            let mut record = self.record.lock();
            record.connections += 1;
            if since.is_some() && !reply.data().contains(r#""recovered":true"#) {
                record.unrecovered.push(reply.data().to_owned());
            }
            if self.kind == Kind::Plain || record.segments.is_empty() {
                // The next event of each call may be on its way already.
                let expected_from = std::array::from_fn(|call| match source.sent(call) {
                    0 => 0,
                    sent => sent + 1,
                });
                record.segments.push(Segment { expected_from, streams: Streams::new() });
            }
        }
        *backoff = FIRST_BACKOFF;
        let mut until_pause = 0;
        let leave_at = Instant::now() + Duration::from_millis(rng.random_range(1000..3000));
        loop {
            if self.kind == Kind::Lagging {
                if until_pause == 0 {
                    tokio::time::sleep(Duration::from_millis(rng.random_range(0..5000))).await;
                    until_pause = rng.random_range(1..1500);
                }
                until_pause -= 1;
            }
            let frame =
                timeout(SILENCE_TIMEOUT, client.next()).await.map_err(|_| io::Error::other("silent"))??;
            *cursor = Some(self.take(frame)?);
            if self.kind == Kind::Roaming && Instant::now() >= leave_at {
                return Err(io::Error::other("it left"));
            }
        }
    }

    /// Records an event and returns its cursor, which is all that a client has to remember.
    fn take(&self, frame: TextFrame) -> io::Result<String> {
        let (Some(cursor), Some(binding), Some(body)) = (frame.cursor, frame.subscribed_key, frame.args)
        else {
            return Err(io::Error::other("a frame that is not an event"));
        };
        let call =
            (0..CALLS).find(|call| Source::call_id(*call) == body.call).expect("an event of another test");
        let mut record = self.record.lock();
        record.received += 1;
        let segment = record.segments.last_mut().expect("the reply has started a segment");
        segment.streams.entry((binding, call)).or_default().push(body.number);
        Ok(cursor)
    }

    fn verdict(&self, source: &Source, may_be_late: bool) -> ClientVerdict {
        let record = self.record.lock();
        let mut all = Vec::new();
        for (binding, call) in self.streams() {
            let mut findings = Findings::default();
            for (index, segment) in record.segments.iter().enumerate() {
                let none = Vec::new();
                let received = segment.streams.get(&(binding.clone(), call)).unwrap_or(&none);
                let is_last = index + 1 == record.segments.len();
                // After a connection was cut, nothing newer than its last event is expected on it; and nothing at all
                // if events may be late.
                let end = if is_last {
                    source.sent(call)
                } else if may_be_late {
                    0
                } else {
                    received.iter().max().map_or(0, |newest| newest + 1)
                };
                let expected = (segment.expected_from[call]..end)
                    .filter(|number| is_for(&binding, *number) && source.is_certain(call, *number));
                findings.add(Findings::of(received, expected));
            }
            all.push((format!("{binding} of {}", Source::call_id(call)), findings));
        }
        ClientVerdict {
            name: self.name.clone(),
            received: record.received,
            connections: record.connections,
            findings: all,
            unrecovered: record.unrecovered.clone(),
            refused: record.refused.clone(),
            ends: record.ends.clone(),
        }
    }
}

/// The reply to the subscription. Events before it are ignored.
async fn reply(client: &mut LeanClient) -> io::Result<TextFrame> {
    loop {
        let frame = client.next().await?;
        if frame.action == "reply" {
            return Ok(frame);
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Resuming => "resuming",
            Kind::Lagging => "lagging",
            Kind::Roaming => "roaming",
            Kind::Plain => "plain",
        })
    }
}
