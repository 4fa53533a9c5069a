//! Consumes one broker's requests from a queue and publishes the responses to the exchange `targeted`.
//!
//! It uses a separate connection, so failures here do not affect events. All ingests share the queue, and each
//! request is handled by one of them. Requests expire when nobody waits for a response any more. A request is acknowledged after the response, so another ingest handles it if this
//! one dies or loses NATS. Without NATS no requests are consumed.

use std::{pin::pin, sync::Arc, time::Duration};

use blackhole_common::backoff::Backoff;
use futures_util::{StreamExt, stream::FuturesUnordered};
use lapin::{
    Channel, Connection, Consumer, Event,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ConfirmSelectOptions},
    types::FieldTable,
};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    broker_channel::{self, OpenChannel},
    edges::Edges,
    handler::RequestHandler,
    listing, modules,
    topology::{self, Topology},
};
use crate::{
    amqp::{self, Declarer, short_string},
    bound_part::BoundPart,
    config::BrokerConfig,
    connection_status::ConnectionStatus,
    error::IngestError,
};

/// Requests handled concurrently; the rest waits in the queue.
const PREFETCH: u16 = 16;
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
    /// The name of the queue of earlier releases.
    pub(super) former_queue: String,
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
        topology::ensure_queue(&mut declarer, &self.queue).await?;
        let connection = amqp::connect(declarer.broker(), "amqp-ingest requests").await?;
        let channel = step(connection.create_channel()).await?;
        step(channel.confirm_select(ConfirmSelectOptions::default())).await?;
        step(channel.basic_qos(PREFETCH, BasicQosOptions::default())).await?;
        let (name, options) = (short_string(&self.queue)?, BasicConsumeOptions::default());
        let consume = channel.basic_consume(name, "amqp-ingest".into(), options, FieldTable::default());
        let consumer = step(consume).await?;
        let mut topology = Topology::new(declarer, &self.queue, self.former_queue.clone());
        topology.ensure(&mut self.part).await?;
        Ok(SetUp { connection, channel, consumer, topology })
    }
}

/// An open connection.
struct SetUp {
    connection: Connection,
    channel: Channel,
    consumer: Consumer,
    topology: Topology,
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
