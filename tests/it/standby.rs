//! Two ingests with different settings of the stream, as during an upgrade: those of the one that carries events hold.

use std::time::Duration;

use async_nats::{Subscriber, jetstream};
use blackhole_dev::{services::Service, simulator::Publisher};
use blackhole_tests::{accounts::Account, events, eventually, soon};
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::topology::{Brokers, until_health};

const OLDER: Duration = Duration::from_secs(600);
const NEWER: Duration = Duration::from_secs(1200);

/// Brokers, a KAZOO that publishes numbered events, and who receives them.
struct World {
    brokers: Brokers,
    jetstream: jetstream::Context,
    kazoo: Publisher,
    account: Account,
    published: u64,
    arriving: Subscriber,
}

impl World {
    async fn start(name: &str) -> World {
        let brokers = Brokers::start(name).await;
        let client = async_nats::connect(brokers.nats.url()).await.unwrap();
        let account = Account::fresh();
        let arriving = brokers.subscribe(&account).await;
        let kazoo = Publisher::connect(&brokers.rabbitmq.url()).await.unwrap();
        World { jetstream: jetstream::new(client), kazoo, account, published: 0, arriving, brokers }
    }

    async fn ingest(&self, name: &str, max_age: Duration) -> Service {
        let max_age = format!("{}s", max_age.as_secs());
        let ingest = self.brokers.ingest(name, &[("HISTORY__MAX_AGE", &max_age)]).await;
        until_health(&ingest, 200, "ready\n").await;
        ingest
    }

    /// Publishes numbered events, which arrive once and in order.
    async fn carry_events(&mut self) {
        let numbers = self.published..self.published + 50;
        self.published = numbers.end;
        for number in numbers.clone() {
            let mut event = events::call(&self.account, "CHANNEL_CREATE", "one");
            event.body["Number"] = json!(number);
            event.publish(&self.kazoo).await;
        }
        for number in numbers {
            let message = soon("an event", self.arriving.next()).await.unwrap();
            let body: Value = serde_json::from_slice(&message.payload).unwrap();
            assert_eq!(body["Number"], number);
        }
    }

    async fn max_age(&self) -> Duration {
        self.jetstream.get_stream("BLACKHOLE_V1").await.unwrap().cached_info().config.max_age
    }

    /// Waits until both ingests have looked at the stream several times. Returns how often it was changed meanwhile.
    async fn changes(&self) -> usize {
        let client = async_nats::connect(self.brokers.nats.url()).await.unwrap();
        let mut requests = client.subscribe("$JS.API.STREAM.*.BLACKHOLE_V1").await.unwrap();
        client.flush().await.unwrap();
        let (mut looks, mut changes) = (0, 0);
        while looks < 10 {
            let request = soon("a look at the stream", requests.next()).await.unwrap();
            if request.subject.contains(".INFO.") { looks += 1 } else { changes += 1 }
        }
        changes
    }
}

#[tokio::test]
async fn the_ingest_that_carries_events_decides_on_the_stream_and_a_standby_changes_nothing() {
    let mut world = World::start("standby").await;
    let older = world.ingest("older", OLDER).await;
    world.carry_events().await;

    let newer = world.ingest("newer", NEWER).await;
    assert_eq!((world.changes().await, world.max_age().await), (0, OLDER), "it stands by");
    world.carry_events().await;

    // The upgrade.
    assert!(older.server().stop().await.unwrap().success());
    world.carry_events().await;
    assert_eq!(world.max_age().await, NEWER, "it is applied before the first event");

    older.server().start_again().await.unwrap();
    assert_eq!(
        (world.changes().await, world.max_age().await),
        (0, NEWER),
        "the older one changes nothing back"
    );
    world.carry_events().await;

    // The way back.
    assert!(newer.server().stop().await.unwrap().success());
    world.carry_events().await;
    assert_eq!(world.max_age().await, OLDER);
    let mut stream = world.jetstream.get_stream("BLACKHOLE_V1").await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, world.published, "each event once");
}

#[tokio::test]
async fn without_events_an_ingest_that_is_alone_applies_its_settings() {
    let world = World::start("alone").await;
    let former = world.ingest("former", OLDER).await;
    assert!(former.server().stop().await.unwrap().success());
    let _next = world.ingest("next", NEWER).await;
    eventually("the settings", || async { world.max_age().await == NEWER }).await;
}
