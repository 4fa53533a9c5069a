//! A connection to a broker that consumes from one queue, and does nothing else.
//!
//! lapin is right everywhere else. It reads on a thread of its own, so that each delivery wakes three threads in turn,
//! and it takes a property that is no text for the end of the connection.

use std::time::{Duration, Instant};

use amq_protocol::{
    auth::{Credentials, SASLMechanism},
    frame::{AMQPFrame, WriteContext, gen_frame, parse_frame},
};
use blackhole_common::net::{Socket, invalid};
use bytes::BufMut;
use lapin::{
    protocol::{
        AMQPClass::{self, Basic, Channel, Connection},
        basic, channel, connection,
    },
    types::{AMQPValue, ChannelId, FieldTable, ShortString},
    uri::{AMQPScheme, AMQPUri},
};

use super::{
    frame::{Delivery, MOST_FRAME_BYTES, Op, Reader},
    topology::short,
};
use crate::error::IngestError;

/// What a client says first: the protocol and its version.
const PROTOCOL: &[u8] = b"AMQP\0\0\x09\x01";
/// The channel of what is about the connection.
const CONNECTION: ChannelId = 0;
/// The one channel.
const CHANNEL: ChannelId = 1;
/// AMQP's reply code for an end in order.
const SUCCESS: u16 = 200;

/// A consuming connection.
pub(super) struct Link {
    socket: Socket,
    reader: Reader,
    queue: ShortString,
    /// Zero: none are sent or wanted.
    heartbeat: Duration,
    heard: Instant,
    sent: Instant,
}

impl Link {
    /// Connects and begins to consume from `queue`, `prefetch` deliveries ahead of the acknowledgements at most. The
    /// broker lists connection and consumer under `name`.
    ///
    /// # Errors
    /// When the broker is not there, or refuses something.
    pub(super) async fn open(
        uri: &AMQPUri,
        name: &str,
        queue: &str,
        prefetch: u16,
    ) -> Result<Link, IngestError> {
        let mut socket = Socket::connect(&uri.authority.host, uri.authority.port).await?;
        if uri.scheme == AMQPScheme::AMQPS {
            socket.encrypt(&uri.authority.host).await?;
        }
        let now = Instant::now();
        let mut link = Link {
            socket,
            reader: Reader::default(),
            queue: short(queue)?,
            heartbeat: Duration::ZERO,
            heard: now,
            sent: now,
        };
        link.log_in(uri, name).await?;
        link.call(CHANNEL, Channel(channel::AMQPMethod::Open(channel::Open {}))).await?;
        let qos = basic::Qos { prefetch_count: prefetch, global: false };
        link.call(CHANNEL, Basic(basic::AMQPMethod::Qos(qos))).await?;
        let consume =
            basic::Consume { queue: link.queue.clone(), consumer_tag: short(name)?, ..Default::default() };
        link.note(CHANNEL, Basic(basic::AMQPMethod::Consume(consume)));
        link.flush().await?;
        // The answer may come behind the first delivery: it is waited for by whoever waits for that.
        Ok(link)
    }

    async fn log_in(&mut self, uri: &AMQPUri, name: &str) -> Result<(), IngestError> {
        self.socket.to_send.put_slice(PROTOCOL);
        self.flush().await?;
        self.answer().await?;
        let mechanism = uri.query.auth_mechanism.unwrap_or(SASLMechanism::Plain);
        let user = Credentials::from(uri.authority.userinfo.clone());
        let start_ok = connection::StartOk {
            client_properties: about_us(name),
            mechanism: mechanism.to_string().into(),
            response: user.sasl_auth_string(mechanism),
            locale: "en_US".into(),
        };
        let tuned = self.call(CONNECTION, Connection(connection::AMQPMethod::StartOk(start_ok))).await?;
        let Connection(connection::AMQPMethod::Tune(tune)) = tuned else {
            return Err(IngestError::Handshake(format!("{mechanism} is not enough for it to let us in")));
        };
        // 0 is the word for no limit, or for none at all.
        let least = |ours: u32, theirs: u32| if theirs == 0 { ours } else { ours.min(theirs) };
        let heartbeat = least(uri.query.heartbeat.unwrap_or_default().into(), tune.heartbeat.into());
        self.heartbeat = Duration::from_secs(heartbeat.into());
        let tune_ok = connection::TuneOk {
            channel_max: CHANNEL,
            frame_max: least(MOST_FRAME_BYTES, tune.frame_max),
            heartbeat: u16::try_from(heartbeat).unwrap_or_default(),
        };
        self.note(CONNECTION, Connection(connection::AMQPMethod::TuneOk(tune_ok)));
        let open = connection::Open { virtual_host: short(&uri.vhost)? };
        self.call(CONNECTION, Connection(connection::AMQPMethod::Open(open))).await?;
        Ok(())
    }

    /// Calls a method before anything is consumed, and waits for its answer.
    async fn call(&mut self, channel: ChannelId, method: AMQPClass) -> Result<AMQPClass, IngestError> {
        self.note(channel, method);
        self.flush().await?;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<AMQPClass, IngestError> {
        loop {
            match self.reader.next(&mut self.socket.read).map_err(invalid)? {
                Some(Op::Method(frame)) => return method(&frame),
                Some(Op::Delivery(_) | Op::Heartbeat) => {}
                None => self.fill().await?,
            }
        }
    }

    /// The next delivery of what was read.
    ///
    /// # Errors
    /// When the broker has ended the consumer, the channel or the connection.
    pub(super) fn next(&mut self) -> Result<Option<Delivery>, IngestError> {
        loop {
            match self.reader.next(&mut self.socket.read).map_err(invalid)? {
                None => return Ok(None),
                Some(Op::Delivery(delivery)) => return Ok(Some(delivery)),
                Some(Op::Method(frame)) => {
                    if let Basic(basic::AMQPMethod::Cancel(_)) = method(&frame)? {
                        return Err(IngestError::ConsumerCancelled(self.queue.to_string()));
                    }
                }
                Some(Op::Heartbeat) => {}
            }
        }
    }

    /// Notes that everything up to a delivery is done.
    pub(super) fn acknowledge(&mut self, tag: u64) {
        let ack = basic::Ack { delivery_tag: tag, multiple: true };
        self.note(CHANNEL, Basic(basic::AMQPMethod::Ack(ack)));
    }

    /// Notes that a delivery goes to the dead-letter exchange.
    pub(super) fn reject(&mut self, tag: u64) {
        let reject = basic::Reject { delivery_tag: tag, requeue: false };
        self.note(CHANNEL, Basic(basic::AMQPMethod::Reject(reject)));
    }

    fn note(&mut self, channel: ChannelId, method: AMQPClass) {
        self.note_frame(&AMQPFrame::Method(channel, method));
    }

    fn note_frame(&mut self, frame: &AMQPFrame) {
        // Writing to memory cannot fail.
        if let Ok(written) = gen_frame::<Vec<u8>>(frame)(WriteContext::from(Vec::new())) {
            self.socket.to_send.put_slice(&written.into_inner().0);
        }
    }

    /// [`Socket::flush`].
    ///
    /// # Errors
    /// When the connection has ended, or takes nothing.
    pub(super) async fn flush(&mut self) -> Result<(), IngestError> {
        if !self.socket.to_send.is_empty() {
            self.socket.flush().await?;
            self.sent = Instant::now();
        }
        Ok(())
    }

    /// [`Socket::fill`].
    ///
    /// # Errors
    /// When the connection has ended.
    pub(super) async fn fill(&mut self) -> Result<(), IngestError> {
        self.socket.fill().await?;
        self.heard = Instant::now();
        Ok(())
    }

    /// When [`Link::look`] is to be called next, at the latest; `None` without heartbeats.
    pub(super) fn next_look(&self) -> Option<Instant> {
        (!self.heartbeat.is_zero())
            .then(|| (self.sent + self.heartbeat / 2).min(self.heard + 2 * self.heartbeat))
    }

    /// Notes a heartbeat if nothing else was sent for long.
    ///
    /// # Errors
    /// [`IngestError::BrokerSilent`] where nothing came for two heartbeats.
    pub(super) fn look(&mut self) -> Result<(), IngestError> {
        if self.heard.elapsed() >= 2 * self.heartbeat {
            return Err(IngestError::BrokerSilent(2 * self.heartbeat.as_secs()));
        }
        if self.sent.elapsed() >= self.heartbeat / 2 {
            self.note_frame(&AMQPFrame::Heartbeat);
        }
        Ok(())
    }

    /// Ends in order: the broker has taken what was sent when this comes back, and gives what is not acknowledged to
    /// another consumer.
    ///
    /// # Errors
    /// When the connection has ended otherwise.
    pub(super) async fn close(&mut self) -> Result<(), IngestError> {
        let close = connection::Close { reply_code: SUCCESS, reply_text: "end".into(), ..Default::default() };
        self.note(CONNECTION, Connection(connection::AMQPMethod::Close(close)));
        self.flush().await?;
        while !matches!(self.answer().await?, Connection(connection::AMQPMethod::CloseOk(_))) {}
        Ok(())
    }
}

/// What the broker may show of us, and that it is to say when it takes the consumer away, and why it does not let us in.
fn about_us(name: &str) -> FieldTable {
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
    ]);
    table(&[
        ("product", AMQPValue::LongString("blackhole".into())),
        ("version", AMQPValue::LongString(env!("CARGO_PKG_VERSION").into())),
        ("connection_name", AMQPValue::LongString(name.into())),
        ("capabilities", AMQPValue::FieldTable(capabilities)),
    ])
}

/// Reads a method.
///
/// # Errors
/// [`IngestError::AmqpClosed`] if it is the end of the channel or the connection.
fn method(frame: &[u8]) -> Result<AMQPClass, IngestError> {
    let closed =
        |code: u16, reason: ShortString| IngestError::AmqpClosed { code, reason: reason.to_string() };
    match parse_frame(frame) {
        Ok((_, AMQPFrame::Method(_, Connection(connection::AMQPMethod::Close(close))))) => {
            Err(closed(close.reply_code, close.reply_text))
        }
        Ok((_, AMQPFrame::Method(_, Channel(channel::AMQPMethod::Close(close))))) => {
            Err(closed(close.reply_code, close.reply_text))
        }
        Ok((_, AMQPFrame::Method(_, method))) => Ok(method),
        _ => Err(IngestError::Handshake("it says something unreadable".into())),
    }
}
