//! What the ingest relies on at RabbitMQ: exchanges, bindings, queues and permissions that somebody changes, or that are
//! not as KAZOO declares them.

use std::time::Duration;

use async_nats::Subscriber;
use blackhole_dev::{
    brokers::{Nats, RabbitMq},
    http,
    services::Service,
    workspace::{self, RunDir},
};
use blackhole_tests::{accounts::Account, events, kazoo::Kazoo, proxy::Proxy, soon, stack, stack::Setting};
use futures_util::StreamExt;
use lapin::{
    Channel, Connection, ConnectionProperties, ExchangeKind,
    options::{
        BasicGetOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueDeclareOptions,
        QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};
use serde_json::json;
use tokio::net::TcpListener;

/// Two brokers, without services.
pub(crate) struct Brokers {
    pub(crate) rabbitmq: RabbitMq,
    pub(crate) nats: Nats,
    dir: RunDir,
}

impl Brokers {
    pub(crate) async fn start(name: &str) -> Brokers {
        Brokers::with_config(name, "").await
    }

    /// With additional lines in RabbitMQ's configuration.
    pub(crate) async fn with_config(name: &str, rabbitmq: &str) -> Brokers {
        let dir = RunDir::create(name).unwrap();
        let (rabbitmq_dir, nats_dir) = (dir.subdir("rabbitmq").unwrap(), dir.subdir("nats").unwrap());
        let (rabbitmq, nats) =
            tokio::join!(RabbitMq::with_config(&rabbitmq_dir, rabbitmq), Nats::start(&nats_dir));
        Brokers { rabbitmq: rabbitmq.unwrap(), nats: nats.unwrap(), dir }
    }

    pub(crate) async fn ingest(&self, name: &str, settings: &[Setting<'_>]) -> Service {
        let mut env = vec![
            ("NATS__URL", self.nats.url()),
            ("AMQP__URL", self.rabbitmq.url()),
            ("AMQP__CHECK_INTERVAL", "1s".to_owned()),
        ];
        env.extend(settings.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let program = stack::binaries().amqp_ingest;
        Service::start_unready(name, &program, self.dir.path(), &env).await.unwrap()
    }

    pub(crate) async fn subscribe(&self, account: &Account) -> Subscriber {
        let client = async_nats::connect(self.nats.url()).await.unwrap();
        let subscriber = client.subscribe(format!("blackhole.v1.event.{}.>", account.id)).await.unwrap();
        client.flush().await.unwrap();
        subscriber
    }

    /// A channel of a user who may do everything.
    async fn channel(&self) -> (Connection, Channel) {
        let connection =
            Connection::connect(&self.rabbitmq.url(), ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        (connection, channel)
    }

    /// Publishes to an exchange that exists, without declaring it.
    async fn publish(&self, event: &events::Event) {
        let (connection, channel) = self.channel().await;
        let (options, properties) = (lapin::options::BasicPublishOptions::default(), Default::default());
        let body = event.body.to_string().into_bytes();
        channel
            .basic_publish(event.exchange.into(), event.key.as_str().into(), options, &body, properties)
            .await
            .unwrap();
        connection.close(200, "done".into()).await.unwrap();
    }

    /// Publishes calls until one arrives.
    pub(crate) async fn until_calls_arrive(&self, account: &Account, arriving: &mut Subscriber) {
        soon("a call", async {
            for number in 0.. {
                self.publish(&events::call(account, "CHANNEL_CREATE", &format!("call-{number}"))).await;
                let next = arriving.next();
                if tokio::time::timeout(Duration::from_millis(300), next).await.is_ok() {
                    return;
                }
            }
        })
        .await;
        // None of the earlier ones is on its way any more when this one has arrived.
        let last = events::call(account, "CHANNEL_DESTROY", "last");
        self.publish(&last).await;
        while soon("the last call", arriving.next()).await.unwrap().payload != last.body.to_string() {}
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(format!("{name}.log"))).unwrap()
    }
}

pub(crate) async fn until_health(ingest: &Service, status: u16, body: &str) {
    blackhole_tests::eventually(&format!("`{body}`"), || async {
        let ready = http::get(ingest.admin(), "/health/ready").await;
        ready.is_ok_and(|ready| (ready.status, ready.body.as_str()) == (status, body))
    })
    .await;
}

async fn until_answering(ingest: &Service) {
    blackhole_tests::eventually("the connection for requests", || async {
        let metrics = ingest.metrics().await.unwrap();
        metrics.contains(r#"connection_up{side="requests",zone=""} 1"#)
    })
    .await;
}

fn durable() -> ExchangeDeclareOptions {
    ExchangeDeclareOptions { durable: true, ..Default::default() }
}

#[tokio::test]
async fn what_somebody_removes_is_put_right_while_everything_stays_connected() {
    let brokers = Brokers::start("removed").await;
    let ingest = brokers.ingest("ingest", &[]).await;
    until_health(&ingest, 200, "ready\n").await;
    let account = Account::fresh();
    let mut arriving = brokers.subscribe(&account).await;
    let (_connection, channel) = brokers.channel().await;
    brokers.until_calls_arrive(&account, &mut arriving).await;

    // A publisher that declares its exchange anew: the queue is bound to nothing.
    channel.exchange_delete("callevt".into(), ExchangeDeleteOptions::default()).await.unwrap();
    let (topic, none) = (ExchangeKind::Topic, FieldTable::default());
    channel
        .exchange_declare("callevt".into(), topic, ExchangeDeclareOptions::default(), none.clone())
        .await
        .unwrap();
    brokers.until_calls_arrive(&account, &mut arriving).await;

    for pattern in ["call.CHANNEL_CREATE.*", "call.CHANNEL_DESTROY.*"] {
        let (queue, exchange) = ("blackhole-ingest".into(), "callevt".into());
        channel.queue_unbind(queue, exchange, pattern.into(), none.clone()).await.unwrap();
    }
    brokers.until_calls_arrive(&account, &mut arriving).await;

    let (queue, exchange) = ("blackhole-ingest-queries".into(), "sysconf".into());
    channel.queue_unbind(queue, exchange, "websockets.get".into(), none.clone()).await.unwrap();
    let mut kazoo = Kazoo::start(&brokers.rabbitmq, "kazoo-1").await;
    soon("an answer", async {
        let mut answered = None;
        while answered.is_none() {
            let ask = kazoo.sockets(json!({ "Account-ID": account.id }));
            answered = tokio::time::timeout(Duration::from_secs(2), ask).await.ok();
        }
    })
    .await;

    channel.exchange_delete("blackhole-dead-letter".into(), ExchangeDeleteOptions::default()).await.unwrap();
    soon("a dead letter", async {
        loop {
            let event = events::any("callevt", "call.CHANNEL_CREATE.bad".into(), "", json!({}));
            brokers.publish(&event).await;
            let got = channel.basic_get("blackhole-dead-letter".into(), BasicGetOptions { no_ack: true });
            if got.await.unwrap().is_some() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;

    channel.queue_delete("blackhole-ingest-progress".into(), QueueDeleteOptions::default()).await.unwrap();
    blackhole_tests::eventually("the queue of the checkpoint", || async {
        brokers.rabbitmq.queues().await.unwrap().iter().any(|(name, _)| name == "blackhole-ingest-progress")
    })
    .await;

    // Somebody declares an exchange otherwise, and then once more, of a type that does not match as KAZOO's does.
    for (kind, durable, health) in [
        (ExchangeKind::Topic, true, "ready\n"),
        (ExchangeKind::Direct, false, "without call\nready\n"),
        (ExchangeKind::Topic, false, "ready\n"),
    ] {
        channel.exchange_delete("callevt".into(), ExchangeDeleteOptions::default()).await.unwrap();
        let options = ExchangeDeclareOptions { durable, ..ExchangeDeclareOptions::default() };
        channel.exchange_declare("callevt".into(), kind, options, none.clone()).await.unwrap();
        if health == "ready\n" {
            brokers.until_calls_arrive(&account, &mut arriving).await;
        }
        until_health(&ingest, 200, health).await;
    }
    let metrics = ingest.metrics().await.unwrap();
    assert!(
        metrics.contains("blackhole_ingest_connection_losses_total{side=\"amqp\",zone=\"\"} 0"),
        "{metrics}"
    );
}

#[tokio::test]
async fn an_exchange_declared_otherwise_affects_its_own_family_alone() {
    let brokers = Brokers::start("otherwise").await;
    let (_connection, channel) = brokers.channel().await;
    let none = FieldTable::default();
    for (name, kind) in [("callevt", ExchangeKind::Topic), ("qubicle", ExchangeKind::Direct)] {
        channel.exchange_declare(name.into(), kind, durable(), none.clone()).await.unwrap();
    }
    let ingest = brokers.ingest("ingest", &[]).await;
    until_health(&ingest, 200, "without qubicle\nready\n").await;
    let account = Account::fresh();
    let mut arriving = brokers.subscribe(&account).await;
    brokers.until_calls_arrive(&account, &mut arriving).await;
    let metrics = ingest.metrics().await.unwrap();
    for line in [
        r#"bound{part="qubicle",zone=""} 0"#,
        r#"bound{part="call",zone=""} 1"#,
        r#"bound{part="dead letters",zone=""} 1"#,
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    assert!(brokers.log("ingest").contains("exchange `qubicle` is of the type direct, KAZOO's is topic"));

    channel.exchange_delete("qubicle".into(), ExchangeDeleteOptions::default()).await.unwrap();
    until_health(&ingest, 200, "ready\n").await;
    let key = format!("qubicle.queue.{}.q1.joined", account.id);
    brokers.publish(&events::any("qubicle", key, "joined", json!({}))).await;
    soon("an event of the family", arriving.next()).await.unwrap();
}

#[tokio::test]
async fn an_operators_own_dead_letter_queue_receives_the_dead_letters() {
    let brokers = Brokers::start("own-letters").await;
    let (_connection, channel) = brokers.channel().await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(1000));
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare("blackhole-dead-letter".into(), options, arguments).await.unwrap();
    let ingest = brokers.ingest("ingest", &[]).await;
    until_health(&ingest, 200, "ready\n").await;
    brokers.publish(&events::any("callevt", "call.CHANNEL_CREATE.bad".into(), "", json!({}))).await;
    blackhole_tests::eventually("a dead letter", || async {
        brokers.rabbitmq.queues().await.unwrap().contains(&("blackhole-dead-letter".to_owned(), 1))
    })
    .await;
}

#[tokio::test]
async fn the_documented_permissions_suffice_if_kazoos_exchanges_exist() {
    let brokers = Brokers::start("permitted").await;
    let ingest = brokers.ingest("as-guest", &[]).await;
    until_health(&ingest, 200, "ready\n").await;
    until_answering(&ingest).await;
    ingest.server().stop().await.unwrap();
    let (_connection, channel) = brokers.channel().await;
    let none = FieldTable::default();
    let (queue, key) = ("blackhole-ingest".into(), "call.CHANNEL_CREATE.*".into());
    channel.queue_unbind(queue, "callevt".into(), key, none.clone()).await.unwrap();

    let operations = std::fs::read_to_string(workspace::root().unwrap().join("docs/operations.md")).unwrap();
    let documented = operations.lines().find_map(|line| line.strip_prefix("rabbitmqctl set_permissions "));
    let documented = documented.unwrap().replace(['\'', '\\'], "");
    let arguments: Vec<&str> = documented.split_whitespace().collect();
    brokers.rabbitmq.ctl(&["add_user", "blackhole", "secret"]).await.unwrap();
    brokers.rabbitmq.ctl(&[&["set_permissions"], arguments.as_slice()].concat()).await.unwrap();
    let url = format!("amqp://blackhole:secret@127.0.0.1:{}/%2f", brokers.rabbitmq.port());
    let ingest = brokers.ingest("permitted", &[("AMQP__URL", &url)]).await;
    until_health(&ingest, 200, "ready\n").await;
    let account = Account::fresh();
    let mut arriving = brokers.subscribe(&account).await;
    brokers.until_calls_arrive(&account, &mut arriving).await;
    brokers.publish(&events::any("callevt", "call.CHANNEL_CREATE.bad".into(), "", json!({}))).await;
    blackhole_tests::eventually("a dead letter", || async {
        brokers.rabbitmq.queues().await.unwrap().contains(&("blackhole-dead-letter".to_owned(), 1))
    })
    .await;
    until_answering(&ingest).await;
    let mut kazoo = Kazoo::start(&brokers.rabbitmq, "kazoo-1").await;
    soon("an answer", kazoo.sockets(json!({ "Account-ID": account.id }))).await;

    // It may not declare an exchange that is gone.
    channel.exchange_delete("qubicle".into(), ExchangeDeleteOptions::default()).await.unwrap();
    until_health(&ingest, 200, "without qubicle\nready\n").await;
    channel
        .exchange_declare("qubicle".into(), ExchangeKind::Topic, ExchangeDeclareOptions::default(), none)
        .await
        .unwrap();
    until_health(&ingest, 200, "ready\n").await;
    let log = brokers.log("permitted");
    assert!(!log.contains("amq.default"), "{log}");
}

#[tokio::test]
async fn an_alarm_of_the_broker_is_told_and_answers_at_once() {
    let brokers = Brokers::start("alarm").await;
    let ingest = brokers.ingest("ingest", &[]).await;
    until_health(&ingest, 200, "ready\n").await;
    until_answering(&ingest).await;
    let client = async_nats::connect(brokers.nats.url()).await.unwrap();
    let relay = async || {
        let request = json!({ "server_id": "kazoo-1", "body": { "Event-Name": "broadcast" } }).to_string();
        let reply = client.request("blackhole.v1.targeted", request.into());
        let reply = soon("a reply", reply).await.unwrap();
        serde_json::from_slice::<serde_json::Value>(&reply.payload).unwrap()
    };
    assert_eq!(relay().await, json!({}));

    brokers.rabbitmq.ctl(&["set_vm_memory_high_watermark", "absolute", "1MB"]).await.unwrap();
    until_health(&ingest, 200, "without publishing\nready\n").await;
    let began = std::time::Instant::now();
    for _ in 0..20 {
        let error = relay().await["error"].as_str().unwrap().to_owned();
        assert!(error.starts_with("the broker blocks publishers: low on memory"), "{error}");
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let metrics = ingest.metrics().await.unwrap();
    assert!(metrics.contains(r#"bound{part="publishing",zone=""} 0"#), "{metrics}");
    assert!(brokers.log("ingest").contains("low on memory"));

    brokers.rabbitmq.ctl(&["set_vm_memory_high_watermark", "absolute", "1GB"]).await.unwrap();
    until_health(&ingest, 200, "ready\n").await;
    assert_eq!(relay().await, json!({}));
}

#[tokio::test]
async fn a_stream_that_somebody_changes_or_deletes_is_put_right_before_the_next_event() {
    let brokers = Brokers::start("stream-changed").await;
    let ingest = brokers.ingest("ingest", &[("HISTORY__REPLICAS", "3")]).await;
    until_health(&ingest, 200, "ready\n").await;
    assert!(brokers.log("ingest").contains("history.replicas is ignored"), "a single server keeps one copy");
    let jetstream = async_nats::jetstream::new(async_nats::connect(brokers.nats.url()).await.unwrap());
    let config = async || {
        let stream = jetstream.get_stream("BLACKHOLE_V1").await.ok()?;
        Some(stream.cached_info().config.clone())
    };
    let intended = config().await.unwrap();
    assert_eq!(intended.num_replicas, 1);
    let changed = async_nats::jetstream::stream::Config { max_bytes: 5 << 20, ..intended.clone() };
    jetstream.update_stream(changed).await.unwrap();
    blackhole_tests::eventually("the settings", || async {
        config().await.is_some_and(|config| config.max_bytes == intended.max_bytes)
    })
    .await;
    jetstream.delete_stream("BLACKHOLE_V1").await.unwrap();
    blackhole_tests::eventually("the stream", || async { config().await.is_some() }).await;
    until_health(&ingest, 200, "ready\n").await;
    assert!(brokers.log("ingest").contains("deleted or changed by somebody else"));
}

#[tokio::test]
async fn a_distant_broker_is_used() {
    let brokers = Brokers::start("distant").await;
    let proxy = Proxy::distant(brokers.rabbitmq.port(), Duration::from_millis(150)).await;
    let url = format!("amqp://guest:guest@127.0.0.1:{}/%2f", proxy.port());
    let ingest = brokers.ingest("ingest", &[("AMQP__URL", &url)]).await;
    until_health(&ingest, 200, "ready\n").await;
    let account = Account::fresh();
    let mut arriving = brokers.subscribe(&account).await;
    brokers.until_calls_arrive(&account, &mut arriving).await;
    let log = brokers.log("ingest");
    assert!(!log.contains("not connected, retrying"), "{log}");
}

#[tokio::test]
async fn a_broker_that_accepts_and_stays_silent_costs_nothing() {
    let brokers = Brokers::start("silent").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqp://guest:guest@127.0.0.1:{}/%2f", listener.local_addr().unwrap().port());
    let ingest = brokers.ingest("ingest", &[("AMQP__URL", &url)]).await;
    let pid = ingest.server().process().unwrap().id();
    let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    let mut accepted = Vec::new();
    let mut usage = Vec::new();
    while accepted.len() < 6 {
        accepted.push(soon("an attempt", listener.accept()).await.unwrap());
        if accepted.len() % 2 == 0 {
            usage.push((count("task"), count("fd")));
        }
    }
    let ((tasks, descriptors), (tasks_later, descriptors_later)) = (usage[0], usage[usage.len() - 1]);
    assert!(tasks_later <= tasks && descriptors_later <= descriptors + 1, "{usage:?}");
    until_health(&ingest, 503, "waiting for amqp\n").await;
}
