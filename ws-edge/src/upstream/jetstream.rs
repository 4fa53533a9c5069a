//! The stream as async-nats reads it.

use std::time::{Duration, SystemTime};

use async_nats::{
    Client,
    jetstream::{
        self,
        consumer::{AckPolicy, Consumer, DeliverPolicy, pull},
    },
};
use blackhole_common::wire::{self, Subjects};
use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture};
use tokio::runtime::Handle;

use super::{
    history::{Fetched, StoredMessage, StoredStream, StreamConsumer},
    stream_info::{self, StreamError, StreamInfo},
};

/// Time for an answer about the stream.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// The server deletes a consumer that has not fetched for this long, if the edge could not.
const CONSUMER_LIFETIME: Duration = Duration::from_secs(60);

/// The stream of a prefix.
#[derive(Debug)]
pub(crate) struct JetStream {
    client: Client,
    subjects: Subjects,
}

impl JetStream {
    /// The stream that `client` can read.
    pub(crate) fn new(client: Client, subjects: Subjects) -> JetStream {
        JetStream { client, subjects }
    }
}

impl StoredStream for JetStream {
    fn info(&self) -> BoxFuture<'_, Result<Option<StreamInfo>, StreamError>> {
        Box::pin(stream_info::ask(&self.client, &self.subjects, ANSWER_TIMEOUT))
    }

    fn consumer(
        &self,
        begin: DeliverPolicy,
        filter: String,
    ) -> BoxFuture<'_, Result<Box<dyn StreamConsumer>, StreamError>> {
        Box::pin(async move {
            let stream = jetstream::new(self.client.clone());
            let stream = stream.get_stream_no_info(self.subjects.stream()).await.map_err(StreamError::new)?;
            let config = pull::Config {
                deliver_policy: begin,
                ack_policy: AckPolicy::None,
                filter_subject: filter,
                inactive_threshold: CONSUMER_LIFETIME,
                memory_storage: true,
                num_replicas: 1,
                ..Default::default()
            };
            let consumer = stream.create_consumer(config).await.map_err(StreamError::new)?;
            let (client, stream) = (self.client.clone(), self.subjects.stream());
            Ok(Box::new(OwnConsumer { consumer, client, stream }) as _)
        })
    }
}

struct OwnConsumer {
    consumer: Consumer<pull::Config>,
    client: Client,
    stream: String,
}

impl StreamConsumer for OwnConsumer {
    fn created(&self) -> SystemTime {
        self.consumer.cached_info().created.into()
    }

    fn server(&self) -> Option<&str> {
        self.consumer.cached_info().cluster.as_ref()?.leader.as_deref()
    }

    fn delivered(&mut self) -> BoxFuture<'_, Result<u64, StreamError>> {
        Box::pin(async move {
            let info = self.consumer.info().await.map_err(StreamError::new)?;
            Ok(info.delivered.stream_sequence)
        })
    }

    fn fetch(&self, max: usize) -> BoxFuture<'_, Result<Fetched, StreamError>> {
        Box::pin(async move {
            let batch = self.consumer.fetch().max_messages(max).messages().await.map_err(StreamError::new)?;
            Ok(batch.map(|message| stored(message.map_err(StreamError::new)?)).boxed())
        })
    }
}

impl Drop for OwnConsumer {
    fn drop(&mut self) {
        let subject = format!("$JS.API.CONSUMER.DELETE.{}.{}", self.stream, self.consumer.cached_info().name);
        let client = self.client.clone();
        // Without a runtime the edge has ended, and without an answer the server deletes the consumer a little later.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move { client.publish(subject, Bytes::new()).await });
        }
    }
}

fn stored(message: jetstream::Message) -> Result<StoredMessage, StreamError> {
    let sequence = message.info().map_err(StreamError::new)?.stream_sequence;
    let async_nats::Message { subject, payload, headers, length, .. } = message.message;
    let header = |name: &str| {
        let value = headers.as_ref().and_then(|headers| headers.get(name));
        value.map(|value| Bytes::copy_from_slice(value.as_str().as_bytes()))
    };
    Ok(StoredMessage {
        sequence,
        subject: subject.into_string(),
        name: header(wire::EVENT_NAME),
        owner: header(wire::OWNER).unwrap_or_default(),
        body: payload,
        length,
    })
}
