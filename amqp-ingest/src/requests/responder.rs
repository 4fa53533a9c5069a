//! Consumes one broker's requests from a queue and publishes the responses to the exchange `targeted`.
//!
//! It uses a separate connection, so failures here do not affect events. All ingests share the queue, and each
//! request is handled by one of them. The queue is deleted with its last consumer, and requests expire when nobody
//! waits for a response any more. A request is acknowledged after the response, so another ingest handles it if this
//! one dies or loses NATS. Without NATS no requests are consumed.

use std::{sync::Arc, time::Duration};

use blackhole_common::backoff::Backoff;
use futures_util::{StreamExt, stream::FuturesUnordered};
use lapin::{
    Channel, Connection, Consumer, ExchangeKind,
    message::Delivery,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
        QueueBindOptions, QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    broker_channel::{self, TARGETED_EXCHANGE},
    edges::Edges,
    handler::RequestHandler,
    listing, modules,
};
use crate::{
    amqp::{self, declare_exchange, short_string},
    config::BrokerConfig,
    connection_status::ConnectionStatus,
    error::IngestError,
};

/// Requests handled concurrently; the rest waits in the queue.
const PREFETCH: u16 = 16;
/// The TTL of a request in the queue: nobody waits for the response after this.
const REQUEST_TTL_MILLIS: i64 = 5_000;
/// Maximum length of the queue.
const MAX_QUEUE_LEN: i64 = 1_000;
/// Connecting and declaring must complete within this.
const SETUP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long requests in progress, and closing the connection, may take after the shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Responds to one broker's requests.
#[derive(Debug)]
pub(super) struct Responder {
    /// The broker.
    pub(super) endpoint: BrokerConfig,
    /// The name of the queue.
    pub(super) queue: String,
    /// Handles the requests.
    pub(super) handler: Arc<RequestHandler>,
    /// Whether NATS is connected.
    pub(super) edges: Arc<Edges>,
    /// Receives the channel while it is open.
    pub(super) channel: watch::Sender<Option<Channel>>,
    /// The status of the connection.
    pub(super) status: ConnectionStatus,
}

impl Responder {
    /// Responds until `shutdown`.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let mut backoff = Backoff::for_brokers();
        loop {
            let result = self.connect_and_respond(&mut backoff, &shutdown).await;
            self.channel.send_replace(None);
            let Err(error) = result else { return };
            self.status.mark_down(&error);
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(backoff.next_wait()) => {}
            }
        }
    }

    /// Returns `Ok` after the shutdown, or the error that ended the connection.
    async fn connect_and_respond(
        &mut self,
        backoff: &mut Backoff,
        shutdown: &CancellationToken,
    ) -> Result<(), IngestError> {
        let set_up = async {
            self.edges.wait_for_connected(true).await;
            timeout(SETUP_TIMEOUT, self.set_up()).await
        };
        let set_up = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            set_up = set_up => set_up,
        };
        let (connection, channel, consumer) =
            set_up.map_err(|_| IngestError::AmqpTimeout(SETUP_TIMEOUT.as_secs()))??;
        backoff.reset();
        self.status.mark_up();
        self.channel.send_replace(Some(channel.clone()));
        let result = self.respond_to_all(&channel, consumer, shutdown).await;
        let _ = timeout(DRAIN_TIMEOUT, connection.close(200, "end".into())).await;
        result
    }

    async fn set_up(&self) -> Result<(Connection, Channel, Consumer), IngestError> {
        let connection = amqp::connect(&self.endpoint.url, "amqp-ingest requests").await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let exchanges = [
            (listing::EXCHANGE, ExchangeKind::Topic),
            (modules::EXCHANGE, ExchangeKind::Topic),
            (TARGETED_EXCHANGE, ExchangeKind::Direct),
        ];
        for (exchange, kind) in exchanges {
            declare_exchange(&channel, exchange, kind, ExchangeDeclareOptions::default()).await?;
        }
        let queue = short_string(&self.queue)?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(REQUEST_TTL_MILLIS));
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(MAX_QUEUE_LEN));
        let options = QueueDeclareOptions { auto_delete: true, ..Default::default() };
        channel.queue_declare(queue.clone(), options, arguments).await?;
        for (exchange, key) in [(listing::EXCHANGE, listing::KEY), (modules::EXCHANGE, modules::KEY)] {
            let (options, none) = (QueueBindOptions::default(), FieldTable::default());
            channel.queue_bind(queue.clone(), exchange.into(), key.into(), options, none).await?;
        }
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions::default();
        let consumer =
            channel.basic_consume(queue, "amqp-ingest".into(), options, FieldTable::default()).await?;
        Ok((connection, channel, consumer))
    }

    async fn respond_to_all(
        &self,
        channel: &Channel,
        mut consumer: Consumer,
        shutdown: &CancellationToken,
    ) -> Result<(), IngestError> {
        // The broker sends at most `PREFETCH` of them.
        let mut responding = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.edges.wait_for_connected(false) => return Err(IngestError::NatsUnavailable),
                Some(responded) = responding.next() => responded?,
                delivery = consumer.next() => match delivery {
                    Some(Ok(delivery)) => responding.push(self.respond(channel, delivery)),
                    Some(Err(error)) => return Err(error.into()),
                    None => return Err(IngestError::ConsumerCancelled(self.queue.clone())),
                },
            }
        }
        // Another ingest handles what is not completed in time.
        let rest = async { while responding.next().await.is_some() {} };
        let _ = timeout(DRAIN_TIMEOUT, rest).await;
        Ok(())
    }

    async fn respond(&self, channel: &Channel, delivery: Delivery) -> Result<(), IngestError> {
        let response = match delivery.routing_key.as_str() {
            listing::KEY => self.handler.list_sockets(&delivery.data).await?,
            modules::KEY => self.handler.switch_module(&delivery.data).await?,
            _ => None,
        };
        if let Some(response) = response {
            broker_channel::publish(channel, &response.server_id, &response.body).await?;
        }
        channel.basic_ack(delivery.delivery_tag, BasicAckOptions::default()).await?;
        Ok(())
    }
}
