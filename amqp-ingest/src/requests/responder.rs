//! One broker's requests: taken from a queue, answered to the exchange `targeted`.
//!
//! It has a connection of its own: what goes wrong here holds up no events. All ingests share the queue, so that one
//! of them answers each request. It is not durable, and goes with the last of them; what lies in it for longer than
//! anybody waits for an answer goes too. A request is acknowledged when it is answered, so that another ingest
//! answers it if this one dies, or has lost NATS: without NATS no requests are taken.

use std::{sync::Arc, time::Duration};

use blackhole_common::backoff::Backoff;
use futures_util::{StreamExt, stream::FuturesUnordered};
use lapin::{
    BasicProperties, Channel, Connection, Consumer, ExchangeKind,
    message::Delivery,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
        ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{Desk, edges::Edges, listing, modules};
use crate::{
    amqp::{self, declare_exchange, short},
    config::{AmqpConfig, BrokerConfig},
    error::IngestError,
    outage::Outage,
};

/// Where answers go.
const TARGETED: &str = "targeted";
/// So many requests are answered at once; the rest waits in the queue.
const AT_ONCE: u16 = 16;
/// A request that is older has nobody waiting for it.
const REQUEST_MILLISECONDS: i64 = 5_000;
/// More requests than this do not wait.
const MOST_WAITING: i64 = 1_000;
/// What connects and declares must have been answered within this.
const SET_UP_WITHIN: Duration = Duration::from_secs(10);
/// A broker confirms a message within this, or it may not have it.
const CONFIRM_WITHIN: Duration = Duration::from_secs(3);
/// After the shutdown, what is being answered has this long.
const FINISH_WITHIN: Duration = Duration::from_secs(2);

/// Keeps one broker's requests answered.
#[derive(Debug)]
pub(super) struct Responder {
    /// The broker.
    pub(super) place: BrokerConfig,
    /// The queue.
    pub(super) queue: String,
    /// Who answers.
    pub(super) desk: Arc<Desk>,
    /// Who is asked.
    pub(super) edges: Arc<Edges>,
    /// The channel, while there is one.
    pub(super) channel: watch::Sender<Option<Channel>>,
    /// Whether it is there.
    pub(super) outage: Outage,
}

/// The queue's name: deployments that have queues of their own for events answer on their own.
pub(super) fn queue_name(config: &AmqpConfig) -> String {
    format!("{}{}", config.queue, crate::config::REQUESTS_SUFFIX)
}

impl Responder {
    /// Answers until `shutdown`.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let mut backoff = Backoff::for_brokers();
        loop {
            let result = self.connect_and_answer(&mut backoff, &shutdown).await;
            self.channel.send_replace(None);
            let Err(error) = result else { return };
            self.outage.began(&error);
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(backoff.next_wait()) => {}
            }
        }
    }

    /// Comes back after the shutdown, or with the reason of a loss.
    async fn connect_and_answer(
        &mut self,
        backoff: &mut Backoff,
        shutdown: &CancellationToken,
    ) -> Result<(), IngestError> {
        let set_up = async {
            self.edges.until_listening(true).await;
            timeout(SET_UP_WITHIN, self.set_up()).await
        };
        let set_up = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            set_up = set_up => set_up,
        };
        let (connection, channel, consumer) =
            set_up.map_err(|_| IngestError::AmqpTimeout(SET_UP_WITHIN.as_secs()))??;
        backoff.reset();
        self.outage.ended();
        self.channel.send_replace(Some(channel.clone()));
        let result = self.answer_all(&channel, consumer, shutdown).await;
        let _ = timeout(FINISH_WITHIN, connection.close(200, "end".into())).await;
        result
    }

    async fn set_up(&self) -> Result<(Connection, Channel, Consumer), IngestError> {
        let connection = amqp::connect(&self.place.url, "amqp-ingest requests").await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let exchanges = [
            (listing::EXCHANGE, ExchangeKind::Topic),
            (modules::EXCHANGE, ExchangeKind::Topic),
            (TARGETED, ExchangeKind::Direct),
        ];
        for (exchange, kind) in exchanges {
            declare_exchange(&channel, exchange, kind, ExchangeDeclareOptions::default()).await?;
        }
        let queue = short(&self.queue)?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(REQUEST_MILLISECONDS));
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(MOST_WAITING));
        let options = QueueDeclareOptions { auto_delete: true, ..Default::default() };
        channel.queue_declare(queue.clone(), options, arguments).await?;
        for (exchange, key) in [(listing::EXCHANGE, listing::KEY), (modules::EXCHANGE, modules::KEY)] {
            let (options, none) = (QueueBindOptions::default(), FieldTable::default());
            channel.queue_bind(queue.clone(), exchange.into(), key.into(), options, none).await?;
        }
        channel.basic_qos(AT_ONCE, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions::default();
        let consumer =
            channel.basic_consume(queue, "amqp-ingest".into(), options, FieldTable::default()).await?;
        Ok((connection, channel, consumer))
    }

    async fn answer_all(
        &self,
        channel: &Channel,
        mut consumer: Consumer,
        shutdown: &CancellationToken,
    ) -> Result<(), IngestError> {
        // The broker gives no more of them than `AT_ONCE`.
        let mut answering = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.edges.until_listening(false) => return Err(IngestError::NatsAway),
                Some(answered) = answering.next() => answered?,
                delivery = consumer.next() => match delivery {
                    Some(Ok(delivery)) => answering.push(self.answer(channel, delivery)),
                    Some(Err(error)) => return Err(error.into()),
                    None => return Err(IngestError::ConsumerCancelled(self.queue.clone())),
                },
            }
        }
        // What is not answered in this time, another ingest answers.
        let rest = async { while answering.next().await.is_some() {} };
        let _ = timeout(FINISH_WITHIN, rest).await;
        Ok(())
    }

    async fn answer(&self, channel: &Channel, delivery: Delivery) -> Result<(), IngestError> {
        let reply = match delivery.routing_key.as_str() {
            listing::KEY => self.desk.list(&delivery.data).await?,
            modules::KEY => self.desk.switch(&delivery.data).await?,
            _ => None,
        };
        if let Some(reply) = reply {
            publish(channel, &reply.server_id, &reply.body).await?;
        }
        channel.basic_ack(delivery.delivery_tag, BasicAckOptions::default()).await?;
        Ok(())
    }
}

/// Publishes to whoever has this `Server-ID`, and returns when the broker has it. A broker has no more to do with a
/// message that is for nobody.
///
/// # Errors
/// When the broker does not say so. It may have it all the same.
pub(super) async fn publish(channel: &Channel, server_id: &str, body: &[u8]) -> Result<(), IngestError> {
    let properties = BasicProperties::default().with_content_type("application/json".into());
    let (key, options) = (short(server_id)?, BasicPublishOptions::default());
    let confirmed = async {
        let sent = channel.basic_publish(TARGETED.into(), key, options, body, properties).await?;
        Ok::<_, IngestError>(sent.await?)
    };
    let confirmation = timeout(CONFIRM_WITHIN, confirmed).await;
    match confirmation.map_err(|_| IngestError::AmqpTimeout(CONFIRM_WITHIN.as_secs()))?? {
        confirmation if confirmation.is_ack() => Ok(()),
        _ => Err(IngestError::NotTaken(TARGETED)),
    }
}
