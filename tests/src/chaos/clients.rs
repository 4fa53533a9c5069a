//! Clients of three kinds. What each got is noted by binding and call, in the order of arrival.

use std::{collections::BTreeMap, fmt, io, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use tokio::{task::JoinSet, time::timeout};

use super::{
    source::{CALLS, NAMES, Source},
    verdict::{Judgement, Line, Verdict},
    world::World,
};
use crate::{
    lean::{LeanClient, TextFrame},
    stack::Stack,
};

/// How many of each kind.
const OF_EACH_KIND: usize = 6;
/// A reply that takes longer will not come.
const REPLY_WITHIN: Duration = Duration::from_secs(15);
/// Events are steady: a client that hears nothing for so long tries another edge.
const SILENCE_AT_MOST: Duration = Duration::from_secs(12);
/// The first wait before coming back, at most; it doubles.
const AGAIN_WITHIN: Duration = Duration::from_millis(250);
/// Waits do not grow beyond this.
const AGAIN_AT_MOST: Duration = Duration::from_secs(2);
/// Bytes that the system keeps for a lagging client.
const LITTLE_ROOM: u32 = 4096;

/// How a client reads and comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Comes back with its last cursor, at any edge.
    Resuming,
    /// As resuming, and reads with long pauses.
    Lagging,
    /// Comes back as if it had never been there: what falls between its connections is not owed.
    Plain,
}

/// All clients of a run.
#[derive(Debug)]
pub struct Crowd {
    clients: Vec<Arc<Client>>,
    source: Arc<Source>,
    overruns: Arc<Mutex<[u64; 2]>>,
    _running: JoinSet<()>,
}

#[derive(Debug)]
struct Client {
    name: String,
    kind: Kind,
    /// The call's number modulo 2 is its account's.
    account: usize,
    bindings: Vec<String>,
    notes: Mutex<Notes>,
}

/// The numbers that came by one binding of one call.
type Streams = BTreeMap<(String, usize), Vec<u64>>;

#[derive(Debug, Default)]
struct Notes {
    /// One part for each connection of a plain client, one for all of any other.
    parts: Vec<Part>,
    received: usize,
    connections: usize,
    unrecovered: Vec<String>,
    ends: Vec<String>,
}

#[derive(Debug, Default)]
struct Part {
    /// Of each call, the first number that is owed.
    owed_from: [u64; CALLS],
    streams: Streams,
}

impl Crowd {
    /// Connects all clients, and waits until they are subscribed.
    pub async fn start(world: &Arc<World>, source: &Arc<Source>, seed: u64) -> Crowd {
        // Exact words, a wildcard, both at once, and none or more.
        let sets: [&[&str]; 3] = [
            &["call.*.*"],
            &["call.CHANNEL_CREATE.*", "call.CHANNEL_ANSWER.*", "call.CHANNEL_DESTROY.*"],
            &["call.*.*", "call.CHANNEL_CREATE.*"],
        ];
        let mut clients = Vec::new();
        let mut running = JoinSet::new();
        for kind in [Kind::Resuming, Kind::Lagging, Kind::Plain] {
            for number in 0..OF_EACH_KIND {
                let client = Arc::new(Client {
                    name: format!("{kind} {number}"),
                    kind,
                    account: number % 2,
                    bindings: sets[number % sets.len()].iter().map(|&binding| binding.to_owned()).collect(),
                    notes: Mutex::default(),
                });
                clients.push(Arc::clone(&client));
                let rng = StdRng::seed_from_u64(seed.wrapping_mul(1000) + clients.len() as u64);
                let (world, source) = (Arc::clone(world), Arc::clone(source));
                running.spawn(async move { client.live(&world, &source, rng).await });
            }
        }
        let overruns = Arc::new(Mutex::new([0; 2]));
        let (watched, noted) = (Arc::clone(world), Arc::clone(&overruns));
        running.spawn(async move { watch_overruns(&watched, &noted).await });
        crate::eventually("the clients' subscriptions", || async {
            clients.iter().all(|client| client.notes.lock().connections > 0)
        })
        .await;
        Crowd { clients, source: Arc::clone(source), overruns, _running: running }
    }

    /// How many events came to all of them.
    pub fn received(&self) -> usize {
        self.clients.iter().map(|client| client.notes.lock().received).sum()
    }

    /// Whether the last event of each call has come to each.
    pub fn has_all(&self) -> bool {
        self.clients.iter().all(|client| {
            let notes = client.notes.lock();
            notes.parts.last().is_some_and(|part| {
                client.owed_streams().all(|(binding, call)| {
                    let last = last_of(&binding, self.source.sent(call));
                    let came = part.streams.get(&(binding, call)).and_then(|numbers| numbers.last().copied());
                    last.is_none() || last == came || last < Some(part.owed_from[call])
                })
            })
        })
    }

    /// Compares what came with what was sent. `may_be_late`: see [`Verdict::is_clean`].
    pub fn verdict(&self, may_be_late: bool) -> Verdict {
        let lines = self.clients.iter().map(|client| client.judge(&self.source, may_be_late)).collect();
        Verdict { lines, overruns: self.overruns.lock().iter().sum() }
    }
}

/// Counters die with their edges.
async fn watch_overruns(world: &World, overruns: &Mutex<[u64; 2]>) {
    let mut before = [0_u64; 2];
    loop {
        for (index, edge) in world.edges.iter().enumerate() {
            if let Ok(text) = edge.service.metrics().await {
                let now = Stack::sum(&text, "blackhole_edge_sessions_overrun_total") as u64;
                overruns.lock()[index] += if now >= before[index] { now - before[index] } else { now };
                before[index] = now;
            }
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Whether an event with this number is for this binding.
fn is_for(binding: &str, number: u64) -> bool {
    let name = NAMES[usize::try_from(number).unwrap() % NAMES.len()];
    binding == "call.*.*" || binding == format!("call.{name}.*")
}

fn last_of(binding: &str, sent: u64) -> Option<u64> {
    (0..sent).rev().find(|number| is_for(binding, *number))
}

impl Client {
    fn owed_streams(&self) -> impl Iterator<Item = (String, usize)> {
        let calls = (0..CALLS).filter(|call| call % 2 == self.account);
        calls.flat_map(|call| self.bindings.iter().map(move |binding| (binding.clone(), call)))
    }

    async fn live(&self, world: &World, source: &Source, mut rng: StdRng) {
        let mut cursor = None;
        let mut wait = AGAIN_WITHIN;
        loop {
            let port = world.edges[rng.random_range(0..world.edges.len())].port;
            let Err(error) = self.visit(port, source, &mut cursor, &mut wait, &mut rng).await;
            self.note_end(&error, source);
            // Full jitter.
            tokio::time::sleep(wait.mul_f64(rng.random())).await;
            wait = (wait * 2).min(AGAIN_AT_MOST);
        }
    }

    fn note_end(&self, error: &io::Error, source: &Source) {
        let mut notes = self.notes.lock();
        let text = error.to_string();
        if notes.ends.last().is_none_or(|last| !last.ends_with(&text)) {
            notes.ends.push(format!("at {:?}: {text}", source.counts()));
        }
    }

    /// One connection to its end.
    async fn visit(
        &self,
        port: u16,
        source: &Source,
        cursor: &mut Option<String>,
        wait: &mut Duration,
        rng: &mut impl Rng,
    ) -> io::Result<std::convert::Infallible> {
        let room = (self.kind == Kind::Lagging).then_some(LITTLE_ROOM);
        let mut lean = timeout(REPLY_WITHIN, LeanClient::connect(port, "view=args", room)).await??;
        let account = source.account(self.account);
        let mut data = json!({ "account_id": account.id, "bindings": self.bindings });
        let since = if self.kind == Kind::Plain { None } else { cursor.clone() };
        if let Some(cursor) = &since {
            data["since"] = json!(cursor);
        }
        let request = json!({ "action": "subscribe", "auth_token": account.token(), "data": data });
        lean.send(&request.to_string()).await?;
        let reply = timeout(REPLY_WITHIN, reply(&mut lean)).await??;
        if !reply.is_success() {
            return Err(io::Error::other(reply.data().to_owned()));
        }
        {
            let mut notes = self.notes.lock();
            notes.connections += 1;
            if since.is_some() && !reply.data().contains(r#""recovered":true"#) {
                notes.unrecovered.push(reply.data().to_owned());
            }
            if self.kind == Kind::Plain || notes.parts.is_empty() {
                // One of each call may be under way just now.
                let owed_from = std::array::from_fn(|call| match source.sent(call) {
                    0 => 0,
                    sent => sent + 1,
                });
                notes.parts.push(Part { owed_from, streams: Streams::new() });
            }
        }
        *wait = AGAIN_WITHIN;
        let mut until_pause = 0;
        loop {
            if self.kind == Kind::Lagging {
                if until_pause == 0 {
                    tokio::time::sleep(Duration::from_millis(rng.random_range(0..5000))).await;
                    until_pause = rng.random_range(1..1500);
                }
                until_pause -= 1;
            }
            let frame =
                timeout(SILENCE_AT_MOST, lean.next()).await.map_err(|_| io::Error::other("silent"))??;
            *cursor = Some(self.take(frame)?);
        }
    }

    /// Notes an event, and returns its cursor: all that a client has to remember.
    fn take(&self, frame: TextFrame) -> io::Result<String> {
        let (Some(cursor), Some(binding), Some(body)) = (frame.cursor, frame.subscribed_key, frame.args)
        else {
            return Err(io::Error::other("a frame that is no event"));
        };
        let call =
            (0..CALLS).find(|call| Source::call_id(*call) == body.call).expect("an event of another test");
        let mut notes = self.notes.lock();
        notes.received += 1;
        let part = notes.parts.last_mut().expect("there was a reply");
        part.streams.entry((binding, call)).or_default().push(body.number);
        Ok(cursor)
    }

    fn judge(&self, source: &Source, may_be_late: bool) -> Line {
        let notes = self.notes.lock();
        let mut findings = Vec::new();
        for (binding, call) in self.owed_streams() {
            let mut judgement = Judgement::default();
            for (index, part) in notes.parts.iter().enumerate() {
                let none = Vec::new();
                let came = part.streams.get(&(binding.clone(), call)).unwrap_or(&none);
                let is_last = index + 1 == notes.parts.len();
                // A connection that was cut owes nothing behind the newest that it brought; nor before it, where that
                // may have been late.
                let end = if is_last {
                    source.sent(call)
                } else if may_be_late {
                    0
                } else {
                    came.iter().max().map_or(0, |newest| newest + 1)
                };
                let owed = (part.owed_from[call]..end).filter(|number| is_for(&binding, *number));
                judgement.add(Judgement::of(came, owed));
            }
            findings.push((format!("{binding} of {}", Source::call_id(call)), judgement));
        }
        Line {
            client: self.name.clone(),
            received: notes.received,
            connections: notes.connections,
            findings,
            unrecovered: notes.unrecovered.clone(),
            ends: notes.ends.clone(),
        }
    }
}

/// The reply; what comes before it is not owed.
async fn reply(lean: &mut LeanClient) -> io::Result<TextFrame> {
    loop {
        let frame = lean.next().await?;
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
            Kind::Plain => "plain",
        })
    }
}
