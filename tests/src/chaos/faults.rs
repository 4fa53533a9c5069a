//! What happens to the parts: in random order, overlapping, each part to one fault at a time.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use blackhole_dev::server::Server;
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use tokio::{task::JoinSet, time::Instant};

use super::world::World;
use crate::proxy::Network;

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Fault {
    /// kill -9, and started again later.
    Kill(Part),
    /// SIGSTOP, and SIGCONT later.
    Freeze(Part),
    /// RabbitMQ closes all connections.
    CloseConnections,
    /// RabbitMQ is stopped in order and started again.
    RestartRabbitMq,
    /// An edge's network to NATS is bad for a while.
    BadNetwork(usize, Badly),
}

/// How a network is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Badly {
    Cut,
    Swallows,
    Stalls,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Part {
    Ingest(usize),
    AuthSvc,
    Edge(usize),
    Nats(usize),
    RabbitMq,
}

/// What a fault keeps busy: nothing else happens to it meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Busy {
    Part(Part),
    /// Of a cluster's servers, one at a time.
    Nats,
    Network(usize),
}

impl Fault {
    fn all(servers: usize) -> Vec<Fault> {
        let parts = [Part::Ingest(0), Part::Ingest(1), Part::AuthSvc, Part::Edge(0), Part::Edge(1)];
        let mut all: Vec<Fault> =
            parts.iter().flat_map(|part| [Fault::Kill(*part), Fault::Freeze(*part)]).collect();
        all.extend((0..servers).flat_map(|n| [Fault::Kill(Part::Nats(n)), Fault::Freeze(Part::Nats(n))]));
        all.extend([Fault::CloseConnections, Fault::RestartRabbitMq, Fault::Kill(Part::RabbitMq)]);
        for bad in [Badly::Cut, Badly::Swallows, Badly::Stalls] {
            all.extend([Fault::BadNetwork(0, bad), Fault::BadNetwork(1, bad)]);
        }
        all
    }

    fn busy(self) -> Busy {
        match self {
            Fault::Kill(Part::Nats(_)) | Fault::Freeze(Part::Nats(_)) => Busy::Nats,
            Fault::Kill(part) | Fault::Freeze(part) => Busy::Part(part),
            Fault::CloseConnections | Fault::RestartRabbitMq => Busy::Part(Part::RabbitMq),
            Fault::BadNetwork(edge, _) => Busy::Network(edge),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Fault::Kill(Part::RabbitMq) => "rabbitmq killed",
            Fault::Kill(_) => "killed",
            Fault::Freeze(_) => "frozen",
            Fault::CloseConnections => "connections closed",
            Fault::RestartRabbitMq => "rabbitmq restarted",
            Fault::BadNetwork(..) => "bad network",
        }
    }

    async fn happen(self, world: &World, lasts: Duration) {
        self.happen_alone(world, lasts).await;
        // Servers that die one upon the other, the next before the last has caught up, lose what they promised.
        if self.busy() == Busy::Nats {
            world.until_replicated().await;
        }
    }

    async fn happen_alone(self, world: &World, lasts: Duration) {
        match self {
            Fault::Kill(part) => {
                let server = world.server(part);
                server.kill().await.unwrap();
                tokio::time::sleep(lasts.min(Duration::from_secs(4))).await;
                server.start_unready().unwrap();
                // Only a part that is there again can be killed again.
                let ready = async {
                    while !server.is_ready().await {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                };
                // Others may keep it from becoming ready.
                let _ = tokio::time::timeout(Duration::from_secs(20), ready).await;
            }
            Fault::Freeze(part) => {
                let server = world.server(part);
                server.pause().unwrap();
                tokio::time::sleep(lasts).await;
                server.resume().unwrap();
            }
            // rabbitmqctl fails where the broker is being started at that moment.
            Fault::CloseConnections => drop(world.rabbitmq.close_all_connections().await),
            Fault::RestartRabbitMq => drop(world.rabbitmq.server().restart().await),
            Fault::BadNetwork(edge, bad) => {
                let network = match bad {
                    Badly::Cut => Network::Cut,
                    Badly::Swallows => Network::Swallows,
                    Badly::Stalls => Network::Stalls,
                };
                world.edges[edge].set_network(network);
                tokio::time::sleep(lasts).await;
                world.edges[edge].set_network(Network::Fine);
            }
        }
    }
}

impl World {
    fn server(&self, part: Part) -> &Server {
        match part {
            Part::Ingest(number) => self.ingests[number].server(),
            Part::AuthSvc => self.auth_svc.server(),
            Part::Edge(number) => self.edges[number].service.server(),
            Part::Nats(number) => self.nats.servers()[number].server(),
            Part::RabbitMq => self.rabbitmq.server(),
        }
    }
}

/// Has faults happen for `time`, and waits until the last is over. Returns how many of each kind there were.
pub async fn run(world: &Arc<World>, time: Duration, seed: u64) -> String {
    let began = Instant::now();
    let is_long = time > Duration::from_secs(120);
    let mut rng = StdRng::seed_from_u64(seed);
    let busy: Arc<Mutex<HashSet<Busy>>> = Arc::default();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut happening = JoinSet::new();
    let mut next = Vec::new();
    tokio::time::sleep(Duration::from_secs(2)).await;
    while began.elapsed() < time {
        if next.is_empty() {
            next = Fault::all(world.nats.servers().len());
            next.shuffle(&mut rng);
        }
        // The first whose part is whole; the others' turn comes.
        let free = next.iter().position(|fault: &Fault| !busy.lock().contains(&fault.busy()));
        if let Some(fault) = free.map(|index| next.remove(index)) {
            let longest = if is_long { 20_000 } else { 8_000 };
            let lasts = Duration::from_millis(match fault {
                // Twenty seconds now and then, as the network cut that nobody is told of.
                Fault::Freeze(_) | Fault::BadNetwork(..) if rng.random_bool(0.3) => longest,
                _ => rng.random_range(200..longest / 3),
            });
            println!("{:6.1} s: {fault:?} for {lasts:?}", began.elapsed().as_secs_f64());
            *counts.entry(fault.name()).or_default() += 1;
            busy.lock().insert(fault.busy());
            let (world, busy) = (Arc::clone(world), Arc::clone(&busy));
            happening.spawn(async move {
                fault.happen(&world, lasts).await;
                busy.lock().remove(&fault.busy());
            });
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(300..2500))).await;
        while let Some(ended) = happening.try_join_next() {
            ended.unwrap();
        }
    }
    while let Some(ended) = happening.join_next().await {
        ended.unwrap();
    }
    counts.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
}
