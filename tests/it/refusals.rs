//! NATS refuses events, or is away, while RabbitMQ delivers more.

use std::time::Duration;

use async_nats::jetstream;
use blackhole_dev::{
    brokers::{Nats, RabbitMq},
    http,
    services::Service,
    simulator::Publisher,
    workspace::RunDir,
};
use blackhole_tests::{
    accounts::Account,
    events, eventually, soon,
    stack::{self, Stack},
};
use futures_util::StreamExt;
use serde_json::{Value, json};

struct Brokers {
    rabbitmq: RabbitMq,
    nats: Nats,
    dir: RunDir,
}

impl Brokers {
    /// `config`: additional lines of nats-server's configuration, with `STORE` for its directory.
    async fn start(name: &str, config: &str) -> Brokers {
        let dir = RunDir::create(name).unwrap();
        let (rabbitmq_dir, nats_dir) = (dir.subdir("rabbitmq").unwrap(), dir.subdir("nats").unwrap());
        let config = config.replace("STORE", &nats_dir.join("store").display().to_string());
        let (rabbitmq, nats) =
            tokio::join!(RabbitMq::start(&rabbitmq_dir), Nats::with_config(&nats_dir, &config));
        Brokers { rabbitmq: rabbitmq.unwrap(), nats: nats.unwrap(), dir }
    }

    async fn ingest(&self, user: &str, settings: &[(&'static str, &str)]) -> Service {
        let mut env = vec![
            ("NATS__URL", format!("nats://{user}127.0.0.1:{}", self.nats.port())),
            ("AMQP__URL", format!("{}?heartbeat=1", self.rabbitmq.url())),
        ];
        env.extend(settings.iter().map(|(name, value)| (*name, (*value).to_owned())));
        Service::start("amqp-ingest", &stack::binaries().amqp_ingest, self.dir.path(), &env).await.unwrap()
    }

    async fn messages_in_queue(&self) -> u64 {
        let queues = self.rabbitmq.ctl(&["list_queues", "--quiet", "name", "messages"]).await.unwrap();
        let ours =
            queues.lines().find_map(|line| line.trim().strip_prefix("blackhole-ingest\t")?.parse().ok());
        ours.unwrap()
    }
}

/// A numbered event whose size depends on its number.
fn numbered(account: &Account, number: u64, padding: usize) -> events::Event {
    let mut event = events::call(account, "CHANNEL_CREATE", "one");
    event.body["Number"] = json!(number);
    event.body["Padding"] = json!("x".repeat(padding));
    event
}

#[tokio::test]
async fn events_keep_their_order_while_the_disk_is_full_now_and_then() {
    const EVENTS: u64 = 6000;
    let config = "jetstream { store_dir: \"STORE\", max_file_store: 16MB }";
    let brokers = Brokers::start("full", config).await;
    let ingest = brokers.ingest("", &[("HISTORY__MAX_BYTES", "8MiB")]).await;
    let account = Account::fresh();
    let client = async_nats::connect(brokers.nats.url()).await.unwrap();
    let mut live = client.subscribe("blackhole.v1.event.>").await.unwrap();
    client.flush().await.unwrap();

    // Another stream takes the space, and gives it back, again and again.
    let jetstream = jetstream::new(client.clone());
    let config = jetstream::stream::Config {
        name: "OTHER".into(),
        subjects: vec!["other".into()],
        ..jetstream::stream::Config::default()
    };
    let other = jetstream.create_stream(config).await.unwrap();
    let filling = tokio::spawn(async move {
        let mut refused = 0_u32;
        while refused < 40 {
            match jetstream.publish("other", vec![b'x'; 512 * 1024].into()).await.unwrap().await {
                Ok(_) => {}
                Err(_) => {
                    refused += 1;
                    other.purge().await.unwrap();
                }
            }
        }
        other.purge().await.unwrap();
    });
    let publisher = Publisher::connect(&brokers.rabbitmq.url()).await.unwrap();
    let publishing = tokio::spawn(async move {
        // Without waiting for each confirm, so that many are on their way when one is refused.
        let mut confirms = Vec::new();
        for number in 0..EVENTS {
            let event = numbered(&account, number, (number % 7) as usize * 400);
            let body = event.body.to_string();
            confirms.push(publisher.send(event.exchange, &event.key, body.as_bytes()).await.unwrap());
        }
        for confirm in confirms {
            assert!(confirm.await.unwrap().is_ack());
        }
    });
    for number in 0..EVENTS {
        let message = soon("the next event", live.next()).await.unwrap();
        let body: Value = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(body["Number"], number);
    }
    publishing.await.unwrap();
    filling.await.unwrap();
    let refusals = Stack::metric(&ingest, "blackhole_ingest_nats_refusals_total").await;
    assert!(refusals > 0.0, "the disk was never full for an event");
}

#[tokio::test]
async fn without_history_a_missing_permission_keeps_events_in_the_queue() {
    let config = |allowed: &str| {
        format!(
            r#"authorization {{ users = [
                {{ user: "ingest", password: "p", permissions: {{ publish: {{ deny: [{allowed}] }} }} }}
                {{ user: "all", password: "p" }}
            ] }}"#
        )
    };
    let denying = config(r#""blackhole.v1.event.>""#);
    let brokers = Brokers::start("denied", &denying).await;
    let ingest = brokers.ingest("ingest:p@", &[("HISTORY__MAX_AGE", "0s")]).await;
    let account = Account::fresh();
    let publisher = Publisher::connect(&brokers.rabbitmq.url()).await.unwrap();
    for number in 0..20 {
        numbered(&account, number, 0).publish(&publisher).await;
    }
    Stack::until_ready(&ingest, false).await;
    let ready = http::get(ingest.admin(), "/health/ready").await.unwrap();
    assert!(ready.body.contains("nats"), "{}", ready.body);
    eventually("several refusals", || async {
        Stack::metric(&ingest, "blackhole_ingest_nats_refusals_total").await >= 3.0
    })
    .await;
    assert_eq!(Stack::metric(&ingest, "blackhole_ingest_events_published_total").await, 0.0);
    assert_eq!(brokers.messages_in_queue().await, 20);
    let log = std::fs::read_to_string(brokers.dir.path().join("amqp-ingest.log")).unwrap();
    let lines = log.lines().filter(|line| line.contains("Permissions Violation")).count();
    assert!((1..=2).contains(&lines), "{lines} lines for one reason: {log}");

    let file = brokers.dir.path().join("nats/nats.conf");
    let allowed = std::fs::read_to_string(&file).unwrap().replace(&denying, &config(r#""nothing""#));
    std::fs::write(&file, allowed).unwrap();
    brokers.nats.server().kill().await.unwrap();
    brokers.nats.server().start_again().await.unwrap();
    let options = async_nats::ConnectOptions::with_user_and_password("all".into(), "p".into());
    let client = options.connect(brokers.nats.url()).await.unwrap();
    let mut live = client.subscribe("blackhole.v1.event.>").await.unwrap();
    client.flush().await.unwrap();
    Stack::until_ready(&ingest, true).await;
    numbered(&account, 20, 0).publish(&publisher).await;
    let message = soon("an event", async {
        loop {
            let message = live.next().await.unwrap();
            let body: Value = serde_json::from_slice(&message.payload).unwrap();
            if body["Number"] == 20 {
                return message;
            }
        }
    })
    .await;
    assert!(message.subject.starts_with("blackhole.v1.event."));
    eventually("an empty queue", || async { brokers.messages_in_queue().await == 0 }).await;
}

#[tokio::test]
async fn while_nats_is_away_the_ingest_holds_a_bounded_number_of_bytes() {
    const EVENTS: u64 = 60;
    let brokers = Brokers::start("bounded", "").await;
    let ingest = brokers.ingest("", &[("AMQP__PREFETCH_BYTES", "4MB")]).await;
    brokers.nats.server().kill().await.unwrap();
    let account = Account::fresh();
    let publisher = Publisher::connect(&brokers.rabbitmq.url()).await.unwrap();
    for number in 0..EVENTS {
        numbered(&account, number, 900_000).publish(&publisher).await;
    }
    let held = || Stack::metric(&ingest, "blackhole_ingest_events_in_flight");
    eventually("five events", || async { held().await >= 5.0 }).await;
    // Longer than heartbeats of 1 s may be missing.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(held().await, 5.0, "of 0.9 MB each");
    assert_eq!(brokers.messages_in_queue().await, EVENTS);
    assert!(ingest.metrics().await.unwrap().contains("connection_up{side=\"amqp\",zone=\"\"} 1"));
    let amqp_losses = "blackhole_ingest_connection_losses_total{side=\"amqp\",zone=\"\"} 0";
    let metrics = ingest.metrics().await.unwrap();
    assert!(metrics.contains(amqp_losses), "{metrics}");

    brokers.nats.server().start_again().await.unwrap();
    eventually("an empty queue", || async { brokers.messages_in_queue().await == 0 }).await;
    let jetstream = jetstream::new(async_nats::connect(brokers.nats.url()).await.unwrap());
    let mut stream = jetstream.get_stream("BLACKHOLE_V1").await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, EVENTS);
}

#[tokio::test]
async fn a_broker_that_is_short_of_memory_gets_its_acknowledgements() {
    const EVENTS: u64 = 200;
    let brokers = Brokers::start("alarm", "").await;
    let ingest = brokers.ingest("", &[]).await;
    brokers.nats.server().kill().await.unwrap();
    Stack::until_ready(&ingest, false).await;
    let account = Account::fresh();
    let publisher = Publisher::connect(&brokers.rabbitmq.url()).await.unwrap();
    for number in 0..EVENTS {
        numbered(&account, number, 0).publish(&publisher).await;
    }
    brokers.rabbitmq.ctl(&["set_vm_memory_high_watermark", "0.000001"]).await.unwrap();
    brokers.nats.server().start_again().await.unwrap();
    eventually("an empty queue", || async { brokers.messages_in_queue().await == 0 }).await;
    let log = std::fs::read_to_string(brokers.dir.path().join("amqp-ingest.log")).unwrap();
    assert!(log.contains("the broker blocks publishers"), "{log}");

    brokers.rabbitmq.ctl(&["set_vm_memory_high_watermark", "absolute", "1GB"]).await.unwrap();
    numbered(&account, EVENTS, 0).publish(&publisher).await;
    eventually("an empty queue", || async { brokers.messages_in_queue().await == 0 }).await;
    let jetstream = jetstream::new(async_nats::connect(brokers.nats.url()).await.unwrap());
    let mut stream = jetstream.get_stream("BLACKHOLE_V1").await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, EVENTS + 1);
}
