//! Requests and reading the stream, as async-nats does for an edge on a connection of its own.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_nats::{RequestErrorKind, jetstream::consumer::DeliverPolicy};
use blackhole_common::{
    nats::{protocol, requests::Requests},
    wire::{self, Access, AuthReply, AuthRequest, Bearer},
};
use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture, stream};
use rand::RngExt;
use ws_edge::upstream::{
    history::{Fetched, StoredMessage, StoredStream, StreamConsumer},
    stream_info::{self, StreamError, StreamInfo},
};

use super::{Cluster, Nats};

/// How long a request waits for an answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The connection of one edge.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) nats: Arc<Nats>,
}

impl Client {
    /// Lets time pass until an answer comes.
    async fn travel(&self) {
        let delay = self.nats.state.lock().journey();
        tokio::time::sleep(delay).await;
    }
}

impl Cluster {
    fn journey(&mut self) -> Duration {
        let slow = self.rng.random_ratio(1, 20);
        self.micros(if slow { 200_000 } else { 3_000 })
    }

    /// The server that answers about the stream.
    fn responder(&self) -> Option<usize> {
        self.leader.filter(|leader| self.servers[*leader].is_up)
    }
}

impl Requests for Client {
    fn request(
        &self,
        _subject: String,
        payload: Bytes,
        _timeout: Duration,
    ) -> BoxFuture<'_, Result<Bytes, RequestErrorKind>> {
        Box::pin(async move {
            self.travel().await;
            let request: AuthRequest =
                serde_json::from_slice(&payload).map_err(|_| RequestErrorKind::Other)?;
            let account = request.account_id.unwrap_or_else(|| request.token.clone());
            let access = if account == request.token {
                Access::Account { account_id: account, realm: None, realm_since_ms: None }
            } else {
                Access::Denied { reason: "unknown account".to_owned() }
            };
            let bearer = Bearer {
                account_id: request.token,
                expires_at: 4_000_000_000,
                superduper_admin: false,
                token_id: None,
            };
            let reply = AuthReply::Accepted { bearer, access };
            serde_json::to_vec(&reply).map(Bytes::from).map_err(|_| RequestErrorKind::Other)
        })
    }
}

impl StoredStream for Client {
    fn info(&self) -> BoxFuture<'_, Result<Option<StreamInfo>, StreamError>> {
        Box::pin(async move {
            self.travel().await;
            let answer = {
                let cluster = self.nats.state.lock();
                cluster.responder().map(|server| cluster.info(server).to_string())
            };
            let Some(answer) = answer else {
                tokio::time::sleep(TIMEOUT).await;
                return Err(StreamError::new("no answer"));
            };
            self.travel().await;
            stream_info::read(answer.as_bytes())
        })
    }

    fn consumer(
        &self,
        begin: DeliverPolicy,
        filter: String,
    ) -> BoxFuture<'_, Result<Box<dyn StreamConsumer>, StreamError>> {
        Box::pin(async move {
            self.travel().await;
            let consumer = {
                let mut cluster = self.nats.state.lock();
                let cluster = &mut *cluster;
                let ready: Vec<usize> =
                    (0..cluster.servers.len()).filter(|server| cluster.servers[*server].is_up).collect();
                let created = cluster.now();
                match (&mut cluster.stream, cluster.leader, ready.is_empty()) {
                    (Some(stream), Some(_), false) => {
                        stream.retain(created);
                        let server = ready[cluster.rng.random_range(0..ready.len())];
                        let delivered = match begin {
                            DeliverPolicy::ByStartSequence { start_sequence } => start_sequence - 1,
                            DeliverPolicy::ByStartTime { start_time } => {
                                stream.position_at(SystemTime::from(start_time))
                            }
                            _ => stream.last,
                        };
                        cluster.consumers += 1;
                        Some(Consumer {
                            nats: Arc::clone(&self.nats),
                            stream: stream.created,
                            server,
                            name: (cluster.servers.len() > 1).then(|| format!("n{server}")),
                            created,
                            filter,
                            next: parking_lot::Mutex::new(delivered + 1),
                        })
                    }
                    _ => None,
                }
            };
            self.travel().await;
            let consumer = consumer.ok_or_else(|| StreamError::new("no stream"))?;
            Ok(Box::new(consumer) as Box<dyn StreamConsumer>)
        })
    }
}

struct Consumer {
    nats: Arc<Nats>,
    /// Which stream it reads.
    stream: SystemTime,
    server: usize,
    name: Option<String>,
    created: SystemTime,
    filter: String,
    next: parking_lot::Mutex<u64>,
}

impl Consumer {
    fn read(&self, max: usize) -> Result<Vec<StoredMessage>, StreamError> {
        let mut cluster = self.nats.state.lock();
        let (now, server) = (cluster.now(), self.server);
        let (applied, is_up) = (cluster.servers[server].applied, cluster.servers[server].is_up);
        let stream = cluster.stream.as_mut().filter(|stream| stream.created == self.stream && is_up);
        let stream = stream.ok_or_else(|| StreamError::new("the consumer is gone"))?;
        stream.retain(now);
        let mut next = self.next.lock();
        let messages = stream.read(*next, &self.filter, max);
        let messages: Vec<StoredMessage> = messages
            .into_iter()
            .filter(|(sequence, _)| *sequence <= applied)
            .map(|(sequence, stored)| StoredMessage {
                sequence,
                name: protocol::header(&stored.headers, wire::EVENT_NAME.as_bytes())
                    .map(Bytes::copy_from_slice),
                length: stored.payload.len() + stored.headers.len() + stored.subject.len(),
                subject: stored.subject,
                body: stored.payload,
                owner: Bytes::new(),
            })
            .collect();
        if let Some(last) = messages.last() {
            *next = last.sequence + 1;
        }
        Ok(messages)
    }
}

impl StreamConsumer for Consumer {
    fn created(&self) -> SystemTime {
        self.created
    }

    fn server(&self) -> Option<&str> {
        self.name.as_deref()
    }

    fn delivered(&mut self) -> BoxFuture<'_, Result<u64, StreamError>> {
        Box::pin(async move {
            let delay = self.nats.state.lock().journey();
            tokio::time::sleep(delay).await;
            Ok(self.next.lock().saturating_sub(1))
        })
    }

    fn fetch(&self, max: usize) -> BoxFuture<'_, Result<Fetched, StreamError>> {
        Box::pin(async move {
            let delay = self.nats.state.lock().journey();
            tokio::time::sleep(delay).await;
            let messages = self.read(max)?;
            Ok(stream::iter(messages.into_iter().map(Ok)).boxed())
        })
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.nats.state.lock().consumers -= 1;
    }
}
