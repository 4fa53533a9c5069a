//! One ingest with the brokers of two zones. Each connection is independent, and events carry the zone they came from.

use async_nats::Subscriber;
use blackhole_common::wire;
use blackhole_dev::{
    brokers::{Nats, RabbitMq},
    http,
    services::Service,
    simulator::Publisher,
    workspace::RunDir,
};
use blackhole_tests::{accounts::Account, events, soon, stack};
use futures_util::StreamExt;

struct Zones {
    east: RabbitMq,
    west: RabbitMq,
    nats: Nats,
    ingest: Service,
    dir: RunDir,
}

impl Zones {
    async fn start(name: &str) -> Zones {
        let dir = RunDir::create(name).unwrap();
        let below = |name: &str| dir.subdir(name).unwrap();
        let (east_dir, west_dir, nats_dir) = (below("east"), below("west"), below("nats"));
        let (east, west, nats) =
            tokio::join!(RabbitMq::start(&east_dir), RabbitMq::start(&west_dir), Nats::start(&nats_dir));
        let (east, west, nats) = (east.unwrap(), west.unwrap(), nats.unwrap());
        let brokers =
            format!(r#"[{{zone="east",url="{}"}},{{zone="west",url="{}"}}]"#, east.url(), west.url());
        let env = [("NATS__URL", nats.url()), ("AMQP__BROKERS", brokers)];
        let program = stack::binaries().amqp_ingest;
        let ingest = Service::start("amqp-ingest", &program, dir.path(), &env).await.unwrap();
        let zones = Zones { east, west, nats, ingest, dir };
        zones.until_health(200, "ready\n").await;
        zones
    }

    async fn until_health(&self, status: u16, body: &str) {
        blackhole_tests::eventually(&format!("`{body}`"), || async {
            let ready = http::get(self.ingest.admin(), "/health/ready").await.unwrap();
            (ready.status, ready.body.as_str()) == (status, body)
        })
        .await;
    }

    async fn subscribe(&self, account: &Account) -> Subscriber {
        let client = async_nats::connect(self.nats.url()).await.unwrap();
        let subscriber = client.subscribe(format!("blackhole.v1.event.{}.>", account.id)).await.unwrap();
        client.flush().await.unwrap();
        subscriber
    }
}

/// Call id and zone of the next event.
async fn next(subscriber: &mut Subscriber) -> (String, String) {
    let message = soon("an event", subscriber.next()).await.unwrap();
    let body: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
    let zone = message.headers.unwrap().get(wire::ZONE).unwrap().as_str().to_owned();
    (body["Call-ID"].as_str().unwrap().to_owned(), zone)
}

async fn call(broker: &RabbitMq, account: &Account, id: &str) {
    let publisher = Publisher::connect(&broker.url()).await.unwrap();
    events::call(account, "CHANNEL_CREATE", id).publish(&publisher).await;
}

fn event_of(id: &str, zone: &str) -> (String, String) {
    (id.to_owned(), zone.to_owned())
}

#[tokio::test]
async fn losing_the_broker_of_one_zone_does_not_affect_the_other() {
    let zones = Zones::start("zones").await;
    let account = Account::fresh();
    let mut events = zones.subscribe(&account).await;
    call(&zones.east, &account, "one").await;
    assert_eq!(next(&mut events).await, event_of("one", "east"));
    call(&zones.west, &account, "two").await;
    assert_eq!(next(&mut events).await, event_of("two", "west"));

    zones.west.server().kill().await.unwrap();
    zones.until_health(200, "without amqp west\nready\n").await;
    let healthy = std::process::Command::new(stack::binaries().amqp_ingest)
        .arg("--check-health")
        .env("BLACKHOLE_ADMIN__LISTEN", zones.ingest.admin())
        .output()
        .unwrap();
    assert!(healthy.status.success(), "{healthy:?}");
    let metrics = zones.ingest.metrics().await.unwrap();
    for line in [
        r#"blackhole_ingest_connection_up{side="amqp",zone="east"} 1"#,
        r#"blackhole_ingest_connection_up{side="amqp",zone="west"} 0"#,
        r#"blackhole_ingest_connection_losses_total{side="amqp",zone="west"} 1"#,
        r#"blackhole_ingest_events_received_total{family="call",zone="east"} 1"#,
    ] {
        assert!(metrics.lines().any(|own| own == line), "{line} in {metrics}");
    }
    for number in 0..100 {
        call(&zones.east, &account, &number.to_string()).await;
        assert_eq!(next(&mut events).await, event_of(&number.to_string(), "east"));
    }

    zones.east.server().kill().await.unwrap();
    zones.until_health(503, "waiting for amqp east, amqp west\n").await;
    zones.west.server().start_again().await.unwrap();
    zones.until_health(200, "without amqp east\nready\n").await;
    call(&zones.west, &account, "three").await;
    assert_eq!(next(&mut events).await, event_of("three", "west"));

    let log = std::fs::read_to_string(zones.dir.path().join("amqp-ingest.log")).unwrap();
    assert!(log.contains("east=amqp://[hidden]@") && !log.contains("guest:guest"), "{log}");
    assert!(zones.ingest.server().stop().await.unwrap().success());
}

#[tokio::test]
async fn zones_that_are_spread_over_two_ingests_share_the_stream() {
    const EVENTS: usize = 300;
    let zones = Zones::start("spread").await;
    assert!(zones.ingest.server().stop().await.unwrap().success());
    let program = stack::binaries().amqp_ingest;
    let mut ingests = Vec::new();
    for (broker, zone) in [(&zones.east, "east"), (&zones.west, "west")] {
        let brokers = format!(r#"[{{zone="{zone}",url="{}"}}]"#, broker.url());
        let env = [("NATS__URL", zones.nats.url()), ("AMQP__BROKERS", brokers)];
        ingests.push(Service::start(zone, &program, zones.dir.path(), &env).await.unwrap());
    }
    let account = Account::fresh();
    let mut arriving = zones.subscribe(&account).await;
    let publish = async |broker: &RabbitMq| {
        let publisher = Publisher::connect(&broker.url()).await.unwrap();
        for number in 0..EVENTS {
            events::call(&account, "CHANNEL_CREATE", &number.to_string()).publish(&publisher).await;
        }
    };
    let receive = async {
        let mut counts = std::collections::HashMap::from([("east".to_owned(), 0), ("west".to_owned(), 0)]);
        for _ in 0..2 * EVENTS {
            let (id, zone) = next(&mut arriving).await;
            let count = counts.get_mut(&zone).unwrap();
            assert_eq!(id, count.to_string(), "of {zone}");
            *count += 1;
        }
    };
    tokio::join!(publish(&zones.east), publish(&zones.west), receive);
    // Each has noticed the other, and then no longer compares positions.
    for ingest in &ingests {
        let metrics = ingest.metrics().await.unwrap();
        let losses = stack::Stack::sum(&metrics, "blackhole_ingest_connection_losses_total");
        assert!(losses <= 3.0, "{metrics}");
    }
}

#[tokio::test]
async fn equal_events_of_two_zones_are_two_events() {
    let zones = Zones::start("equal-zones").await;
    let account = Account::fresh();
    let mut arriving = zones.subscribe(&account).await;
    let event = events::call(&account, "CHANNEL_CREATE", "equal");
    for (broker, zone) in [(&zones.east, "east"), (&zones.west, "west")] {
        event.publish(&Publisher::connect(&broker.url()).await.unwrap()).await;
        assert_eq!(next(&mut arriving).await, event_of("equal", zone));
    }
}
