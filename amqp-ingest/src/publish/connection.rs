//! A connection to NATS that is used until its first failure and never again, so that what is published on it reaches the
//! server in order (see the module above), and the stream's answers come back.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use blackhole_common::nats::{
    link::{Link, Servers},
    protocol::{Message as Answer, Op, SubscriptionId},
};
use tokio::time::timeout;

use crate::{error::IngestError, message::Message};

/// How the connection is called in the server's lists.
pub(crate) const CLIENT_NAME: &str = "amqp-ingest";

/// What the answers come for, all of them.
const INBOX: SubscriptionId = 1;

/// JetStream does not answer while a stream has no leader; asking again finds the new one sooner than waiting.
const JETSTREAM_WITHIN: Duration = Duration::from_secs(2);

/// A server that says nothing for this long is asked for a sign of life.
const PING_AFTER: Duration = Duration::from_secs(5);

/// A server that says nothing for this long is given up.
const SILENT_AT_MOST: Duration = Duration::from_secs(12);

/// The connection, and the answers to what is published on it.
pub(super) struct Connection {
    link: Link,
    inbox: String,
    /// Where the next answer is to come to; it begins with the inbox.
    reply: String,
    heard: Instant,
    /// Since it was heard last.
    pinged: bool,
}

/// The server takes no message of that size.
#[derive(Debug)]
pub(super) struct TooLarge {
    /// What the server takes at most.
    pub(super) most_bytes: usize,
}

impl Connection {
    /// Connects to the next of the servers.
    ///
    /// # Errors
    /// [`IngestError::NatsConnect`].
    pub(super) async fn open(servers: &mut Servers) -> Result<Connection, IngestError> {
        let mut link = servers.connect(CLIENT_NAME).await.map_err(IngestError::NatsConnect)?;
        let inbox = format!("_INBOX.{:032x}.", rand::random::<u128>());
        link.subscribe(INBOX, &format!("{inbox}*"));
        Ok(Connection { link, reply: inbox.clone(), inbox, heard: Instant::now(), pinged: false })
    }

    /// Asks JetStream, before anything is published.
    ///
    /// # Errors
    /// [`IngestError::NatsLost`], also where nobody answers in time.
    pub(super) async fn request(&mut self, subject: &str, payload: &[u8]) -> Result<Answer, IngestError> {
        let answer = async {
            self.reply_to("request");
            self.link.publish(subject, &self.reply, b"", payload);
            loop {
                self.flush().await?;
                if let Some(answer) = self.next()? {
                    return Ok(answer);
                }
                self.fill().await?;
            }
        };
        let nobody = |_| IngestError::NatsLost(": JetStream does not answer".into());
        timeout(JETSTREAM_WITHIN, answer).await.map_err(nobody)?
    }

    /// Notes an event for the next flush; the stream's answer will come with `number`.
    ///
    /// # Errors
    /// [`TooLarge`].
    pub(super) fn publish(&mut self, number: u64, message: &Message) -> Result<(), TooLarge> {
        self.reply_to(number);
        self.note(message)
    }

    /// Notes an event that no stream takes: nobody answers.
    ///
    /// # Errors
    /// [`TooLarge`].
    pub(super) fn publish_plainly(&mut self, message: &Message) -> Result<(), TooLarge> {
        self.reply.clear();
        self.note(message)
    }

    fn note(&mut self, message: &Message) -> Result<(), TooLarge> {
        let Message { subject, headers, body } = message;
        let most_bytes = self.link.max_payload_bytes();
        if headers.len() + body.len() > most_bytes {
            return Err(TooLarge { most_bytes });
        }
        self.link.publish(subject, &self.reply, headers, body);
        Ok(())
    }

    /// Notes a word to ourselves: when it comes back as an answer with `number`, the server has handled everything that
    /// was published before.
    pub(super) fn mark(&mut self, number: u64) {
        self.reply_to(number);
        self.link.publish(&self.reply, "", b"", b"");
    }

    fn reply_to(&mut self, answer: impl std::fmt::Display) {
        self.reply.clear();
        // Writing to a String cannot fail.
        let _ = write!(self.reply, "{}{answer}", self.inbox);
    }

    /// Whether the server is one of a cluster.
    pub(super) fn is_clustered(&self) -> bool {
        self.link.is_clustered()
    }

    /// Whether so much is noted that it is better flushed before more is.
    pub(super) fn is_full(&self) -> bool {
        self.link.is_full()
    }

    /// Sends what was noted.
    ///
    /// # Errors
    /// [`IngestError::NatsLost`].
    pub(super) async fn flush(&mut self) -> Result<(), IngestError> {
        self.link.flush().await.map_err(|error| IngestError::NatsLost(format!(": {error}")))
    }

    /// Reads more. Nothing is lost when the wait for it is broken off.
    ///
    /// # Errors
    /// [`IngestError::NatsLost`].
    pub(super) async fn fill(&mut self) -> Result<(), IngestError> {
        self.link.fill().await.map_err(|error| IngestError::NatsLost(format!(": {error}")))?;
        self.heard = Instant::now();
        self.pinged = false;
        Ok(())
    }

    /// The next answer of what was read.
    ///
    /// # Errors
    /// [`IngestError::NatsLost`], also when the server is about to stop: it says so before it moves its clients elsewhere,
    /// and it is better to go in order.
    pub(super) fn next(&mut self) -> Result<Option<Answer>, IngestError> {
        loop {
            match self.link.next_op().map_err(|error| IngestError::NatsLost(format!(": {error}")))? {
                None => return Ok(None),
                Some(Op::Message(answer)) => return Ok(Some(answer)),
                Some(Op::Info(info)) if Link::is_lame_duck(&info) => {
                    return Err(IngestError::NatsLost(": the server is shutting down".into()));
                }
                Some(Op::Error(error)) => tracing::warn!(error, "nats refuses something"),
                Some(Op::Info(_) | Op::Ping | Op::Pong | Op::Ok) => {}
            }
        }
    }

    /// When [`Connection::look`] is to be called next, at the latest.
    pub(super) fn next_look(&self) -> Instant {
        self.heard + if self.pinged { SILENT_AT_MOST } else { PING_AFTER }
    }

    /// Asks a silent server for a sign of life, with the next flush.
    ///
    /// # Errors
    /// [`IngestError::NatsLost`] where it has been silent for too long.
    pub(super) fn look(&mut self) -> Result<(), IngestError> {
        let silent = self.heard.elapsed();
        if silent >= SILENT_AT_MOST {
            return Err(IngestError::NatsLost(": the server is silent".into()));
        }
        if silent >= PING_AFTER && !self.pinged {
            self.pinged = true;
            self.link.ping();
        }
        Ok(())
    }
}
