//! Random, overlapping faults. Each component has one fault at a time.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use blackhole_dev::server::Server;
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use tokio::{task::JoinSet, time::Instant};

use super::deployment::Deployment;
use crate::proxy::Network;

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Fault {
    /// SIGKILL, and a restart later.
    Kill(Component),
    /// SIGSTOP, and SIGCONT later.
    Freeze(Component),
    /// RabbitMQ closes all client connections.
    CloseConnections,
    /// RabbitMQ is stopped gracefully and started again.
    RestartRabbitMq,
    /// A fault of the network between an edge and NATS.
    Network(usize, NetworkFault),
}

/// A fault of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum NetworkFault {
    Cut,
    Dropping,
    Stalled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Component {
    Ingest(usize),
    AuthSvc,
    Edge(usize),
    Nats(usize),
    RabbitMq,
}

/// What a fault affects: meanwhile it gets no other fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Target {
    Component(Component),
    /// Only one server of a cluster at a time.
    Nats,
    Network(usize),
}

impl Fault {
    fn all(servers: usize) -> Vec<Fault> {
        let components = [
            Component::Ingest(0),
            Component::Ingest(1),
            Component::AuthSvc,
            Component::Edge(0),
            Component::Edge(1),
        ];
        let mut all: Vec<Fault> =
            components.iter().flat_map(|one| [Fault::Kill(*one), Fault::Freeze(*one)]).collect();
        all.extend(
            (0..servers).flat_map(|n| [Fault::Kill(Component::Nats(n)), Fault::Freeze(Component::Nats(n))]),
        );
        all.extend([Fault::CloseConnections, Fault::RestartRabbitMq, Fault::Kill(Component::RabbitMq)]);
        for fault in [NetworkFault::Cut, NetworkFault::Dropping, NetworkFault::Stalled] {
            all.extend([Fault::Network(0, fault), Fault::Network(1, fault)]);
        }
        all
    }

    fn target(self) -> Target {
        match self {
            Fault::Kill(Component::Nats(_)) | Fault::Freeze(Component::Nats(_)) => Target::Nats,
            Fault::Kill(component) | Fault::Freeze(component) => Target::Component(component),
            Fault::CloseConnections | Fault::RestartRabbitMq => Target::Component(Component::RabbitMq),
            Fault::Network(edge, _) => Target::Network(edge),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Fault::Kill(Component::RabbitMq) => "rabbitmq killed",
            Fault::Kill(_) => "killed",
            Fault::Freeze(_) => "frozen",
            Fault::CloseConnections => "connections closed",
            Fault::RestartRabbitMq => "rabbitmq restarted",
            Fault::Network(..) => "network faults",
        }
    }

    async fn inject(self, deployment: &Deployment, duration: Duration) {
        self.inject_only(deployment, duration).await;
        // If the next server dies before this one has caught up, the cluster loses acknowledged events.
        if self.target() == Target::Nats {
            deployment.until_replicated().await;
        }
    }

    async fn inject_only(self, deployment: &Deployment, duration: Duration) {
        match self {
            Fault::Kill(component) => {
                let server = deployment.server(component);
                server.kill().await.unwrap();
                tokio::time::sleep(duration.min(Duration::from_secs(4))).await;
                server.start_unready().unwrap();
                // A component can only be killed again once it is up.
                let ready = async {
                    while !server.is_ready().await {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                };
                // Other faults may keep it from becoming ready.
                let _ = tokio::time::timeout(Duration::from_secs(20), ready).await;
            }
            Fault::Freeze(component) => {
                let server = deployment.server(component);
                server.pause().unwrap();
                tokio::time::sleep(duration).await;
                server.resume().unwrap();
            }
            // rabbitmqctl fails while the broker is starting.
            Fault::CloseConnections => drop(deployment.rabbitmq.close_all_connections().await),
            Fault::RestartRabbitMq => drop(deployment.rabbitmq.server().restart().await),
            Fault::Network(edge, fault) => {
                let network = match fault {
                    NetworkFault::Cut => Network::Cut,
                    NetworkFault::Dropping => Network::Dropping,
                    NetworkFault::Stalled => Network::Stalled,
                };
                deployment.edges[edge].set_network(network);
                tokio::time::sleep(duration).await;
                deployment.edges[edge].set_network(Network::Up);
            }
        }
    }
}

impl Deployment {
    fn server(&self, component: Component) -> &Server {
        match component {
            Component::Ingest(number) => self.ingests[number].server(),
            Component::AuthSvc => self.auth_svcs[0].server(),
            Component::Edge(number) => self.edges[number].service.server(),
            Component::Nats(number) => self.nats.servers()[number].server(),
            Component::RabbitMq => self.rabbitmq.server(),
        }
    }
}

/// Injects faults for `time`, also at RabbitMQ if `at_broker`, and waits until the last one is over. Returns the number of
/// faults of each kind.
pub async fn run(deployment: &Arc<Deployment>, time: Duration, seed: u64, at_broker: bool) -> String {
    let began = Instant::now();
    let is_long = time > Duration::from_secs(120);
    let mut rng = StdRng::seed_from_u64(seed);
    let busy: Arc<Mutex<HashSet<Target>>> = Arc::default();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut injected = JoinSet::new();
    let mut next = Vec::new();
    tokio::time::sleep(Duration::from_secs(2)).await;
    while began.elapsed() < time {
        if next.is_empty() {
            next = Fault::all(deployment.nats.servers().len());
            next.retain(|fault| at_broker || fault.target() != Target::Component(Component::RabbitMq));
            next.shuffle(&mut rng);
        }
        // The first one whose target has no fault; the others come later.
        let free = next.iter().position(|fault: &Fault| !busy.lock().contains(&fault.target()));
        if let Some(fault) = free.map(|index| next.remove(index)) {
            let max = if is_long { 20_000 } else { 8_000 };
            let duration = Duration::from_millis(match fault {
                // Sometimes much longer, so that timeouts expire.
                Fault::Freeze(_) | Fault::Network(..) if rng.random_bool(0.3) => max,
                _ => rng.random_range(200..max / 3),
            });
            println!("{:6.1} s: {fault:?} for {duration:?}", began.elapsed().as_secs_f64());
            *counts.entry(fault.name()).or_default() += 1;
            busy.lock().insert(fault.target());
            let (deployment, busy) = (Arc::clone(deployment), Arc::clone(&busy));
            injected.spawn(async move {
                fault.inject(&deployment, duration).await;
                busy.lock().remove(&fault.target());
            });
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(300..2500))).await;
        while let Some(ended) = injected.try_join_next() {
            ended.unwrap();
        }
    }
    while let Some(ended) = injected.join_next().await {
        ended.unwrap();
    }
    counts.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
}
