//! RabbitMQ and the ingest's queues. That it reads nothing from a connection that publishes while it is short of memory, and
//! says so, is shown in `topology`.

use blackhole_tests::stack::Stack;
use futures_util::StreamExt;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, Consumer,
    message::Delivery,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, BasicQosOptions,
        QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};

/// A queue with a single active consumer, as the ingest's.
struct Queue {
    name: String,
}

impl Queue {
    async fn declare(name: &str) -> Queue {
        let queue = Queue { name: format!("facts-{name}") };
        let active = ("x-single-active-consumer", AMQPValue::Boolean(true));
        declare(&connect().await.1, &queue.name, &[active]).await;
        queue
    }

    async fn publish(&self, bodies: &[&str]) {
        let (_connection, channel) = connect().await;
        for body in bodies {
            publish(&channel, &self.name, body).await;
        }
    }

    /// A consumer with at most `prefetch` messages in flight, and its channel and connection.
    async fn consume(&self, prefetch: u16) -> (Connection, Channel, Consumer) {
        let (connection, channel) = connect().await;
        channel.basic_qos(prefetch, BasicQosOptions::default()).await.unwrap();
        let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        let queue = self.name.as_str().into();
        let consumer = channel.basic_consume(queue, "".into(), options, arguments).await.unwrap();
        (connection, channel, consumer)
    }
}

async fn connect() -> (Connection, Channel) {
    let url = Stack::shared().rabbitmq.url();
    let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

async fn declare(channel: &Channel, name: &str, arguments: &[(&str, AMQPValue)]) {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        table.insert((*name).into(), value.clone());
    }
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.into(), options, table).await.unwrap();
}

async fn publish(channel: &Channel, queue: &str, body: &str) {
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    channel.basic_publish("".into(), queue.into(), options, body.as_bytes(), properties).await.unwrap();
}

async fn next(consumer: &mut Consumer) -> Delivery {
    consumer.next().await.unwrap().unwrap()
}

/// Bodies, and whether they may have been delivered before.
async fn take(consumer: &mut Consumer, count: usize) -> Vec<(String, bool)> {
    let mut taken = Vec::new();
    for _ in 0..count {
        let delivery = next(consumer).await;
        taken.push((String::from_utf8(delivery.data.clone()).unwrap(), delivery.redelivered));
    }
    taken
}

#[tokio::test]
async fn what_a_consumer_leaves_goes_first_and_in_order_to_the_one_that_stands_by() {
    let queue = Queue::declare("standby").await;
    queue.publish(&["1", "2", "3", "4"]).await;
    let (connection, _channel, mut active) = queue.consume(3).await;
    let (_other_connection, _other_channel, mut standby) = queue.consume(10).await;
    let first = next(&mut active).await;
    first.acker.ack(BasicAckOptions::default()).await.unwrap();
    take(&mut active, 2).await;
    queue.publish(&["5"]).await;
    connection.close(200, "end".into()).await.unwrap();
    let expected = [("2", true), ("3", true), ("4", true), ("5", false)];
    let expected = expected.map(|(body, redelivered)| (body.to_owned(), redelivered));
    let taken = take(&mut standby, 4).await;
    // The fourth was on its way when the first was acknowledged.
    let bodies = |taken: &[(String, bool)]| taken.iter().map(|(body, _)| body.clone()).collect::<Vec<_>>();
    assert_eq!(bodies(&taken), bodies(&expected));
    assert_eq!((&taken[0], &taken[1], &taken[3]), (&expected[0], &expected[1], &expected[3]));
}

#[tokio::test]
async fn a_transaction_that_is_not_committed_has_no_effect() {
    let queue = Queue::declare("transaction").await;
    let progress = format!("{}-progress", queue.name);
    let latest = async || {
        let (_connection, channel) = connect().await;
        let options = BasicGetOptions { no_ack: true };
        let message = channel.basic_get(progress.as_str().into(), options).await.unwrap();
        message.map(|message| String::from_utf8(message.data.clone()).unwrap())
    };
    let one = [
        ("x-max-length", AMQPValue::LongLongInt(1)),
        ("x-overflow", AMQPValue::LongString("drop-head".into())),
    ];
    declare(&connect().await.1, &progress, &one).await;
    queue.publish(&["1"]).await;
    for (is_committed, was_delivered) in [(false, false), (true, true)] {
        let (connection, channel, mut consumer) = queue.consume(10).await;
        channel.tx_select().await.unwrap();
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.redelivered, was_delivered);
        delivery.acker.ack(BasicAckOptions::default()).await.unwrap();
        publish(&channel, &progress, "a").await;
        publish(&channel, &progress, "b").await;
        if is_committed {
            channel.tx_commit().await.unwrap();
        }
        connection.close(200, "end".into()).await.unwrap();
        let expected = is_committed.then(|| "b".to_owned());
        assert_eq!(latest().await, expected, "the queue keeps the latest message");
    }
    let (_connection, channel) = connect().await;
    let left = channel.basic_get(queue.name.as_str().into(), BasicGetOptions::default()).await.unwrap();
    assert!(left.is_none(), "it is acknowledged");
}

#[tokio::test]
async fn the_acknowledgement_of_an_unknown_delivery_closes_the_channel() {
    let queue = Queue::declare("tag").await;
    queue.publish(&["1"]).await;
    let (_connection, channel, mut consumer) = queue.consume(10).await;
    let tag = next(&mut consumer).await.delivery_tag;
    channel.basic_ack(tag + 1, BasicAckOptions { multiple: true }).await.unwrap();
    let error = consumer.next().await.unwrap().unwrap_err().to_string();
    assert!(error.contains("unknown delivery tag"), "{error}");
}
