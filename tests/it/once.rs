//! Every event that was published is stored once and in order, whatever dies or hangs, and for however long.

use std::{collections::BTreeMap, path::Path, time::Duration};

use async_nats::jetstream;
use blackhole_dev::{
    brokers::{Nats, RabbitMq},
    services::Service,
    simulator::Publisher,
    workspace::RunDir,
};
use blackhole_tests::{
    accounts::Account,
    client::Client,
    events, eventually,
    proxy::{Network, Proxy},
    stack::{self, Stack},
};
use serde_json::{Value, json};

/// Much less than an outage of these tests lasts.
const DUPLICATE_WINDOW: Duration = Duration::from_millis(100);

/// Longer than it takes the ingest and RabbitMQ to notice a dead connection, and than NATS remembers ids.
const OUTAGE: Duration = Duration::from_secs(8);

/// Brokers of its own, with an ingest that reaches them through proxies.
struct Paths {
    rabbitmq: RabbitMq,
    nats: Nats,
    to_rabbitmq: Proxy,
    to_nats: Proxy,
    ingest: Service,
    account: Account,
    dir: RunDir,
}

impl Paths {
    async fn start(name: &str) -> Paths {
        let dir = RunDir::create(name).unwrap();
        let (rabbitmq_dir, nats_dir) = (dir.subdir("rabbitmq").unwrap(), dir.subdir("nats").unwrap());
        let (rabbitmq, nats) = tokio::join!(RabbitMq::start(&rabbitmq_dir), Nats::start(&nats_dir));
        let (rabbitmq, nats) = (rabbitmq.unwrap(), nats.unwrap());
        let (to_rabbitmq, to_nats) = (Proxy::start(rabbitmq.port()).await, Proxy::start(nats.port()).await);
        let ingest = ingest("amqp-ingest", dir.path(), to_rabbitmq.port(), to_nats.port()).await;
        let paths = Paths { rabbitmq, nats, to_rabbitmq, to_nats, ingest, account: Account::fresh(), dir };
        // The stream keeps this window when the ingest connects again.
        let mut config = paths.stream().await.cached_info().config.clone();
        config.duplicate_window = DUPLICATE_WINDOW;
        paths.jetstream().await.update_stream(config).await.unwrap();
        paths
    }

    /// A second ingest, which stands by. It reaches the brokers directly.
    async fn standby(&self) -> Service {
        ingest("standby", self.dir.path(), self.rabbitmq.port(), self.nats.port()).await
    }

    async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(async_nats::connect(self.nats.url()).await.unwrap())
    }

    async fn stream(&self) -> jetstream::stream::Stream {
        self.jetstream().await.get_stream("BLACKHOLE_V1").await.unwrap()
    }

    /// Publishes numbered events without waiting for confirms between them.
    async fn publish(&self, numbers: std::ops::Range<u64>) {
        let publisher = Publisher::connect(&self.rabbitmq.url()).await.unwrap();
        let mut confirms = Vec::new();
        for number in numbers {
            let mut event = events::call(&self.account, "CHANNEL_CREATE", "one");
            event.body["Number"] = json!(number);
            let body = event.body.to_string();
            confirms.push(publisher.send(event.exchange, &event.key, body.as_bytes()).await.unwrap());
        }
        for confirm in confirms {
            assert!(confirm.await.unwrap().is_ack());
        }
    }

    /// Waits until the stream has at least this many events.
    async fn until_stored(&self, count: u64) {
        let mut stream = self.stream().await;
        loop {
            if stream.info().await.unwrap().state.messages >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until nothing is left in the queue, and asserts that the stream has the events with the numbers below
    /// `count`, each once and in order.
    async fn verify(&self, count: u64) {
        blackhole_tests::soon("the last event", self.until_stored(count)).await;
        eventually("an empty queue", || async {
            let queues = self.rabbitmq.ctl(&["list_queues", "--quiet", "name", "messages"]).await.unwrap();
            queues.lines().any(|line| line.trim() == "blackhole-ingest\t0")
        })
        .await;
        let mut stream = self.stream().await;
        let state = stream.info().await.unwrap().state.clone();
        let mut numbers = Vec::new();
        for sequence in state.first_sequence..=state.last_sequence {
            let message = stream.get_raw_message(sequence).await.unwrap();
            let body: Value = serde_json::from_slice(&message.payload).unwrap();
            numbers.push(body["Number"].as_u64().unwrap());
        }
        let mut counts = BTreeMap::<u64, u64>::new();
        for number in &numbers {
            *counts.entry(*number).or_default() += 1;
        }
        let twice: Vec<&u64> =
            counts.iter().filter(|(_, count)| **count > 1).map(|(number, _)| number).collect();
        assert!(twice.is_empty(), "{} are stored twice: {twice:?}", twice.len());
        assert_eq!(numbers, (0..count).collect::<Vec<_>>());
    }
}

async fn ingest(name: &str, dir: &Path, rabbitmq: u16, nats: u16) -> Service {
    let env = [
        ("NATS__URL", format!("nats://127.0.0.1:{nats}")),
        ("AMQP__URL", format!("amqp://guest:guest@127.0.0.1:{rabbitmq}/%2f?heartbeat=1")),
        ("LOG__FILTER", "debug,async_nats=info,lapin=info,hyper=info".to_owned()),
    ];
    Service::start(name, &stack::binaries().amqp_ingest, dir, &env).await.unwrap()
}

#[tokio::test]
async fn equal_events_are_all_delivered() {
    let stack = Stack::shared();
    let account = Account::fresh();
    let mut client = Client::connect(&stack.edge.url("view=args")).await;
    client.subscribe(&account, &["call.*.*"]).await;
    let publisher = stack.publisher().await;
    let event = events::call(&account, "CHANNEL_CREATE", "equal");
    for _ in 0..3 {
        event.publish(&publisher).await;
    }
    events::call(&account, "CHANNEL_CREATE", "last").publish(&publisher).await;
    for expected in ["equal", "equal", "equal", "last"] {
        assert_eq!(client.event().await["args"]["Call-ID"], expected);
    }
}

#[tokio::test]
async fn equal_events_are_counted_exactly_when_the_ingest_is_killed() {
    const ROUNDS: u64 = 8;
    const EVENTS: u64 = 500;
    let paths = Paths::start("equal").await;
    let event = events::call(&paths.account, "CHANNEL_CREATE", "equal");
    let body = event.body.to_string();
    let publisher = Publisher::connect(&paths.rabbitmq.url()).await.unwrap();
    let mut recognised = 0.0;
    for round in 1..=ROUNDS {
        let mut confirms = Vec::new();
        for _ in 0..EVENTS {
            confirms.push(publisher.send(event.exchange, &event.key, body.as_bytes()).await.unwrap());
        }
        // Somewhere in the middle of them.
        paths.until_stored((round - 1) * EVENTS + EVENTS / 8 * round / 2).await;
        recognised += Stack::metric(&paths.ingest, "blackhole_ingest_events_duplicate_total").await;
        paths.ingest.server().kill().await.unwrap();
        for confirm in confirms {
            assert!(confirm.await.unwrap().is_ack());
        }
        paths.ingest.server().start_again().await.unwrap();
    }
    eventually("an empty queue", || async {
        let queues = paths.rabbitmq.ctl(&["list_queues", "--quiet", "name", "messages"]).await.unwrap();
        queues.lines().any(|line| line.trim() == "blackhole-ingest\t0")
    })
    .await;
    assert_eq!(paths.stream().await.info().await.unwrap().state.messages, ROUNDS * EVENTS);
    assert!(recognised > 0.0, "nothing was in flight when the ingest was killed");
}

#[tokio::test]
async fn a_path_to_nats_that_swallows_bytes_for_long_loses_and_doubles_nothing() {
    for network in [Network::Dropping, Network::Stalled] {
        let paths = Paths::start(&format!("nats-{network:?}")).await;
        paths.publish(0..1000).await;
        paths.until_stored(10).await;
        paths.to_nats.set(network);
        paths.publish(1000..2000).await;
        tokio::time::sleep(OUTAGE).await;
        paths.to_nats.set(Network::Up);
        paths.verify(2000).await;
    }
}

#[tokio::test]
async fn a_path_to_rabbitmq_that_swallows_bytes_for_long_loses_and_doubles_nothing() {
    for network in [Network::Dropping, Network::Stalled] {
        let paths = Paths::start(&format!("rabbitmq-{network:?}")).await;
        paths.publish(0..1000).await;
        paths.until_stored(10).await;
        paths.to_rabbitmq.set(network);
        paths.publish(1000..2000).await;
        tokio::time::sleep(OUTAGE).await;
        paths.to_rabbitmq.set(Network::Up);
        paths.verify(2000).await;
    }
}

#[tokio::test]
async fn an_ingest_that_is_killed_and_stays_away_for_long_loses_and_doubles_nothing() {
    let paths = Paths::start("away").await;
    paths.publish(0..1000).await;
    paths.until_stored(10).await;
    paths.ingest.server().kill().await.unwrap();
    tokio::time::sleep(10 * DUPLICATE_WINDOW).await;
    paths.ingest.server().start_again().await.unwrap();
    paths.publish(1000..1500).await;
    paths.verify(1500).await;
}

#[tokio::test]
async fn a_standby_takes_over_without_loss_and_doubles() {
    for network in [Network::Dropping, Network::Stalled] {
        let paths = Paths::start(&format!("standby-{network:?}")).await;
        let _standby = paths.standby().await;
        paths.publish(0..1000).await;
        paths.until_stored(1000).await;
        // The first ingest sends these on a path that holds them back, and is cut off from the broker then.
        paths.to_nats.set(network);
        paths.publish(1000..1100).await;
        eventually("events in flight", || async {
            Stack::metric(&paths.ingest, "blackhole_ingest_events_in_flight").await >= 100.0
        })
        .await;
        paths.to_rabbitmq.set(network);
        paths.publish(1100..2000).await;
        blackhole_tests::soon("the standby's events", paths.until_stored(2000)).await;
        tokio::time::sleep(10 * DUPLICATE_WINDOW).await;
        // What the first ingest has sent arrives now, or never.
        paths.to_nats.set(Network::Up);
        paths.to_rabbitmq.set(Network::Up);
        Stack::until_ready(&paths.ingest, true).await;
        paths.publish(2000..2100).await;
        paths.verify(2100).await;
    }
}

#[tokio::test]
async fn a_frozen_ingest_that_was_replaced_doubles_nothing() {
    let paths = Paths::start("frozen").await;
    let _standby = paths.standby().await;
    paths.publish(0..1000).await;
    paths.until_stored(10).await;
    paths.ingest.server().pause().unwrap();
    paths.publish(1000..2000).await;
    blackhole_tests::soon("the standby's events", paths.until_stored(2000)).await;
    tokio::time::sleep(10 * DUPLICATE_WINDOW).await;
    paths.ingest.server().resume().unwrap();
    Stack::until_ready(&paths.ingest, true).await;
    paths.publish(2000..2100).await;
    paths.verify(2100).await;
}
