//! A connection to NATS that is dropped at its first failure, so that events reach the server in order (see
//! [`publish`](super)).

use std::{
    fmt::Write as _,
    io::Write as _,
    time::{Duration, Instant},
};

use blackhole_common::{
    chance, clock,
    nats::{
        link::{Link, Servers},
        protocol::{Message as Reply, Op, SubscriptionId},
    },
    wire,
};
use tokio::time::timeout;

use crate::{checkpoint::EventId, error::IngestError, message::Message};

/// The name of the connection in the server's listings.
pub(crate) const CLIENT_NAME: &str = "amqp-ingest";

/// The subscription that receives all replies.
const INBOX: SubscriptionId = 1;

/// The first line of a header block.
const VERSION_LINE: &[u8] = b"NATS/1.0\r\n";
/// The last token of the reply subject for the stream's info.
const STREAM_INFO: &str = "stream";

/// The most bytes of headers that are added to a message: its id, its time, and what is [`Expected`].
const MAX_ADDED_HEADERS: usize = 270;

/// JetStream does not reply while a stream has no leader. A retry finds the new leader sooner than a long wait.
const JETSTREAM_TIMEOUT: Duration = Duration::from_secs(2);

/// Send a ping if the server has sent nothing for this long.
const PING_AFTER: Duration = Duration::from_secs(5);

/// Drop the connection if the server has sent nothing for this long.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(12);

/// The connection, with an inbox for replies.
pub(super) struct Connection {
    link: Link,
    inbox: String,
    /// How many requests were sent.
    requests: u64,
    /// The last subscription for the events at the end of the stream. Those of an earlier one may still come.
    ending: SubscriptionId,
    /// The next message's reply subject, below the inbox. Kept to reuse its memory.
    reply_subject: String,
    /// The next message's headers. Kept to reuse its memory.
    headers: Vec<u8>,
    last_received: Instant,
    /// Whether a ping was sent since then.
    pinged: bool,
}

/// The stream refuses an event unless its last event has this position and this id.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Expected {
    /// The position.
    pub(super) position: Option<u64>,
    /// The id.
    pub(super) id: Option<EventId>,
}

/// The message exceeds the server's `max_payload`.
#[derive(Debug)]
pub(super) struct TooLarge {
    /// The server's `max_payload`.
    pub(super) max_bytes: usize,
}

impl Connection {
    /// Connects to the next server.
    ///
    /// # Errors
    /// [`IngestError::NatsConnect`].
    pub(super) async fn open(servers: &mut Servers) -> Result<Connection, IngestError> {
        let mut link = servers.connect(CLIENT_NAME).await.map_err(IngestError::NatsConnect)?;
        let inbox = format!("_INBOX.{:032x}.", chance::random::<u128>());
        link.subscribe(INBOX, &format!("{inbox}*"));
        Ok(Connection {
            link,
            requests: 0,
            ending: INBOX,
            reply_subject: inbox.clone(),
            headers: Vec::new(),
            inbox,
            last_received: clock::now(),
            pinged: false,
        })
    }

    /// Sends a request to JetStream. Only while no event is published.
    ///
    /// # Errors
    /// [`IngestError::NatsLost`], also if JetStream does not reply in time.
    pub(super) async fn request(&mut self, subject: &str, payload: &[u8]) -> Result<Reply, IngestError> {
        let reply = async {
            self.send_request(subject, payload);
            loop {
                self.flush().await?;
                match self.next()? {
                    Some(reply) if self.is_answer(&reply) => return Ok(reply),
                    Some(_) => {}
                    None => self.fill().await?,
                }
            }
        };
        let timed_out = |_| IngestError::NatsLost("JetStream does not answer".into());
        timeout(JETSTREAM_TIMEOUT, reply).await.map_err(timed_out)?
    }

    /// Queues a request for the next flush. The reply comes to the inbox.
    pub(super) fn send_request(&mut self, subject: &str, payload: &[u8]) {
        // The reply to an earlier one may still come.
        let number = self.requests + 1;
        self.requests = number;
        self.set_reply_subject(format_args!("request-{number}"));
        self.link.publish(subject, &self.reply_subject, b"", payload);
    }

    /// Subscribes to the subject that it returns, for the events at the end of the stream.
    pub(super) fn subscribe_ending(&mut self) -> String {
        // The inbox does not match it: it has another token.
        let subject = format!("{}ending.{:08x}", self.inbox, chance::random::<u32>());
        self.ending += 1;
        self.link.subscribe(self.ending, &subject);
        subject
    }

    /// Ends the subscription, and with it the server's consumer.
    pub(super) fn unsubscribe_ending(&mut self) {
        self.link.unsubscribe(self.ending);
    }

    /// Checks that an event is not too large for the server.
    ///
    /// # Errors
    /// [`TooLarge`].
    pub(super) fn check_size(&self, message: &Message) -> Result<(), TooLarge> {
        let max_bytes = self.link.max_payload_bytes();
        let bytes = message.headers.len() + MAX_ADDED_HEADERS + message.body.len();
        if bytes > max_bytes { Err(TooLarge { max_bytes }) } else { Ok(()) }
    }

    /// Queues an event for the next flush. The stream acknowledges it with `number`, if there is one.
    pub(super) fn publish(
        &mut self,
        message: &Message,
        id: EventId,
        number: Option<u64>,
        expected: Expected,
    ) {
        match number {
            Some(number) => self.set_reply_subject(number),
            None => self.reply_subject.clear(),
        }
        let Message { subject, headers, body, received, .. } = message;
        self.headers.clear();
        self.headers.extend_from_slice(VERSION_LINE);
        // Writing to memory cannot fail.
        let _ = write!(self.headers, "{}: {id}\r\n{}: {received}\r\n", wire::MESSAGE_ID, wire::RECEIVED);
        if let Some(position) = expected.position {
            let _ = write!(self.headers, "Nats-Expected-Last-Sequence: {position}\r\n");
        }
        if let Some(id) = expected.id {
            let _ = write!(self.headers, "Nats-Expected-Last-Msg-Id: {id}\r\n");
        }
        self.headers.extend_from_slice(headers.strip_prefix(VERSION_LINE).unwrap_or(headers));
        self.link.publish(subject, &self.reply_subject, &self.headers, body);
    }

    /// Queues a message to our own inbox. When it comes back as a reply with `number`, the server has processed
    /// everything published before it.
    pub(super) fn send_barrier(&mut self, number: u64) {
        self.set_reply_subject(number);
        self.link.publish(&self.reply_subject, "", b"", b"");
    }

    /// Queues a request for the stream's info.
    pub(super) fn ask_stream_info(&mut self, stream: &str) {
        self.set_reply_subject(STREAM_INFO);
        self.link.publish(&format!("$JS.API.STREAM.INFO.{stream}"), &self.reply_subject, b"", b"");
    }

    /// Whether a reply is that info.
    pub(super) fn is_stream_info(&self, reply: &Reply) -> bool {
        reply.subject().strip_prefix(&self.inbox) == Some(STREAM_INFO)
    }

    fn set_reply_subject(&mut self, last_token: impl std::fmt::Display) {
        self.reply_subject.clear();
        // Writing to a String cannot fail.
        let _ = write!(self.reply_subject, "{}{last_token}", self.inbox);
    }

    /// Whether the server belongs to a cluster.
    pub(super) fn is_clustered(&self) -> bool {
        self.link.is_clustered()
    }

    /// Whether enough is queued that it should be flushed before more is added.
    pub(super) fn is_full(&self) -> bool {
        self.link.is_full()
    }

    /// Sends everything queued.
    ///
    /// # Errors
    /// [`IngestError::NatsLost`].
    pub(super) async fn flush(&mut self) -> Result<(), IngestError> {
        self.link.flush().await.map_err(|error| IngestError::NatsLost(error.to_string()))
    }

    /// Reads into the read buffer. Cancel-safe.
    ///
    /// # Errors
    /// [`IngestError::NatsLost`].
    pub(super) async fn fill(&mut self) -> Result<(), IngestError> {
        self.link.fill().await.map_err(|error| IngestError::NatsLost(error.to_string()))?;
        self.last_received = clock::now();
        self.pinged = false;
        Ok(())
    }

    /// Whether a message is the reply to the last request.
    pub(super) fn is_answer(&self, message: &Reply) -> bool {
        let token = message.subject().strip_prefix(&self.inbox);
        let number = token.and_then(|token| token.strip_prefix("request-")?.parse().ok());
        message.subscription == INBOX && number == Some(self.requests)
    }

    /// Whether a message is an event for the last [`subscribe_ending`](Self::subscribe_ending).
    pub(super) fn is_ending(&self, message: &Reply) -> bool {
        message.subscription == self.ending && self.ending != INBOX
    }

    /// Whether a message is the reply to an event or a barrier, and neither a late event of the end of the stream nor a late
    /// reply to a request.
    pub(super) fn is_reply(&self, message: &Reply) -> bool {
        let token = message.subject().strip_prefix(&self.inbox);
        message.subscription == INBOX && token.is_some_and(|token| token.parse::<u64>().is_ok())
    }

    /// Returns the next message in the read buffer, `None` if there is no complete one.
    ///
    /// # Errors
    /// [`IngestError::NatsLost`], also if the server enters lame duck mode: reconnecting now is better than being
    /// disconnected. [`IngestError::NatsRefused`] if the server reports an error: it has not accepted something that
    /// was sent, such as an event for which the user lacks permission.
    pub(super) fn next(&mut self) -> Result<Option<Reply>, IngestError> {
        loop {
            match self.link.next_op().map_err(|error| IngestError::NatsLost(error.to_string()))? {
                None => return Ok(None),
                Some(Op::Message(reply)) => return Ok(Some(reply)),
                Some(Op::Info(info)) if Link::is_lame_duck(&info) => {
                    return Err(IngestError::NatsLost("the server is shutting down".into()));
                }
                Some(Op::Error(error)) => return Err(IngestError::NatsRefused(error)),
                Some(Op::Info(_) | Op::Ping | Op::Pong | Op::Ok) => {}
            }
        }
    }

    /// When to call [`Connection::check_liveness`] next.
    pub(super) fn next_liveness_check(&self) -> Instant {
        self.last_received + if self.pinged { SILENCE_TIMEOUT } else { PING_AFTER }
    }

    /// Queues a ping if the server is silent.
    ///
    /// # Errors
    /// [`IngestError::NatsLost`] if it has been silent for too long.
    pub(super) fn check_liveness(&mut self) -> Result<(), IngestError> {
        let silence = clock::now() - self.last_received;
        if silence >= SILENCE_TIMEOUT {
            return Err(IngestError::NatsLost("the server is silent".into()));
        }
        if silence >= PING_AFTER && !self.pinged {
            self.pinged = true;
            self.link.ping();
        }
        Ok(())
    }
}
