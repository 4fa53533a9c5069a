//! A client's connection to the simulated broker: real bytes of AMQP 0-9-1.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use amq_protocol::{
    frame::{AMQPContentHeader, AMQPFrame, WriteContext, gen_frame, parse_frame},
    protocol::{
        AMQPClass::{self, Basic, Channel, Connection as Conn, Queue, Tx},
        basic, channel, connection, queue, tx,
    },
};
use amqp_ingest::{IngestError, amqp::CheckpointQueue};
use blackhole_common::net::{Dial, Socket};
use bytes::BytesMut;
use futures_util::future::BoxFuture;
use rand::RngExt;
use tokio::time::Instant;

use super::{Broker, Connection, HEARTBEAT, Operation, Queued, RabbitMq, Travelling, Way};
use crate::pipe::{Accepts, ConnectionId, Pipe, Stream};

/// The bytes with which a client begins.
const PROTOCOL_HEADER: usize = 8;
/// The channel that consumes.
const CHANNEL: u16 = 1;
/// The class `basic`, in content headers.
const BASIC_CLASS: u16 = 60;
/// Type, channel and size before a frame's payload, and the octet after it.
const FRAME_OVERHEAD: usize = 8;
const PRECONDITION_FAILED: u16 = 406;

/// Dials the broker for one ingest.
#[derive(Debug)]
pub(crate) struct Dialer {
    pub(crate) rabbitmq: Arc<RabbitMq>,
    pub(crate) owner: usize,
}

impl Dial for Dialer {
    fn dial<'d>(&'d self, _host: &'d str, _port: u16) -> BoxFuture<'d, io::Result<Socket>> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_micros(500)).await;
            let id = self.rabbitmq.change(|broker| broker.accept(self.owner));
            let id = id.ok_or(io::ErrorKind::ConnectionRefused)?;
            let stream = Stream { servers: Arc::clone(&self.rabbitmq), id };
            Ok(Socket::over(Box::pin(stream), SocketAddr::from((Ipv4Addr::LOCALHOST, 5672))))
        })
    }
}

/// The queue for checkpoints, read on a connection of its own.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    pub(crate) rabbitmq: Arc<RabbitMq>,
}

impl CheckpointQueue for Checkpoints {
    fn latest_or(&self, first: Option<Vec<u8>>) -> BoxFuture<'_, Result<Option<Vec<u8>>, IngestError>> {
        Box::pin(async {
            let journey = || self.rabbitmq.state.lock().micros(20_000);
            tokio::time::sleep(journey()).await;
            let latest = {
                let mut broker = self.rabbitmq.state.lock();
                if broker.is_up && !broker.is_alarmed && broker.checkpoint.is_none() {
                    broker.checkpoint = first;
                }
                broker.is_up.then(|| broker.checkpoint.clone())
            };
            tokio::time::sleep(journey()).await;
            latest.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionRefused).into())
        })
    }
}

impl Accepts for Broker {
    fn pipe(&mut self, id: ConnectionId) -> Option<&mut Pipe> {
        self.connections.get_mut(&id).map(|connection| &mut connection.pipe)
    }

    fn received(&mut self, id: ConnectionId) {
        self.parse(id);
    }

    fn forget(&mut self, id: ConnectionId) {
        self.connections.remove(&id);
    }
}

impl Broker {
    fn accept(&mut self, owner: usize) -> Option<ConnectionId> {
        if !self.is_up {
            return None;
        }
        self.last_connection += 1;
        let id = self.last_connection;
        let connection = Connection {
            owner,
            pipe: Pipe::new(),
            latency: Duration::from_micros(self.rng.random_range(50..3_000)),
            last_received: Instant::now(),
            has_greeted: false,
            prefetch: 0,
            is_transactional: false,
            transaction: Vec::new(),
            is_publishing: false,
            has_published: false,
            is_blocked: false,
            unacknowledged: Default::default(),
            last_tag: 0,
        };
        self.connections.insert(id, connection);
        self.transit.send_at(Instant::now() + HEARTBEAT / 2, Travelling::Heartbeat(id));
        Some(id)
    }

    /// Takes the frames out of what has come.
    pub(super) fn parse(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.is_blocked || !connection.pipe.is_open {
            return;
        }
        let (latency, is_gone) = (connection.latency, connection.pipe.is_gone);
        let mut travelling = Vec::new();
        if !connection.has_greeted && connection.pipe.incoming.len() >= PROTOCOL_HEADER {
            let _ = connection.pipe.incoming.split_to(PROTOCOL_HEADER);
            connection.has_greeted = true;
            travelling.push(Travelling::Greeting(id));
        }
        while let Some(frame) = next(&mut connection.pipe.incoming) {
            travelling.push(Travelling::Frame(id, Box::new(frame)));
        }
        // What was sent before the end still arrives.
        travelling.extend(is_gone.then_some(Travelling::End(id)));
        for travelling in travelling {
            self.transit.send(Way::ToBroker(id), latency, travelling);
        }
    }

    pub(super) fn greeted(&mut self, id: ConnectionId) {
        self.answer(id, 0, Conn(connection::AMQPMethod::Start(connection::Start::default())));
    }

    pub(super) fn frame(&mut self, id: ConnectionId, frame: AMQPFrame) {
        let Some(connection) = self.connections.get_mut(&id).filter(|connection| connection.pipe.is_open)
        else {
            return;
        };
        connection.last_received = Instant::now();
        match frame {
            AMQPFrame::Method(channel, method) => self.method(id, channel, method),
            AMQPFrame::Body(_, body) if connection.is_publishing => {
                connection.is_publishing = false;
                connection.has_published = true;
                let store = Operation::Store(body);
                if connection.is_transactional {
                    connection.transaction.push(store);
                } else {
                    self.carry_out(id, store);
                }
                self.block(id);
            }
            _ => {}
        }
    }

    fn method(&mut self, id: ConnectionId, channel: u16, method: AMQPClass) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let operation = match method {
            Conn(connection::AMQPMethod::StartOk(_)) => {
                let heartbeat = HEARTBEAT.as_secs() as u16;
                let tune = connection::Tune { channel_max: 2047, frame_max: 131_072, heartbeat };
                return self.answer(id, channel, Conn(connection::AMQPMethod::Tune(tune)));
            }
            Conn(connection::AMQPMethod::Open(_)) => {
                let open_ok = connection::OpenOk {};
                return self.answer(id, channel, Conn(connection::AMQPMethod::OpenOk(open_ok)));
            }
            Conn(connection::AMQPMethod::Close(_)) => {
                let close_ok = connection::CloseOk {};
                self.requeue(id);
                return self.answer(id, channel, Conn(connection::AMQPMethod::CloseOk(close_ok)));
            }
            Channel(channel::AMQPMethod::Open(_)) => {
                let open_ok = channel::OpenOk {};
                return self.answer(id, channel, Channel(channel::AMQPMethod::OpenOk(open_ok)));
            }
            Basic(basic::AMQPMethod::Qos(qos)) => {
                connection.prefetch = qos.prefetch_count.into();
                return self.answer(id, channel, Basic(basic::AMQPMethod::QosOk(basic::QosOk {})));
            }
            Tx(tx::AMQPMethod::Select(_)) => {
                connection.is_transactional = true;
                return self.answer(id, channel, Tx(tx::AMQPMethod::SelectOk(tx::SelectOk {})));
            }
            Queue(queue::AMQPMethod::Declare(declare)) => {
                let declared = queue::DeclareOk {
                    queue: declare.queue,
                    message_count: self.ready.len() as u32,
                    consumer_count: self.consumers.len() as u32,
                };
                return self.answer(id, channel, Queue(queue::AMQPMethod::DeclareOk(declared)));
            }
            Basic(basic::AMQPMethod::Consume(consume)) => {
                let consumer_tag = consume.consumer_tag;
                let consume_ok = basic::ConsumeOk { consumer_tag };
                self.answer(id, channel, Basic(basic::AMQPMethod::ConsumeOk(consume_ok)));
                self.consumers.push_back(id);
                return self.deliver();
            }
            Basic(basic::AMQPMethod::Publish(_)) => {
                connection.is_publishing = true;
                return;
            }
            Tx(tx::AMQPMethod::Commit(_)) => {
                for operation in std::mem::take(&mut connection.transaction) {
                    self.carry_out(id, operation);
                }
                return self.answer(id, channel, Tx(tx::AMQPMethod::CommitOk(tx::CommitOk {})));
            }
            Basic(basic::AMQPMethod::Ack(ack)) => Operation::Acknowledge { up_to: ack.delivery_tag },
            Basic(basic::AMQPMethod::Reject(reject)) => Operation::Reject { tag: reject.delivery_tag },
            _ => return,
        };
        if connection.is_transactional {
            connection.transaction.push(operation);
        } else {
            self.carry_out(id, operation);
        }
    }

    /// Reads nothing more from a connection that publishes, if the broker is short of space.
    pub(super) fn block(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if self.is_alarmed && connection.has_published && !connection.is_blocked {
            connection.is_blocked = true;
            let blocked = connection::Blocked { reason: "low on disk".into() };
            self.answer(id, 0, Conn(connection::AMQPMethod::Blocked(blocked)));
        }
    }

    /// A client has named a delivery that does not wait for it.
    pub(super) fn refuse(&mut self, id: ConnectionId, tag: u64) {
        let reply_text = format!("PRECONDITION_FAILED - unknown delivery tag {tag}");
        let close = channel::Close {
            reply_code: PRECONDITION_FAILED,
            reply_text: reply_text.as_str().into(),
            ..Default::default()
        };
        self.answer(id, CHANNEL, Channel(channel::AMQPMethod::Close(close)));
    }

    pub(super) fn heartbeat(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(&id).filter(|connection| connection.pipe.is_open) else {
            return;
        };
        if connection.last_received.elapsed() > 2 * HEARTBEAT && !connection.is_blocked {
            return self.close(id);
        }
        self.send(id, encoded(&AMQPFrame::Heartbeat));
        self.transit.send_at(Instant::now() + HEARTBEAT / 2, Travelling::Heartbeat(id));
    }

    fn answer(&mut self, id: ConnectionId, channel: u16, method: AMQPClass) {
        self.send(id, encoded(&AMQPFrame::Method(channel, method)));
    }
}

/// The next frame.
fn next(bytes: &mut BytesMut) -> Option<AMQPFrame> {
    let size = u32::from_be_bytes(*bytes.get(3..7)?.first_chunk()?) as usize + FRAME_OVERHEAD;
    if bytes.len() < size {
        return None;
    }
    let frame = bytes.split_to(size);
    parse_frame(&frame[..]).ok().map(|(_, frame)| frame)
}

fn encoded(frame: &AMQPFrame) -> Vec<u8> {
    let written = gen_frame::<Vec<u8>>(frame)(WriteContext::from(Vec::new()));
    written.map(|written| written.into_inner().0).unwrap_or_default()
}

/// The frames of a delivery.
pub(super) fn delivery(tag: u64, queued: &Queued) -> Vec<u8> {
    let deliver = basic::Deliver {
        consumer_tag: "amqp-ingest".into(),
        delivery_tag: tag,
        redelivered: queued.is_redelivered,
        exchange: "callevt".into(),
        routing_key: queued.key.as_str().into(),
    };
    let header = AMQPContentHeader {
        class_id: BASIC_CLASS,
        body_size: queued.body.len() as u64,
        properties: basic::AMQPProperties::default(),
    };
    let mut bytes = encoded(&AMQPFrame::Method(CHANNEL, Basic(basic::AMQPMethod::Deliver(deliver))));
    bytes.extend(encoded(&AMQPFrame::Header(CHANNEL, header)));
    bytes.extend(encoded(&AMQPFrame::Body(CHANNEL, queued.body.to_vec())));
    bytes
}
