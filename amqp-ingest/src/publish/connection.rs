//! A connection to NATS that is used until its first failure and never again.
//!
//! async-nats reconnects by itself and then sends what still lies in its buffers, which would break the order (see
//! the module above). It cannot be told not to, so right after connecting its list of servers is replaced by an
//! address where nobody can listen: every attempt to reconnect fails at once, and after `max_reconnects` of them the
//! client's task ends, with its buffers. Nothing is published before that replacement is confirmed.

use std::time::Duration;

use async_nats::{Client, ClientError, Event, HeaderMap, Message, Subscriber, client::PublishError};
use blackhole_common::{config::NatsConfig, nats};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::watch;

use crate::error::IngestError;

/// How the connection is called in the server's lists.
pub(crate) const CLIENT_NAME: &str = "amqp-ingest";

/// Port 0 cannot be connected to.
const NOBODY: &str = "nats://127.0.0.1:0";

/// A server that was asked and does not answer is given up after this.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// JetStream does not answer while a stream has no leader; asking again finds the new one sooner than waiting.
const JETSTREAM_WITHIN: Duration = Duration::from_secs(2);

/// A silent server is asked for a sign of life this often, and given up after two without.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// The connection, and the answers to what is published on it.
#[derive(Debug)]
pub(super) struct Connection {
    client: Client,
    inbox: String,
    answers: Subscriber,
    lost: watch::Receiver<Option<String>>,
}

impl Connection {
    /// Connects to one of the configured servers.
    pub(super) async fn open(config: &NatsConfig) -> Result<Connection, IngestError> {
        let servers = nats::servers(config);
        let (lost, is_lost) = watch::channel(None);
        let client = nats::options(config, CLIENT_NAME)
            .await?
            // Also counts the servers that the first connection tries; 0 would mean no limit.
            .max_reconnects(servers.len().max(1))
            .ignore_discovered_servers()
            .connection_timeout(ANSWER_WITHIN)
            .request_timeout(Some(JETSTREAM_WITHIN))
            .ping_interval(PING_INTERVAL)
            .event_callback(move |event| {
                notice(&event, &lost);
                async {}
            })
            .connect(servers)
            .await?;
        let failed = |error: &dyn std::fmt::Display| IngestError::NatsLost(format!(": {error}"));
        client.set_server_pool(NOBODY).await.map_err(|error| failed(&error))?;
        let inbox = client.new_inbox();
        let answers = client.subscribe(format!("{inbox}.*")).await.map_err(|error| failed(&error))?;
        Ok(Connection { client, inbox, answers, lost: is_lost })
    }

    /// The client, for JetStream's requests.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Publishes; the stream's answer will come with `number`.
    pub(super) async fn publish(
        &self,
        number: u64,
        subject: String,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<(), PublishError> {
        let reply = format!("{}.{number}", self.inbox);
        self.client.publish_with_reply_and_headers(subject, reply, headers, body).await
    }

    /// Publishes what no stream takes: nobody answers.
    pub(super) async fn publish_plainly(
        &self,
        subject: String,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<(), PublishError> {
        self.client.publish_with_headers(subject, headers, body).await
    }

    /// Publishes a word to ourselves: when it comes back as an answer with `number`, the server has handled everything
    /// that was published before.
    pub(super) async fn mark(&self, number: u64) -> Result<(), PublishError> {
        self.client.publish(format!("{}.{number}", self.inbox), Bytes::new()).await
    }

    /// The next answer of the stream. Nothing is lost when the wait for it is broken off.
    ///
    /// # Errors
    /// [`IngestError::NatsLost`] when the connection is lost.
    pub(super) async fn answer(&mut self) -> Result<Message, IngestError> {
        tokio::select! {
            biased;
            lost = self.lost.wait_for(Option::is_some) => {
                Err(IngestError::NatsLost(lost.ok().and_then(|reason| reason.clone()).unwrap_or_default()))
            }
            answer = self.answers.next() => answer.ok_or_else(|| IngestError::NatsLost(String::new())),
        }
    }
}

fn notice(event: &Event, lost: &watch::Sender<Option<String>>) {
    match event {
        Event::Disconnected | Event::Closed => {
            lost.send_if_modified(|reason| reason.is_none() && reason.replace(String::new()).is_none());
        }
        // The server says so before it moves its clients elsewhere: better to go in order.
        Event::LameDuckMode => {
            lost.send_replace(Some(": the server is shutting down".into()));
        }
        Event::ServerError(error) => tracing::warn!(%error, "nats refuses something"),
        // What comes of the address where nobody listens.
        Event::ClientError(ClientError::MaxReconnects | ClientError::Other(_)) => {}
        other => tracing::debug!(event = %other, "nats"),
    }
}
