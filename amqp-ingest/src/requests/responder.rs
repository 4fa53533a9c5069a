//! Consumes one broker's requests from a queue and publishes the responses to the exchange `targeted`.
//!
//! It uses a separate connection, so failures here do not affect events. All ingests share the queue, and each
//! request is handled by one of them. The queue is deleted with its last consumer, and requests expire when nobody
//! waits for a response any more. A request is acknowledged after the response, so another ingest handles it if this
//! one dies or loses NATS. Without NATS no requests are consumed.

use std::{pin::pin, sync::Arc, time::Duration};

use blackhole_common::{backoff::Backoff, catalogue::ExchangeType};
use futures_util::{StreamExt, stream::FuturesUnordered};
use lapin::{
    Channel, Connection, Consumer, Event,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ConfirmSelectOptions},
    types::{AMQPValue, FieldTable},
};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    broker_channel::{self, OpenChannel, TARGETED_EXCHANGE},
    edges::Edges,
    handler::RequestHandler,
    listing, modules,
};
use crate::{
    amqp::{self, Declarer, ForeignExchanges, WantedExchange, WantedQueue, short_string},
    bound_part::BoundPart,
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
/// How long the broker may take for each step of the set-up on lapin's connection.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long requests in progress, and closing the connection, may take after the shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Responds to one broker's requests.
#[derive(Debug)]
pub(super) struct Responder {
    /// The broker.
    pub(super) endpoint: BrokerConfig,
    /// The name of the queue.
    pub(super) queue: String,
    /// How often to look whether it is still bound.
    pub(super) check_interval: Duration,
    /// Whether it is.
    pub(super) part: BoundPart,
    /// Whether the broker takes messages.
    pub(super) publishing: BoundPart,
    /// Handles the requests.
    pub(super) handler: Arc<RequestHandler>,
    /// Whether NATS is connected.
    pub(super) edges: Arc<Edges>,
    /// Receives the channel while it is open.
    pub(super) channel: watch::Sender<Option<OpenChannel>>,
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
            self.set_up().await
        };
        let set_up = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            set_up = set_up => set_up,
        };
        let SetUp { connection, channel, consumer, topology } = set_up?;
        backoff.reset();
        self.status.mark_up();
        let (alarm, blocked) = watch::channel(None);
        let open = OpenChannel { channel, blocked };
        self.channel.send_replace(Some(open.clone()));
        let Responder { handler, edges, queue, check_interval, part, publishing, .. } = self;
        // Nobody has this `Server-ID`. Without the exchange, the message would close the channel.
        let probe = topology.has_targeted.then(|| (open.channel.clone(), queue.clone()));
        let responding = Responding { handler, edges, queue };
        let result = tokio::select! {
            result = responding.respond_to_all(&open, consumer, shutdown) => result,
            error = topology.watch(*check_interval, part) => Err(error),
            ended = follow_alarms(&connection, probe, *check_interval, alarm, publishing) => {
                Err(ended.err().unwrap_or(IngestError::BrokerUnavailable))
            }
        };
        let _ = timeout(DRAIN_TIMEOUT, connection.close(200, "end".into())).await;
        result
    }

    async fn set_up(&mut self) -> Result<SetUp, IngestError> {
        // It proves that the broker answers: lapin keeps the threads of an attempt that is given up.
        let mut declarer = Declarer::open(&self.endpoint.url, "amqp-ingest requests topology").await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(REQUEST_TTL_MILLIS));
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(MAX_QUEUE_LEN));
        let queue = WantedQueue { name: self.queue.clone(), durable: false, auto_delete: true, arguments };
        declarer.ensure_queue(&queue).await?.map_err(|refusal| IngestError::PropertyMismatch {
            what: "queue",
            name: self.queue.clone(),
            reason: refusal.reason,
            remedy: format!("delete it (`rabbitmqctl delete_queue {}`)", self.queue),
        })?;
        let connection = amqp::connect(declarer.broker(), "amqp-ingest requests").await?;
        let channel = step(connection.create_channel()).await?;
        step(channel.confirm_select(ConfirmSelectOptions::default())).await?;
        step(channel.basic_qos(PREFETCH, BasicQosOptions::default())).await?;
        let (name, options) = (short_string(&self.queue)?, BasicConsumeOptions::default());
        let consume = channel.basic_consume(name, "amqp-ingest".into(), options, FieldTable::default());
        let consumer = step(consume).await?;
        let mut topology = Topology {
            declarer,
            exchanges: self.exchanges(),
            foreign: ForeignExchanges::default(),
            has_targeted: false,
        };
        topology.ensure(&mut self.part).await?;
        Ok(SetUp { connection, channel, consumer, topology })
    }

    /// The exchanges that are used.
    fn exchanges(&self) -> [WantedExchange; 3] {
        let exchange = |name: &str, kind, key: Option<&str>| WantedExchange {
            name: name.to_owned(),
            kind,
            durable: false,
            bindings: key.map(|key| (self.queue.clone(), key.to_owned())).into_iter().collect(),
        };
        [
            exchange(listing::EXCHANGE, ExchangeType::Topic, Some(listing::KEY)),
            exchange(modules::EXCHANGE, ExchangeType::Topic, Some(modules::KEY)),
            exchange(TARGETED_EXCHANGE, ExchangeType::Direct, None),
        ]
    }
}

/// An open connection.
struct SetUp {
    connection: Connection,
    channel: Channel,
    consumer: Consumer,
    topology: Topology,
}

/// The exchanges that are used, with the queue's bindings.
struct Topology {
    declarer: Declarer,
    exchanges: [WantedExchange; 3],
    foreign: ForeignExchanges,
    /// Whether [`TARGETED_EXCHANGE`] exists.
    has_targeted: bool,
}

/// Follows the broker's alarms until the connection ends. `probe` is where to publish messages that go to nobody, every
/// `interval`: the broker tells an alarm only to those who publish during it.
async fn follow_alarms(
    connection: &Connection,
    probe: Option<(Channel, String)>,
    interval: Duration,
    alarm: watch::Sender<Option<String>>,
    publishing: &mut BoundPart,
) -> Result<(), IngestError> {
    let mut events = pin!(connection.events_listener());
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // At most one.
    let mut probing = FuturesUnordered::new();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            Some(confirmed) = probing.next() => {
                confirmed?;
                publishing.set_bound(Ok(()));
                continue;
            }
            _ = ticks.tick(), if probing.is_empty() => {
                if let Some((channel, server_id)) = &probe {
                    probing.push(async {
                        broker_channel::send(channel, server_id, b"{}").await?.await?;
                        Ok::<_, IngestError>(())
                    });
                }
                continue;
            }
        };
        let reason = match event {
            Some(Event::ConnectionBlocked(reason)) => Some(reason),
            Some(Event::ConnectionUnblocked) => None,
            Some(_) => continue,
            None => return Ok(()),
        };
        publishing.set_bound(reason.clone().map_or(Ok(()), Err));
        alarm.send_replace(reason);
    }
}

async fn step<T>(step: impl Future<Output = lapin::Result<T>>) -> Result<T, IngestError> {
    let timed_out = |_| IngestError::AmqpTimeout(STEP_TIMEOUT.as_secs());
    Ok(timeout(STEP_TIMEOUT, step).await.map_err(timed_out)??)
}

impl Topology {
    /// Declares the exchanges and binds the queue.
    async fn ensure(&mut self, part: &mut BoundPart) -> Result<(), IngestError> {
        let results = self.declarer.ensure_exchanges(&self.exchanges, &mut self.foreign).await?;
        self.has_targeted = results.last().is_some_and(Result::is_ok);
        part.set_bound(results.into_iter().collect());
        Ok(())
    }

    /// Does so again and again. It returns when the connection fails.
    async fn watch(mut self, check_interval: Duration, part: &mut BoundPart) -> IngestError {
        loop {
            let looked = async {
                self.declarer.idle(check_interval).await?;
                self.ensure(part).await
            };
            if let Err(error) = looked.await {
                return error;
            }
        }
    }
}

/// What responding needs.
struct Responding<'r> {
    handler: &'r RequestHandler,
    edges: &'r Edges,
    queue: &'r str,
}

impl Responding<'_> {
    async fn respond_to_all(
        &self,
        channel: &OpenChannel,
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
                    None => return Err(IngestError::ConsumerCancelled(self.queue.to_owned())),
                },
            }
        }
        // Another ingest handles what is not completed in time.
        let rest = async { while responding.next().await.is_some() {} };
        let _ = timeout(DRAIN_TIMEOUT, rest).await;
        Ok(())
    }

    async fn respond(&self, channel: &OpenChannel, delivery: Delivery) -> Result<(), IngestError> {
        let response = match delivery.routing_key.as_str() {
            listing::KEY => self.handler.list_sockets(&delivery.data).await?,
            modules::KEY => self.handler.switch_module(&delivery.data).await?,
            _ => None,
        };
        if let Some(response) = response {
            match broker_channel::publish(channel, &response.server_id, &response.body).await {
                // Another connection would be blocked too. Nobody waits for the response when the alarm ends.
                Err(error @ IngestError::BrokerBlocked(_)) => {
                    self.handler.log_failure("a response to KAZOO was dropped", &error);
                }
                result => result?,
            }
        }
        channel.channel.basic_ack(delivery.delivery_tag, BasicAckOptions::default()).await?;
        Ok(())
    }
}
