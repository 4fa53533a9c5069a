//! The deployment under test: brokers, two ingests, auth-svc, and two edges behind faulty networks.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use blackhole_dev::{
    brokers::{Nats, NatsCluster, RabbitMq},
    ports,
    services::{Binaries, Service},
    workspace::RunDir,
};

use crate::{
    accounts,
    proxy::{Network, Proxy},
    stack::binaries,
};

/// The queue of a session; small, so that clients lag.
const QUEUE_BYTES: &str = "64KiB";
/// How long to wait for a NATS server to catch up; other faults can keep it from that.
const REPLICATION_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the services may take to recover from the last fault.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(180);

/// One NATS server or a cluster.
#[derive(Debug)]
pub enum NatsServers {
    /// One server.
    Single(Box<Nats>),
    /// A cluster of three servers.
    Cluster(NatsCluster),
}

/// An edge and its network to NATS.
#[derive(Debug)]
pub struct Edge {
    /// The process.
    pub service: Service,
    /// The WebSocket port.
    pub port: u16,
    proxies: Vec<Proxy>,
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Setup {
    /// A cluster of three NATS servers instead of one server.
    pub cluster: bool,
    /// How many auth-svcs.
    pub auth_svcs: usize,
    /// The services' programs.
    pub programs: Binaries,
    /// Further settings of the edges.
    pub edge_settings: Vec<(&'static str, String)>,
}

/// The deployment.
#[derive(Debug)]
pub struct Deployment {
    /// The AMQP broker.
    pub rabbitmq: RabbitMq,
    /// The NATS servers.
    pub nats: NatsServers,
    /// Every auth-svc.
    pub auth_svcs: Vec<Service>,
    /// Two ingests; one of them stands by.
    pub ingests: Vec<Service>,
    /// Two edges.
    pub edges: Vec<Edge>,
    /// The directory of logs and data.
    pub dir: RunDir,
}

impl NatsServers {
    /// The servers.
    pub fn servers(&self) -> &[Nats] {
        match self {
            NatsServers::Single(nats) => std::slice::from_ref(&**nats),
            NatsServers::Cluster(cluster) => cluster.servers(),
        }
    }

    /// Compares the events that the servers have stored below `dir`.
    ///
    /// # Errors
    /// If two servers have different events at the same position. A server that only has fewer events does not
    /// disagree.
    pub fn agree(&self, dir: &Path) -> Result<(), String> {
        let NatsServers::Cluster(_) = self else { return Ok(()) };
        let stored = |number| {
            stored(&dir.join(format!("nats/nats{number}/store/jetstream/$G/streams/BLACKHOLE_V1/msgs")))
        };
        let first = stored(1);
        for number in 2..=self.servers().len() {
            let other = stored(number);
            let same = first.iter().zip(&other).take_while(|(first, other)| first == other).count();
            if same < first.len().min(other.len()) {
                return Err(format!(
                    "servers 1 and {number} have {} and {} events, of which only the first {same} are equal",
                    first.len(),
                    other.len()
                ));
            }
        }
        Ok(())
    }

    fn url(&self) -> String {
        self.servers().iter().map(Nats::url).collect::<Vec<_>>().join(",")
    }
}

/// Call and number of each event in the files of a stream, in stream order.
fn stored(messages: &Path) -> Vec<(String, u64)> {
    let mut files: Vec<(u64, PathBuf)> = std::fs::read_dir(messages)
        .unwrap()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let number = path.file_name()?.to_str()?.strip_suffix(".blk")?.parse().ok()?;
            Some((number, path))
        })
        .collect();
    files.sort();
    let mut events = Vec::new();
    for (_, file) in files {
        let bytes = std::fs::read(file).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        // The members of a body are sorted by name.
        for body in text.split("\"Call-ID\":\"").skip(1) {
            let call = body.split('"').next().unwrap_or_default();
            let number = body.split("\"Number\":").nth(1).unwrap_or_default();
            let digits = number.find(|c: char| !c.is_ascii_digit()).map_or(number, |end| &number[..end]);
            events.push((call.to_owned(), digits.parse().unwrap_or_default()));
        }
    }
    events
}

impl Edge {
    /// Changes the state of the network between this edge and NATS.
    pub fn set_network(&self, network: Network) {
        self.proxies.iter().for_each(|proxy| proxy.set(network));
    }
}

impl Deployment {
    /// Starts everything and waits until it is ready.
    pub async fn start(cluster: bool) -> Deployment {
        let setup = Setup { cluster, auth_svcs: 1, programs: binaries(), edge_settings: Vec::new() };
        Self::start_with("chaos", setup).await
    }

    /// As [`Deployment::start`], with logs and data in a directory of this name.
    pub async fn start_with(name: &str, setup: Setup) -> Deployment {
        let Setup { cluster, auth_svcs: auth_svc_count, programs, edge_settings } = setup;
        let dir = RunDir::create(name).unwrap();
        let (rabbitmq_dir, nats_dir) = (dir.subdir("rabbitmq").unwrap(), dir.subdir("nats").unwrap());
        let nats = async {
            if cluster {
                NatsServers::Cluster(NatsCluster::start(&nats_dir).await.unwrap())
            } else {
                NatsServers::Single(Box::new(Nats::start(&nats_dir).await.unwrap()))
            }
        };
        let (rabbitmq, nats) = tokio::join!(RabbitMq::start(&rabbitmq_dir), nats);
        let rabbitmq = rabbitmq.unwrap();
        let accounts_file = dir.path().join("accounts.toml");
        std::fs::write(&accounts_file, accounts::file()).unwrap();
        let common = [
            ("LOG__FILTER", "debug,async_nats=info,lapin=info,hyper=info,tungstenite=info".to_owned()),
            ("NATS__URL", nats.url()),
        ];
        let with = |more: Vec<(&'static str, String)>| {
            let mut all = common.to_vec();
            all.extend(more);
            all
        };
        let auth = with(vec![
            ("AUTH__ACCOUNTS_FILE", accounts_file.display().to_string()),
            ("AUTH__JWT__HS256_SECRET", accounts::SECRET.to_owned()),
        ]);
        let ingest = with(vec![
            ("AMQP__URL", rabbitmq.url()),
            ("HISTORY__REPLICAS", if cluster { "3" } else { "1" }.to_owned()),
        ]);
        let (first, second) = tokio::join!(
            Service::start("amqp-ingest-1", &programs.amqp_ingest, dir.path(), &ingest),
            Service::start("amqp-ingest-2", &programs.amqp_ingest, dir.path(), &ingest),
        );
        let mut auth_svcs = Vec::new();
        for number in 1..=auth_svc_count {
            let name = format!("auth-svc-{number}");
            auth_svcs.push(Service::start(&name, &programs.auth_svc, dir.path(), &auth).await.unwrap());
        }
        let mut edges = Vec::new();
        for number in 1..=2 {
            let mut proxies = Vec::new();
            for server in nats.servers() {
                proxies.push(Proxy::start(server.port()).await);
            }
            let urls: Vec<_> =
                proxies.iter().map(|proxy| format!("nats://127.0.0.1:{}", proxy.port())).collect();
            let port = ports::free().unwrap();
            let mut env = with(vec![
                ("WS__LISTEN", format!("127.0.0.1:{port}")),
                ("WS__QUEUE_BYTES", QUEUE_BYTES.to_owned()),
            ]);
            env.push(("NATS__URL", urls.join(",")));
            env.extend(edge_settings.iter().cloned());
            let name = format!("ws-edge-{number}");
            let service = Service::start(&name, &programs.ws_edge, dir.path(), &env).await.unwrap();
            edges.push(Edge { service, port, proxies });
        }
        let ingests = vec![first.unwrap(), second.unwrap()];
        Deployment { rabbitmq, nats, auth_svcs, ingests, edges, dir }
    }

    /// Waits until all servers of a cluster have the complete stream, as an operator does before stopping the next one.
    /// Prints how long that took, or that it timed out.
    pub async fn until_replicated(&self) {
        if let NatsServers::Single(_) = self.nats {
            return;
        }
        let replicated = async {
            let urls: Vec<String> = self.nats.servers().iter().map(Nats::url).collect();
            let client = async_nats::connect(&urls[..]).await?;
            let mut confirmations = 0;
            // A leader that was frozen still answers until it learns that there is a new one.
            while confirmations < 3 {
                confirmations = if self.is_replicated(&client).await { confirmations + 1 } else { 0 };
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            Ok::<(), async_nats::ConnectError>(())
        };
        let began = tokio::time::Instant::now();
        match tokio::time::timeout(REPLICATION_TIMEOUT, replicated).await {
            Ok(connected) => {
                connected.unwrap();
                println!("replicated after {:.1} s", began.elapsed().as_secs_f64());
            }
            Err(_) => println!("not replicated after {REPLICATION_TIMEOUT:?}"),
        }
    }

    async fn is_replicated(&self, client: &async_nats::Client) -> bool {
        // A cluster does not answer during a leader election.
        let Ok(stream) = async_nats::jetstream::new(client.clone()).get_stream("BLACKHOLE_V1").await else {
            return false;
        };
        stream.cached_info().cluster.as_ref().is_some_and(|cluster| {
            cluster.leader.is_some()
                && cluster.replicas.len() + 1 == self.nats.servers().len()
                && cluster.replicas.iter().all(|replica| replica.current && !replica.offline)
        })
    }

    /// Waits until every service is ready.
    pub async fn until_ready(&self) {
        let edges = self.edges.iter().map(|edge| &edge.service);
        for service in self.ingests.iter().chain(&self.auth_svcs).chain(edges) {
            let ready = async {
                while !service.server().is_ready().await {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            };
            let waited = tokio::time::timeout(RECOVERY_TIMEOUT, ready).await;
            if waited.is_err() {
                let (name, state) = (service.server().name(), service.server().state().await);
                panic!("{name} is not ready again after {RECOVERY_TIMEOUT:?}{state}");
            }
        }
    }
}
