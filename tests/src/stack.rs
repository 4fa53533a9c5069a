//! The brokers and services, as real processes.

use std::{path::PathBuf, sync::LazyLock};

use blackhole_dev::{
    brokers::{Nats, RabbitMq},
    ports,
    services::{Binaries, Service},
    simulator::Publisher,
    workspace::RunDir,
};

use crate::{accounts, eventually};

/// Two brokers and the three services.
pub struct Stack {
    /// The directory of logs and data.
    pub dir: RunDir,
    /// The AMQP broker.
    pub rabbitmq: RabbitMq,
    /// The NATS server.
    pub nats: Nats,
    /// auth-svc.
    pub auth_svc: Service,
    /// amqp-ingest.
    pub amqp_ingest: Service,
    /// An edge with the default settings.
    pub edge: Edge,
}

/// An edge and its port.
pub struct Edge {
    /// The process.
    pub service: Service,
    /// The WebSocket port.
    pub port: u16,
}

/// A setting of a service: the name of an environment variable without `BLACKHOLE_`, and its value.
pub type Setting<'a> = (&'a str, &'a str);

impl Stack {
    /// The stack that all tests share. A test that breaks things starts its own.
    pub fn shared() -> &'static Stack {
        static SHARED: LazyLock<Stack> = LazyLock::new(|| {
            // Not on the runtime of the first test, which ends with that test.
            let start = || tokio::runtime::Runtime::new().unwrap().block_on(Stack::start("shared"));
            std::thread::scope(|scope| scope.spawn(start).join().unwrap())
        });
        &SHARED
    }

    /// Starts a stack and waits until everything is ready.
    pub async fn start(name: &str) -> Stack {
        Self::start_with(name, &[]).await
    }

    /// As [`Stack::start`], with additional settings for all services.
    pub async fn start_with(name: &str, settings: &[Setting<'_>]) -> Stack {
        let dir = RunDir::create(name).unwrap();
        let (rabbitmq_dir, nats_dir) = (dir.subdir("rabbitmq").unwrap(), dir.subdir("nats").unwrap());
        let (rabbitmq, nats) = tokio::join!(RabbitMq::start(&rabbitmq_dir), Nats::start(&nats_dir));
        let (rabbitmq, nats) = (rabbitmq.unwrap(), nats.unwrap());
        std::fs::write(dir.path().join("accounts.toml"), accounts::file()).unwrap();
        let mut env = vec![
            ("NATS__URL", nats.url()),
            ("AMQP__URL", rabbitmq.url()),
            ("AUTH__ACCOUNTS_FILE", dir.path().join("accounts.toml").display().to_string()),
            ("AUTH__JWT__HS256_SECRET", accounts::SECRET.to_owned()),
            ("LOG__FILTER", "debug,async_nats=info,lapin=info,hyper=info,tungstenite=info".to_owned()),
        ];
        env.extend(settings.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let binaries = binaries();
        let (auth_svc, amqp_ingest, edge) = tokio::join!(
            Service::start("auth-svc", &binaries.auth_svc, dir.path(), &env),
            Service::start("amqp-ingest", &binaries.amqp_ingest, dir.path(), &env),
            Edge::start("ws-edge", &dir, &env),
        );
        Stack { rabbitmq, nats, auth_svc: auth_svc.unwrap(), amqp_ingest: amqp_ingest.unwrap(), edge, dir }
    }

    /// Starts another edge on the same brokers, with its own settings.
    pub async fn another_edge(&self, name: &str, settings: &[Setting<'_>]) -> Edge {
        let mut env = vec![
            ("NATS__URL", self.nats.url()),
            ("LOG__FILTER", "debug,async_nats=info,hyper=info".to_owned()),
        ];
        env.extend(settings.iter().map(|(name, value)| (*name, (*value).to_owned())));
        Edge::start(name, &self.dir, &env).await
    }

    /// Starts another ingest on the same brokers, with its own settings. It may stand by until the first one stops.
    pub async fn another_ingest(&self, name: &str, settings: &[Setting<'_>]) -> Service {
        let mut env = vec![
            ("NATS__URL", self.nats.url()),
            ("AMQP__URL", self.rabbitmq.url()),
            ("LOG__FILTER", "debug,async_nats=info,lapin=info,hyper=info".to_owned()),
        ];
        env.extend(settings.iter().map(|(name, value)| (*name, (*value).to_owned())));
        Service::start(name, &binaries().amqp_ingest, self.dir.path(), &env).await.unwrap()
    }

    /// A connection of the simulated KAZOO to the broker.
    pub async fn publisher(&self) -> Publisher {
        Publisher::connect(&self.rabbitmq.url()).await.unwrap()
    }

    /// The current value of a metric of a service, summed over all labels.
    pub async fn metric(service: &Service, name: &str) -> f64 {
        Self::sum(&service.metrics().await.unwrap(), name)
    }

    /// The value of a metric in the text format, summed over all labels.
    pub fn sum(metrics: &str, name: &str) -> f64 {
        metrics
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum()
    }

    /// Waits until a service is ready (or not ready).
    pub async fn until_ready(service: &Service, ready: bool) {
        eventually("the change of readiness", || async { service.server().is_ready().await == ready }).await;
    }
}

impl Edge {
    async fn start(name: &str, dir: &RunDir, env: &[(&str, String)]) -> Edge {
        let port = ports::free().unwrap();
        let mut env = env.to_vec();
        env.push(("WS__LISTEN", format!("127.0.0.1:{port}")));
        let service = Service::start(name, &binaries().ws_edge, dir.path(), &env).await.unwrap();
        Edge { service, port }
    }

    /// The URL for clients, with a query such as `view=args`.
    pub fn url(&self, query: &str) -> String {
        format!("ws://127.0.0.1:{}/?{query}", self.port)
    }
}

/// The services' programs, which `cargo dev test` builds.
pub fn binaries() -> Binaries {
    let directory = program_directory();
    let program = |name: &str| {
        let program = directory.join(name);
        assert!(program.is_file(), "{} is missing: run the tests with `cargo dev test`", program.display());
        program
    };
    Binaries {
        amqp_ingest: program("amqp-ingest"),
        auth_svc: program("auth-svc"),
        ws_edge: program("ws-edge"),
    }
}

/// The directory of the programs: the parent of `deps`, which contains the test program.
pub fn program_directory() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.ancestors().nth(2).unwrap().to_owned()
}
