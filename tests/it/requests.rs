//! Requests of KAZOO over AMQP: listing sockets, starting and stopping modules; and messages to KAZOO processes.

mod edge;
mod former;
mod listing;
mod modules;
mod real;
mod targeted;

use blackhole_dev::{
    brokers::{Nats, RabbitMq},
    http,
    services::Service,
    workspace::RunDir,
};
use blackhole_tests::{kazoo::Kazoo, stack};
use serde_json::{Value, json};

/// Two brokers and an ingest. Every ingest on a broker answers its requests, so each test has its own deployment.
struct Deployment {
    rabbitmq: RabbitMq,
    nats: Nats,
    ingest: Service,
    dir: RunDir,
}

impl Deployment {
    async fn start(name: &str) -> Deployment {
        let dir = RunDir::create(name).unwrap();
        let (rabbitmq_dir, nats_dir) = (dir.subdir("rabbitmq").unwrap(), dir.subdir("nats").unwrap());
        let (rabbitmq, nats) = tokio::join!(RabbitMq::start(&rabbitmq_dir), Nats::start(&nats_dir));
        let (rabbitmq, nats) = (rabbitmq.unwrap(), nats.unwrap());
        let ingest = ingest("amqp-ingest", &rabbitmq, &nats, &dir).await;
        let deployment = Deployment { rabbitmq, nats, ingest, dir };
        deployment.until_answering(&deployment.ingest).await;
        deployment
    }

    async fn another_ingest(&self) -> Service {
        let ingest = ingest("standby", &self.rabbitmq, &self.nats, &self.dir).await;
        self.until_answering(&ingest).await;
        ingest
    }

    async fn until_answering(&self, ingest: &Service) {
        until_counted(ingest, r#"connection_up{side="requests",zone=""} 1"#).await;
    }

    /// Waits until the ingest reports that the answer of an edge is missing.
    async fn until_missing(&self, edge: &str) {
        blackhole_tests::eventually(edge, || async {
            let shown = http::get(self.ingest.admin(), "/sessions").await.unwrap();
            let shown: Value = serde_json::from_str(&shown.body).unwrap();
            shown["missing"].as_array().unwrap().contains(&json!(edge))
        })
        .await;
    }

    async fn client(&self) -> async_nats::Client {
        async_nats::connect(self.nats.url()).await.unwrap()
    }

    async fn kazoo(&self, server_id: &str) -> Kazoo {
        Kazoo::start(&self.rabbitmq, server_id).await
    }

    /// The log lines of the ingest that contain this text.
    fn logged(&self, text: &str) -> Vec<String> {
        let log = std::fs::read_to_string(self.dir.path().join("amqp-ingest.log")).unwrap();
        log.lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }

    /// The number of requests of a kind with this outcome.
    async fn counted(&self, kind: &str, outcome: &str) -> u64 {
        counted(&self.ingest, kind, outcome).await
    }
}

/// The number of requests of a kind with this outcome, at this ingest.
async fn counted(ingest: &Service, kind: &str, outcome: &str) -> u64 {
    let start = format!(r#"blackhole_ingest_requests_total{{kind="{kind}",outcome="{outcome}"}} "#);
    let text = ingest.metrics().await.unwrap();
    text.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok()).unwrap_or(0)
}

async fn ingest(name: &str, rabbitmq: &RabbitMq, nats: &Nats, dir: &RunDir) -> Service {
    let env = [("NATS__URL", nats.url()), ("AMQP__URL", rabbitmq.url())];
    Service::start(name, &stack::binaries().amqp_ingest, dir.path(), &env).await.unwrap()
}

async fn until_counted(ingest: &Service, line: &str) {
    let line = format!("blackhole_ingest_{line}");
    blackhole_tests::eventually(&line, || async {
        ingest.metrics().await.unwrap().lines().any(|own| own == line)
    })
    .await;
}
