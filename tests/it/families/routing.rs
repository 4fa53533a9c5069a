//! Topic matching compared with RabbitMQ, and the bindings of the ingest's queue.

use blackhole_common::{
    catalogue::Catalogue,
    subject::{Word, pattern_subjects, push_key, subject_matches},
};
use blackhole_tests::{soon, stack::Stack};
use futures_util::StreamExt;
use lapin::{
    ExchangeKind,
    options::{
        BasicConsumeOptions, BasicPublishOptions, ExchangeDeclareOptions, QueueBindOptions,
        QueueDeclareOptions,
    },
    types::FieldTable,
};
use rand::seq::IndexedRandom;

/// The mapping from AMQP patterns to NATS subjects follows the rules of the broker.
#[tokio::test]
async fn patterns_match_the_same_keys_as_in_rabbitmq() {
    const EXCHANGE: &str = "blackhole-test-topic";
    let words = ["a", "b", "call", "", "=", "a%2Eb", "-"];
    let (patterns, keys): (Vec<Vec<Word>>, Vec<String>) = {
        let mut random = rand::rng();
        let mut word = || (*words.choose(&mut random).unwrap()).to_owned();
        let keys = (0..200).map(|n| (0..1 + n % 4).map(|_| word()).collect::<Vec<_>>().join(".")).collect();
        let patterns = (0..100)
            .map(|n| {
                let mut pattern: Vec<Word> = (0..1 + n % 3)
                    .map(|_| match word().as_str() {
                        "-" => Word::Any,
                        word => Word::Exactly(word.to_owned()),
                    })
                    .collect();
                if n % 4 == 0 {
                    pattern.push(Word::Rest);
                }
                // In AMQP the empty text has no words, so a single empty word cannot be written.
                if pattern == [Word::Exactly(String::new())] {
                    pattern.clear();
                }
                pattern
            })
            .collect();
        (patterns, keys)
    };

    let url = Stack::shared().rabbitmq.url();
    let connection = lapin::Connection::connect(&url, lapin::ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel
        .exchange_declare(
            EXCHANGE.into(),
            ExchangeKind::Topic,
            ExchangeDeclareOptions { auto_delete: true, ..Default::default() },
            FieldTable::default(),
        )
        .await
        .unwrap();
    let mut queues = Vec::new();
    for pattern in &patterns {
        let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
        let queue = channel.queue_declare("".into(), options, FieldTable::default()).await.unwrap();
        let name = queue.name().clone();
        let amqp = pattern.iter().map(Word::as_amqp).collect::<Vec<_>>().join(".");
        for key in [amqp.as_str(), "the.very.last.of.all"] {
            let bind = channel.queue_bind(
                name.clone(),
                EXCHANGE.into(),
                key.into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            );
            bind.await.unwrap();
        }
        let consume = channel.basic_consume(
            name,
            "".into(),
            BasicConsumeOptions { no_ack: true, ..Default::default() },
            FieldTable::default(),
        );
        queues.push(consume.await.unwrap());
    }
    for key in keys.iter().map(String::as_str).chain(["the.very.last.of.all"]) {
        let publish = channel.basic_publish(
            EXCHANGE.into(),
            key.into(),
            BasicPublishOptions::default(),
            b"",
            lapin::BasicProperties::default(),
        );
        publish.await.unwrap();
    }
    let mut matched = 0;
    for (pattern, mut queue) in patterns.iter().zip(queues) {
        let mut routed = Vec::new();
        loop {
            let delivery = soon("a delivery", queue.next()).await.unwrap().unwrap();
            match delivery.routing_key.as_str() {
                "the.very.last.of.all" => break,
                key => routed.push(key.to_owned()),
            }
        }
        let subjects = pattern_subjects("e.t", pattern).unwrap();
        let ours: Vec<String> = keys
            .iter()
            .filter(|key| {
                let mut subject = "e.t".to_owned();
                push_key(&mut subject, key.as_bytes());
                subjects.iter().any(|pattern| subject_matches(pattern, &subject))
            })
            .cloned()
            .collect();
        assert_eq!(ours, routed, "{pattern:?}");
        matched += routed.len();
    }
    assert!(matched > 100, "too few matches in the sample: {matched}");
}

#[tokio::test]
async fn the_ingests_queue_has_exactly_the_bindings_of_the_catalogue() {
    let stack = Stack::shared();
    let text = stack.rabbitmq.ctl(&[
        "list_bindings",
        "--no-table-headers",
        "source_name",
        "destination_name",
        "routing_key",
    ]);
    let text = text.await.unwrap();
    let mut bound: Vec<(String, String)> = text
        .lines()
        .filter_map(|line| {
            let mut columns = line.split('\t');
            let (source, queue, key) = (columns.next()?, columns.next()?, columns.next()?);
            (queue == "blackhole-ingest" && !source.is_empty())
                .then(|| (source.to_owned(), key.trim().to_owned()))
        })
        .collect();
    bound.sort();
    let catalogue = Catalogue::load(None).unwrap();
    let wanted: Vec<(String, String)> =
        catalogue.amqp_bindings().into_iter().map(|binding| (binding.exchange, binding.pattern)).collect();
    assert_eq!(bound, wanted);
}
