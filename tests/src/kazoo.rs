//! A KAZOO process that sends requests over AMQP, as Crossbar does, and receives the answers by its `Server-ID`.

use std::time::Duration;

use blackhole_dev::brokers::RabbitMq;
use futures_util::StreamExt;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, Consumer, ExchangeKind,
    options::{
        BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
        QueueBindOptions, QueueDeclareOptions,
    },
    types::FieldTable,
};
use serde_json::{Value, json};

use crate::soon;

/// The process. The broker deletes its queue when it is dropped.
pub struct Kazoo {
    /// The routing key of answers to this process.
    pub server_id: String,
    channel: Channel,
    answers: Consumer,
    next: u64,
    _connection: Connection,
}

impl Kazoo {
    /// Connects, declares the exchanges as KAZOO does, and consumes from `targeted`.
    pub async fn start(broker: &RabbitMq, server_id: &str) -> Kazoo {
        let connection = Connection::connect(&broker.url(), ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        for (exchange, kind) in [
            ("sysconf", ExchangeKind::Topic),
            ("kapps", ExchangeKind::Topic),
            ("targeted", ExchangeKind::Direct),
        ] {
            let options = ExchangeDeclareOptions::default();
            channel.exchange_declare(exchange.into(), kind, options, FieldTable::default()).await.unwrap();
        }
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
        let queue = channel.queue_declare("".into(), options, FieldTable::default()).await.unwrap();
        let (name, key) = (queue.name().clone(), server_id.into());
        let options = QueueBindOptions::default();
        channel
            .queue_bind(name.clone(), "targeted".into(), key, options, FieldTable::default())
            .await
            .unwrap();
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let answers =
            channel.basic_consume(name, "kazoo".into(), options, FieldTable::default()).await.unwrap();
        Kazoo { server_id: server_id.to_owned(), channel, answers, next: 0, _connection: connection }
    }

    /// Publishes a request body unchanged.
    pub async fn publish(&self, exchange: &str, key: &str, body: &[u8]) {
        let properties = BasicProperties::default().with_content_type("application/json".into());
        let options = BasicPublishOptions::default();
        let sent = self.channel.basic_publish(exchange.into(), key.into(), options, body, properties);
        assert!(sent.await.unwrap().await.unwrap().is_ack());
    }

    /// Sends a request with the members that all requests have, and returns its `Msg-ID`.
    pub async fn ask(&mut self, exchange: &str, key: &str, name: &str, members: Value) -> String {
        self.next += 1;
        let id = format!("{}-{}", self.server_id, self.next);
        let mut request = json!({
            "Event-Category": "websockets", "Event-Name": name, "Msg-ID": id, "Server-ID": self.server_id,
            "App-Name": "crossbar", "App-Version": "4.3.0", "Node": "kazoo_apps@apps01.example.com",
        });
        request.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        self.publish(exchange, key, request.to_string().as_bytes()).await;
        id
    }

    /// Lists sockets, as Crossbar does for `GET /v2/accounts/{account}/websockets`, and waits for the answer.
    pub async fn sockets(&mut self, members: Value) -> Value {
        let id = self.ask("sysconf", "websockets.get", "get_req", members).await;
        self.answer_to(&id).await
    }

    /// Starts or stops a module and waits for the answer.
    pub async fn module(&mut self, members: Value) -> Value {
        let id = self.ask("kapps", "ws.module_req", "module_req", members).await;
        self.answer_to(&id).await
    }

    async fn answer_to(&mut self, id: &str) -> Value {
        let answer = self.message().await;
        assert_eq!(answer["Msg-ID"], *id, "{answer}");
        answer
    }

    /// The next message to this process.
    pub async fn message(&mut self) -> Value {
        let delivery = soon("a message to KAZOO", self.answers.next()).await.unwrap().unwrap();
        let content_type = delivery.properties.content_type().clone();
        assert_eq!(content_type.unwrap().as_str(), "application/json");
        serde_json::from_slice(&delivery.data).unwrap()
    }

    /// Whether no message arrives within `time`.
    pub async fn is_silent_for(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.answers.next()).await.is_err()
    }
}
