//! Reading the stream: where it ends, and the events of a gap.

use std::time::Duration;

use async_nats::{
    Client, Message, Request, RequestErrorKind,
    jetstream::{
        self,
        consumer::{AckPolicy, Consumer, DeliverPolicy, pull},
    },
};
use blackhole_common::wire::Subjects;
use futures_util::StreamExt;
use serde::Deserialize;
use thiserror::Error;

/// Events that are asked for at once.
const BATCH: usize = 500;
/// The server forgets the reader of a gap after this, should the edge not come to do it.
const READER_LIFETIME: Duration = Duration::from_secs(60);

/// The stream cannot be read at the moment.
#[derive(Debug, Error)]
#[error("{0}")]
pub(super) struct ReplayError(String);

fn failed(error: impl std::fmt::Display) -> ReplayError {
    ReplayError(error.to_string())
}

/// Which stream it is, and its newest event.
#[derive(Debug)]
pub(super) struct StreamEnd {
    /// When the stream was created, as the server writes it: another time is another stream.
    pub(super) created: String,
    /// The position of the newest event.
    pub(super) last: u64,
}

/// Asks the server where the stream ends; `None` where there is no stream.
pub(super) async fn stream_end(
    client: Client,
    stream: String,
    timeout: Duration,
) -> Result<Option<StreamEnd>, ReplayError> {
    #[derive(Deserialize)]
    struct Info {
        created: Option<String>,
        state: Option<State>,
        error: Option<ApiError>,
    }
    #[derive(Deserialize)]
    struct State {
        last_seq: u64,
    }
    #[derive(Deserialize)]
    struct ApiError {
        code: u16,
        #[serde(default)]
        description: String,
    }
    let request = Request::new().timeout(Some(timeout));
    let answer = match client.send_request(format!("$JS.API.STREAM.INFO.{stream}"), request).await {
        Ok(answer) => answer,
        // A server without JetStream answers as well: it has no stream.
        Err(error) if error.kind() == RequestErrorKind::NoResponders => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let info: Info = serde_json::from_slice(&answer.payload).map_err(failed)?;
    match info {
        Info { created: Some(created), state: Some(state), .. } => {
            Ok(Some(StreamEnd { created, last: state.last_seq }))
        }
        Info { error: Some(ApiError { code: 404, .. }), .. } => Ok(None),
        Info { error: Some(error), .. } => Err(ReplayError(error.description)),
        _ => Err(ReplayError("the stream's information cannot be read".to_owned())),
    }
}

/// The events between two positions, in order.
pub(super) struct Missed {
    consumer: Consumer<pull::Config>,
    batch: Option<pull::Batch>,
    in_batch: usize,
    last: u64,
    ended: bool,
}

impl Missed {
    pub(super) async fn open(
        client: &Client,
        subjects: &Subjects,
        first: u64,
        last: u64,
    ) -> Result<Missed, ReplayError> {
        let stream =
            jetstream::new(client.clone()).get_stream_no_info(subjects.stream()).await.map_err(failed)?;
        let consumer = stream
            .create_consumer(pull::Config {
                deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: first },
                ack_policy: AckPolicy::None,
                inactive_threshold: READER_LIFETIME,
                memory_storage: true,
                num_replicas: 1,
                ..Default::default()
            })
            .await
            .map_err(failed)?;
        Ok(Missed { consumer, batch: None, in_batch: 0, last, ended: false })
    }

    /// The next event with its position; `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<(u64, Message)>, ReplayError> {
        while !self.ended {
            let batch = match &mut self.batch {
                Some(batch) => batch,
                None => {
                    self.in_batch = 0;
                    let batch = self.consumer.fetch().max_messages(BATCH).messages().await.map_err(failed)?;
                    self.batch.insert(batch)
                }
            };
            match batch.next().await {
                Some(Ok(message)) => {
                    self.in_batch += 1;
                    let sequence = message.info().map_err(failed)?.stream_sequence;
                    self.ended = sequence >= self.last;
                    if sequence > self.last {
                        return Ok(None);
                    }
                    return Ok(Some((sequence, message.message)));
                }
                Some(Err(error)) => return Err(failed(error)),
                // An empty batch: what is missing up to the last has left the stream.
                None => {
                    self.ended = self.in_batch == 0;
                    self.batch = None;
                }
            }
        }
        Ok(None)
    }
}
