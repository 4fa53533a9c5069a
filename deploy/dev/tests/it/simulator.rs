//! The simulated KAZOO on a real RabbitMQ.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use blackhole_common::catalogue::Catalogue;
use blackhole_dev::brokers::RabbitMq;
use blackhole_dev::simulator::{Plan, Publisher, Settings, sample};
use blackhole_dev::workspace::RunDir;
use lapin::options::{BasicGetOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;

fn plan() -> Plan {
    let accounts = sample().unwrap_or_default();
    Plan::new(Settings { seed: 7, calls_per_second: 20.0, start: SystemTime::UNIX_EPOCH, accounts })
}

#[tokio::test]
async fn all_that_is_planned_arrives_although_connections_are_closed() {
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

    let (mut calm, mut disturbed) = (plan(), plan());
    publisher.run(&mut calm, tokio::time::sleep(Duration::from_secs(2))).await.unwrap();
    let first = publisher.confirmed();
    assert!(first > 50, "{first} events in two seconds");
    let disturbance = async {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            rabbit.close_all_connections().await.unwrap();
        }
    };
    let end = tokio::time::sleep(Duration::from_secs(5));
    tokio::join!(publisher.run_surely(&mut disturbed, end), disturbance);
    let confirmed = publisher.confirmed() - first;

    let channel = publisher.channel().await.unwrap();
    let mut keys = Vec::new();
    while let Some(got) = channel.basic_get("all".into(), BasicGetOptions { no_ack: true }).await.unwrap() {
        keys.push(format!("{}/{}", got.delivery.exchange, got.delivery.routing_key));
    }
    assert!(keys.len() as u64 >= first + confirmed, "{} of {first} + {confirmed}", keys.len());
    let arrived: HashSet<String> = keys.split_off(usize::try_from(first).unwrap()).into_iter().collect();
    let planned = plan().take(usize::try_from(confirmed).unwrap());
    let missing = planned.map(|event| format!("{}/{}", event.exchange, event.routing_key));
    assert_eq!(missing.filter(|key| !arrived.contains(key)).collect::<Vec<_>>(), [""; 0]);
    publisher.close().await.unwrap();
    drop(rabbit);
    run.remove().unwrap();
}
