//! The simulated KAZOO on a real RabbitMQ.

use std::time::{Duration, SystemTime};

use blackhole_common::catalogue::Catalogue;
use blackhole_dev::brokers::RabbitMq;
use blackhole_dev::simulator::{Plan, Publisher, Settings, sample};
use blackhole_dev::workspace::RunDir;
use lapin::options::{BasicGetOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;

/// Events confirmed between one disturbance and the next.
const BATCH: u64 = 50;

/// Exchange, routing key and body.
type Message = (String, String, Vec<u8>);

fn plan() -> Plan {
    let accounts = sample().unwrap();
    Plan::new(Settings { seed: 7, calls_per_second: 20.0, start: SystemTime::UNIX_EPOCH, accounts })
}

fn planned(count: u64) -> Vec<Message> {
    let message = |event: blackhole_dev::simulator::Publication| {
        (event.exchange.to_owned(), event.routing_key, event.body)
    };
    plan().take(usize::try_from(count).unwrap()).map(message).collect()
}

/// Waits until the broker has confirmed another batch.
async fn another_batch(publisher: &Publisher) {
    let goal = publisher.confirmed() + BATCH;
    while publisher.confirmed() < goal {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn every_planned_event_arrives_in_order_although_connections_are_closed() {
    let run = RunDir::create("test-simulator").unwrap();
    let rabbit = RabbitMq::start(&run.subdir("rabbitmq").unwrap()).await.unwrap();
    let publisher = Publisher::connect(&rabbit.url()).await.unwrap();
    let channel = publisher.channel().await.unwrap();
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare("all".into(), durable, FieldTable::default()).await.unwrap();
    for (exchange, _) in Catalogue::load(None).unwrap().exchanges() {
        let options = QueueBindOptions::default();
        let bound =
            channel.queue_bind("all".into(), exchange.into(), "#".into(), options, FieldTable::default());
        bound.await.unwrap();
    }

    publisher.run(&mut plan(), another_batch(&publisher)).await.unwrap();
    let undisturbed = publisher.confirmed();
    assert!(undisturbed >= BATCH);
    let disturbance = async {
        for _ in 0..3 {
            another_batch(&publisher).await;
            rabbit.close_all_connections().await.unwrap();
        }
        another_batch(&publisher).await;
    };
    publisher.run_with_retries(&mut plan(), disturbance).await;
    let disturbed = publisher.confirmed() - undisturbed;
    assert!(disturbed >= 4 * BATCH);

    let channel = publisher.channel().await.unwrap();
    let mut arrived: Vec<Message> = Vec::new();
    while let Some(got) = channel.basic_get("all".into(), BasicGetOptions { no_ack: true }).await.unwrap() {
        let lapin::message::Delivery { exchange, routing_key, data, .. } = got.delivery;
        arrived.push((exchange.to_string(), routing_key.to_string(), data));
    }
    let mut retried = arrived.split_off(usize::try_from(undisturbed).unwrap());
    assert!(arrived == planned(undisturbed), "undisturbed: {:?}", keys(&arrived));
    // A message whose confirm was lost is published again.
    retried.dedup();
    assert!(retried == planned(disturbed), "disturbed: {:?}", keys(&retried));
    publisher.close().await.unwrap();
    drop(rabbit);
    run.remove().unwrap();
}

fn keys(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(|(_, key, _)| key.as_str()).collect()
}
