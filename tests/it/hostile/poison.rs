//! Messages that the broker delivers like any other and that must not stop those behind them: routing keys that are not
//! UTF-8, and properties larger than a frame.

use blackhole_tests::{accounts::Account, client::Client, events, soon, stack::Stack};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::topology::{Brokers, until_health};

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;

fn short(bytes: &[u8]) -> Vec<u8> {
    [&[u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

fn method(class: u16, method: u16, arguments: &[u8]) -> Vec<u8> {
    [&class.to_be_bytes(), &method.to_be_bytes(), arguments].concat()
}

/// Just enough of AMQP 0-9-1 to publish what lapin's types cannot represent.
struct Publisher(TcpStream);

impl Publisher {
    async fn connect(port: u16) -> Publisher {
        let mut publisher = Publisher(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
        publisher.0.write_all(b"AMQP\0\0\x09\x01").await.unwrap();
        publisher.answered().await;
        let login = b"\0guest\0guest";
        let start_ok =
            [&[0; 4], short(b"PLAIN").as_slice(), &[0, 0, 0, 12], login, &short(b"en_US")].concat();
        publisher.call(0, &method(10, 11, &start_ok)).await;
        publisher.send(METHOD, 0, &method(10, 31, &[0, 10, 0, 2, 0, 0, 0, 0])).await;
        publisher.call(0, &method(10, 40, &[1, b'/', 0, 0])).await;
        publisher.call(1, &method(20, 10, &[0])).await;
        publisher.call(1, &method(85, 10, &[0])).await;
        publisher
    }

    async fn publish(&mut self, exchange: &[u8], key: &[u8], body: &[u8]) {
        let arguments = [[0, 0].as_slice(), &short(exchange), &short(key), &[0]].concat();
        self.send(METHOD, 1, &method(60, 40, &arguments)).await;
        let length = (body.len() as u64).to_be_bytes();
        self.send(HEADER, 1, &[[0, 60, 0, 0].as_slice(), &length, &[0, 0]].concat()).await;
        self.send(BODY, 1, body).await;
        assert_eq!(self.answered().await[..4], [0, 60, 0, 80], "confirmed");
    }

    async fn call(&mut self, channel: u16, method: &[u8]) {
        self.send(METHOD, channel, method).await;
        self.answered().await;
    }

    async fn send(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let frame = [&[kind], channel.to_be_bytes().as_slice(), &length, payload, &[0xCE]].concat();
        self.0.write_all(&frame).await.unwrap();
    }

    /// The payload of the next frame.
    async fn answered(&mut self) -> Vec<u8> {
        let mut head = [0; 7];
        soon("an answer of the broker", self.0.read_exact(&mut head)).await.unwrap();
        let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
        let mut payload = vec![0; length as usize + 1];
        self.0.read_exact(&mut payload).await.unwrap();
        payload
    }
}

#[tokio::test]
async fn a_routing_key_that_is_not_utf8_does_not_block_later_events() {
    // Its own stack: this may break the ingest.
    let stack = Stack::start("poison").await;
    let account = Account::fresh();
    let mut client = Client::connect(&stack.edge.url("")).await;
    client.subscribe(&account, &["call.*.*"]).await;
    let mut publisher = Publisher::connect(stack.rabbitmq.port()).await;
    let body = events::call(&account, "CHANNEL_CREATE", "odd").body.to_string();
    publisher.publish(b"callevt", b"call.CHANNEL_CREATE.\xFF\xFE", body.as_bytes()).await;
    events::call(&account, "CHANNEL_CREATE", "after").publish(&stack.publisher().await).await;
    let before = client.events_until("after").await;
    assert!(before.is_empty(), "such an event is a dead letter: {before:?}");
    let metrics = stack.amqp_ingest.metrics().await.unwrap();
    assert!(metrics.contains("blackhole_ingest_events_rejected_total{reason=\"unreadable\"} 1"), "{metrics}");
}

#[tokio::test]
async fn properties_larger_than_a_frame_do_not_block_later_events() {
    use lapin::{
        BasicProperties, Connection, ConnectionProperties,
        options::{BasicPublishOptions, ConfirmSelectOptions},
        types::{AMQPValue, FieldTable},
    };

    let brokers = Brokers::with_config("large-properties", "frame_max = 1048576").await;
    let ingest = brokers.ingest("ingest", &[]).await;
    until_health(&ingest, 200, "ready\n").await;
    let account = Account::fresh();
    let mut arriving = brokers.subscribe(&account).await;
    let url = format!("{}?frame_max=1048576", brokers.rabbitmq.url());
    let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let mut headers = FieldTable::default();
    headers.insert("x".into(), AMQPValue::LongString("h".repeat(200_000).into()));
    let properties = BasicProperties::default().with_headers(headers);
    let event = events::call(&account, "CHANNEL_CREATE", "large");
    let (key, body) = (event.key.as_str().into(), event.body.to_string().into_bytes());
    let options = BasicPublishOptions::default();
    let sent = channel.basic_publish("callevt".into(), key, options, &body, properties).await.unwrap();
    assert!(sent.await.unwrap().is_ack());

    brokers.until_calls_arrive(&account, &mut arriving).await;
    let metrics = ingest.metrics().await.unwrap();
    for line in [
        r#"events_rejected_total{reason="too_large"} 1"#,
        r#"connection_losses_total{side="amqp",zone=""} 0"#,
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    let queues = brokers.rabbitmq.queues().await.unwrap();
    assert!(queues.contains(&("blackhole-dead-letter".to_owned(), 1)), "{queues:?}");
}
