//! A connection to a broker: the handshake, methods, deliveries of one consumer, heartbeats.
//!
//! lapin is used for what publishes. It reads on a thread of its own, so that each delivery wakes three threads in turn;
//! it closes the connection on a message property that is not UTF-8; and it keeps its threads if a broker accepts a
//! connection and stays silent.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use amq_protocol::{
    auth::{Credentials, SASLMechanism},
    frame::{AMQPContentHeader, AMQPFrame, WriteContext, gen_frame, parse_frame},
};
use blackhole_common::{
    clock,
    net::{Dial, Socket, invalid},
};
use bytes::BufMut;
use lapin::{
    protocol::{
        AMQPClass::{self, Basic, Channel, Connection as Conn, Queue, Tx},
        basic, channel, connection, queue, tx,
    },
    types::{AMQPValue, ChannelId, FieldTable, ShortString},
    uri::{AMQPScheme, AMQPUri},
};
use tokio::time::timeout;

use super::{
    frame::{Delivery, FrameDecoder, Incoming, MAX_FRAME_BYTES},
    short_string,
};
use crate::{checkpoint::Checkpoint, config::AmqpConfig, error::IngestError};

const PROTOCOL_HEADER: &[u8] = b"AMQP\0\0\x09\x01";
/// The channel for methods of the class `connection`.
const CONNECTION_CHANNEL: ChannelId = 0;
/// The channel that consumes.
const CHANNEL: ChannelId = 1;
/// The number of channels asked for.
const MAX_CHANNELS: u16 = 256;
const REPLY_SUCCESS: u16 = 200;
/// The class `basic`, in content headers.
const BASIC_CLASS: u16 = 60;
/// How long the broker may be silent during the handshake, and while it answers methods.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// An open connection.
pub(super) struct Connection {
    socket: Socket,
    decoder: FrameDecoder,
    /// The queue that is consumed, if any.
    queue: ShortString,
    /// The queue for checkpoints; `None` if acknowledgements are not transactions.
    checkpoints: Option<ShortString>,
    /// A transaction was sent and is not confirmed: the broker accepts no further one.
    is_committing: bool,
    max_channels: u16,
    /// The heartbeat interval; zero disables heartbeats.
    heartbeat: Duration,
    last_received: Instant,
    last_sent: Instant,
}

impl Connection {
    /// Connects over `network`. The broker lists the connection as `name`.
    ///
    /// # Errors
    /// If the broker cannot be reached, stays silent or refuses the connection.
    pub(super) async fn open(
        network: &dyn Dial,
        uri: &AMQPUri,
        name: &str,
    ) -> Result<Connection, IngestError> {
        let socket = network.dial(&uri.authority.host, uri.authority.port).await?;
        let now = clock::now();
        let mut connection = Connection {
            socket,
            decoder: FrameDecoder::default(),
            queue: ShortString::default(),
            checkpoints: None,
            is_committing: false,
            max_channels: MAX_CHANNELS,
            heartbeat: Duration::ZERO,
            last_received: now,
            last_sent: now,
        };
        if uri.scheme == AMQPScheme::AMQPS {
            let encrypted = timeout(ANSWER_TIMEOUT, connection.socket.encrypt(&uri.authority.host, None));
            encrypted.await.map_err(|_| IngestError::AmqpTimeout(ANSWER_TIMEOUT.as_secs()))??;
        }
        connection.handshake(uri, name).await?;
        Ok(connection)
    }

    /// Starts to consume from the queue with at most `prefetch` unacknowledged deliveries. The broker lists the consumer
    /// as `name`. Acknowledgements store checkpoints if they are transactions. Returns whether nobody else consumes from
    /// the queue.
    ///
    /// # Errors
    /// If the broker refuses.
    pub(super) async fn consume(
        &mut self,
        name: &str,
        config: &AmqpConfig,
        is_transactional: bool,
    ) -> Result<bool, IngestError> {
        self.queue = short_string(&config.queue)?;
        self.checkpoints = is_transactional.then(|| short_string(&config.checkpoint_queue())).transpose()?;
        self.call(CHANNEL, Channel(channel::AMQPMethod::Open(channel::Open {}))).await?;
        let qos = basic::Qos { prefetch_count: config.prefetch, global: false };
        self.call(CHANNEL, Basic(basic::AMQPMethod::Qos(qos))).await?;
        if is_transactional {
            self.call(CHANNEL, Tx(tx::AMQPMethod::Select(tx::Select {}))).await?;
        }
        let declare = queue::Declare { queue: self.queue.clone(), passive: true, ..Default::default() };
        let declared = self.call(CHANNEL, Queue(queue::AMQPMethod::Declare(declare))).await?;
        let others = match declared {
            Queue(queue::AMQPMethod::DeclareOk(found)) => found.consumer_count,
            _ => 0,
        };
        let consume = basic::Consume {
            queue: self.queue.clone(),
            consumer_tag: short_string(name)?,
            ..Default::default()
        };
        // `next` skips `consume-ok`: waiting for it here would drop deliveries that precede it.
        self.queue_method(CHANNEL, Basic(basic::AMQPMethod::Consume(consume)));
        self.flush().await?;
        Ok(others == 0)
    }

    /// The broker's address.
    pub(super) fn peer(&self) -> SocketAddr {
        self.socket.peer
    }

    /// Whether acknowledgements store checkpoints.
    pub(super) fn is_transactional(&self) -> bool {
        self.checkpoints.is_some()
    }

    /// How many channels the broker allows.
    pub(super) fn max_channels(&self) -> u16 {
        self.max_channels
    }

    async fn handshake(&mut self, uri: &AMQPUri, name: &str) -> Result<(), IngestError> {
        self.socket.to_send.put_slice(PROTOCOL_HEADER);
        self.flush().await?;
        self.read_method().await?;
        let mechanism = uri.query.auth_mechanism.unwrap_or(SASLMechanism::Plain);
        let user = Credentials::from(uri.authority.userinfo.clone());
        let start_ok = connection::StartOk {
            client_properties: client_properties(name),
            mechanism: mechanism.to_string().into(),
            response: user.sasl_auth_string(mechanism),
            locale: "en_US".into(),
        };
        let reply = self.call(CONNECTION_CHANNEL, Conn(connection::AMQPMethod::StartOk(start_ok))).await?;
        let Conn(connection::AMQPMethod::Tune(tune)) = reply else {
            return Err(IngestError::Handshake(format!("{mechanism} authentication needs further steps")));
        };
        // 0 means no limit, or no heartbeats.
        let negotiate = |ours: u32, theirs: u32| if theirs == 0 { ours } else { ours.min(theirs) };
        let heartbeat = negotiate(uri.query.heartbeat.unwrap_or_default().into(), tune.heartbeat.into());
        self.heartbeat = Duration::from_secs(heartbeat.into());
        let max_channels = negotiate(MAX_CHANNELS.into(), tune.channel_max.into());
        self.max_channels = u16::try_from(max_channels).unwrap_or(MAX_CHANNELS);
        let tune_ok = connection::TuneOk {
            channel_max: self.max_channels,
            frame_max: negotiate(MAX_FRAME_BYTES, tune.frame_max),
            heartbeat: u16::try_from(heartbeat).unwrap_or_default(),
        };
        self.queue_method(CONNECTION_CHANNEL, Conn(connection::AMQPMethod::TuneOk(tune_ok)));
        let open = connection::Open { virtual_host: short_string(&uri.vhost)? };
        self.call(CONNECTION_CHANNEL, Conn(connection::AMQPMethod::Open(open))).await?;
        Ok(())
    }

    /// Sends a method and waits for the reply. Only before consuming.
    async fn call(&mut self, channel: ChannelId, method: AMQPClass) -> Result<AMQPClass, IngestError> {
        self.queue_method(channel, method);
        self.flush().await?;
        self.read_method().await
    }

    async fn read_method(&mut self) -> Result<AMQPClass, IngestError> {
        match self.read_any_method().await? {
            (_, Channel(channel::AMQPMethod::Close(close))) => {
                Err(closed(close.reply_code, close.reply_text))
            }
            (_, method) => Ok(method),
        }
    }

    /// Reads the next method and its channel. Only before consuming.
    ///
    /// # Errors
    /// If the broker closes the connection, or is silent for [`ANSWER_TIMEOUT`].
    pub(super) async fn read_any_method(&mut self) -> Result<(ChannelId, AMQPClass), IngestError> {
        loop {
            match self.decoder.next(&mut self.socket.read).map_err(invalid)? {
                Some(Incoming::Method(frame)) => return parse_method(&frame),
                Some(Incoming::Delivery(_) | Incoming::Heartbeat) => {}
                None => timeout(ANSWER_TIMEOUT, self.fill())
                    .await
                    .map_err(|_| IngestError::AmqpTimeout(ANSWER_TIMEOUT.as_secs()))??,
            }
        }
    }

    /// Returns the next delivery in the read buffer, `None` if there is no complete one.
    ///
    /// # Errors
    /// If the broker has cancelled the consumer, closed the channel or the connection, or reads no more from it.
    pub(super) fn next(&mut self) -> Result<Option<Delivery>, IngestError> {
        loop {
            match self.decoder.next(&mut self.socket.read).map_err(invalid)? {
                None => return Ok(None),
                Some(Incoming::Delivery(delivery)) => return Ok(Some(delivery)),
                Some(Incoming::Method(frame)) => match parse_method(&frame)?.1 {
                    Basic(basic::AMQPMethod::Cancel(_)) => {
                        return Err(IngestError::ConsumerCancelled(self.queue.to_string()));
                    }
                    Channel(channel::AMQPMethod::Close(close)) => {
                        return Err(closed(close.reply_code, close.reply_text));
                    }
                    Conn(connection::AMQPMethod::Blocked(blocked)) => {
                        return Err(IngestError::BrokerBlocked(blocked.reason.to_string()));
                    }
                    Tx(tx::AMQPMethod::CommitOk(_)) => self.is_committing = false,
                    _ => {}
                },
                Some(Incoming::Heartbeat) => {}
            }
        }
    }

    /// Whether the broker has not confirmed the last [`Connection::settle`].
    pub(super) fn is_committing(&self) -> bool {
        self.is_committing
    }

    /// Queues the rejection of deliveries, which sends them to the dead-letter exchange, and the acknowledgement of all
    /// others up to a tag. In a transaction, `checkpoint` replaces the previous one: the broker does all of it or
    /// nothing.
    pub(super) fn settle(
        &mut self,
        rejected: &[u64],
        ack_up_to: Option<u64>,
        checkpoint: Option<Checkpoint>,
    ) {
        for tag in rejected {
            let reject = basic::Reject { delivery_tag: *tag, requeue: false };
            self.queue_method(CHANNEL, Basic(basic::AMQPMethod::Reject(reject)));
        }
        if let Some(delivery_tag) = ack_up_to {
            let ack = basic::Ack { delivery_tag, multiple: true };
            self.queue_method(CHANNEL, Basic(basic::AMQPMethod::Ack(ack)));
        }
        let Some(checkpoints) = self.checkpoints.clone() else { return };
        if let Some(body) = checkpoint.map(Checkpoint::to_json) {
            // The default exchange routes to the queue of this name.
            let publish = basic::Publish { routing_key: checkpoints, ..Default::default() };
            self.queue_method(CHANNEL, Basic(basic::AMQPMethod::Publish(publish)));
            let header = AMQPContentHeader {
                class_id: BASIC_CLASS,
                body_size: body.len() as u64,
                properties: basic::AMQPProperties::default(),
            };
            self.queue_frame(&AMQPFrame::Header(CHANNEL, header));
            self.queue_frame(&AMQPFrame::Body(CHANNEL, body));
        }
        self.queue_method(CHANNEL, Tx(tx::AMQPMethod::Commit(tx::Commit {})));
        self.is_committing = true;
    }

    /// Queues a method for the next flush.
    pub(super) fn queue_method(&mut self, channel: ChannelId, method: AMQPClass) {
        self.queue_frame(&AMQPFrame::Method(channel, method));
    }

    fn queue_frame(&mut self, frame: &AMQPFrame) {
        // Writing to memory cannot fail.
        if let Ok(written) = gen_frame::<Vec<u8>>(frame)(WriteContext::from(Vec::new())) {
            self.socket.to_send.put_slice(&written.into_inner().0);
        }
    }

    /// Sends everything queued; see [`Socket::flush`].
    ///
    /// # Errors
    /// If the connection has failed, or the broker does not read.
    pub(super) async fn flush(&mut self) -> Result<(), IngestError> {
        if !self.socket.to_send.is_empty() {
            self.socket.flush().await?;
            self.last_sent = clock::now();
        }
        Ok(())
    }

    /// Reads into the read buffer; see [`Socket::fill`].
    ///
    /// # Errors
    /// If the connection has failed.
    pub(super) async fn fill(&mut self) -> Result<(), IngestError> {
        self.socket.fill().await?;
        self.last_received = clock::now();
        Ok(())
    }

    /// When to call [`Connection::check_heartbeat`] next; `None` without heartbeats.
    pub(super) fn next_heartbeat_check(&self) -> Option<Instant> {
        (!self.heartbeat.is_zero())
            .then(|| (self.last_sent + self.heartbeat / 2).min(self.last_received + 2 * self.heartbeat))
    }

    /// Queues a heartbeat if nothing was sent for half an interval.
    ///
    /// # Errors
    /// [`IngestError::HeartbeatTimeout`] if nothing was received for two intervals, although `is_reading`.
    pub(super) fn check_heartbeat(&mut self, is_reading: bool) -> Result<(), IngestError> {
        if !is_reading {
            self.last_received = clock::now();
        }
        let now = clock::now();
        if now - self.last_received >= 2 * self.heartbeat {
            return Err(IngestError::HeartbeatTimeout(2 * self.heartbeat.as_secs()));
        }
        if now - self.last_sent >= self.heartbeat / 2 {
            self.queue_frame(&AMQPFrame::Heartbeat);
        }
        Ok(())
    }

    /// Closes the connection and waits for `close-ok`. The broker has then processed everything sent before, and
    /// requeues unacknowledged deliveries.
    ///
    /// # Errors
    /// If the connection fails before that.
    pub(super) async fn close(&mut self) -> Result<(), IngestError> {
        let close =
            connection::Close { reply_code: REPLY_SUCCESS, reply_text: "end".into(), ..Default::default() };
        self.queue_method(CONNECTION_CHANNEL, Conn(connection::AMQPMethod::Close(close)));
        self.flush().await?;
        while !matches!(self.read_method().await?, Conn(connection::AMQPMethod::CloseOk(_))) {}
        Ok(())
    }
}

/// The properties that the broker lists, and the capabilities: the broker reports cancelled consumers, the reason of a
/// failed authentication, and that it reads no more from a connection that publishes.
fn client_properties(name: &str) -> FieldTable {
    let table = |members: &[(&str, AMQPValue)]| {
        let mut table = FieldTable::default();
        for (name, value) in members {
            table.insert((*name).into(), value.clone());
        }
        table
    };
    let capabilities = table(&[
        ("consumer_cancel_notify", AMQPValue::Boolean(true)),
        ("authentication_failure_close", AMQPValue::Boolean(true)),
        ("connection.blocked", AMQPValue::Boolean(true)),
    ]);
    table(&[
        ("product", AMQPValue::LongString("blackhole".into())),
        ("version", AMQPValue::LongString(env!("CARGO_PKG_VERSION").into())),
        ("connection_name", AMQPValue::LongString(name.into())),
        ("capabilities", AMQPValue::FieldTable(capabilities)),
    ])
}

/// Parses a method frame.
///
/// # Errors
/// [`IngestError::AmqpClosed`] if the broker closes the connection.
pub fn parse_method(frame: &[u8]) -> Result<(ChannelId, AMQPClass), IngestError> {
    match parse_frame(frame) {
        Ok((_, AMQPFrame::Method(_, Conn(connection::AMQPMethod::Close(close))))) => {
            Err(closed(close.reply_code, close.reply_text))
        }
        Ok((_, AMQPFrame::Method(channel, method))) => Ok((channel, method)),
        _ => Err(IngestError::Handshake("invalid method frame".into())),
    }
}

fn closed(code: u16, reason: ShortString) -> IngestError {
    IngestError::AmqpClosed { code, reason: reason.to_string() }
}
