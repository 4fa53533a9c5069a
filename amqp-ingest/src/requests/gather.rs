//! Sends one request to all edges over NATS and gathers their replies.

use std::{collections::BTreeSet, fmt::Display, sync::Arc, time::Duration};

use async_nats::{Client, StatusCode};
use blackhole_common::wire::{FamilyReply, SessionsReply};
use futures_util::StreamExt;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout_at};

use super::edges::Edges;
use crate::error::IngestError;

/// Must be less than the 2 s that KAZOO waits for a response.
const REPLY_TIMEOUT: Duration = Duration::from_secs(1);

/// One message of an edge's reply.
pub(super) trait ReplyPart: DeserializeOwned {
    /// The name of the edge.
    fn edge(&self) -> &str;
    /// Whether it is the last message of the reply.
    fn is_last(&self) -> bool;
}

/// Some or all sessions of an edge, as unparsed JSON.
pub(super) type SessionsPart = SessionsReply<Box<RawValue>>;

impl ReplyPart for SessionsPart {
    fn edge(&self) -> &str {
        &self.edge
    }

    fn is_last(&self) -> bool {
        self.last
    }
}

impl ReplyPart for FamilyReply {
    fn edge(&self) -> &str {
        &self.edge
    }

    fn is_last(&self) -> bool {
        true
    }
}

/// The gathered replies.
#[derive(Debug)]
pub(super) struct Gathered<P> {
    /// The messages in the order of their arrival.
    pub(super) parts: Vec<P>,
    /// The edges whose reply is incomplete.
    pub(super) missing: Vec<String>,
    /// Whether the size limit was reached, so that the rest is missing.
    pub(super) truncated: bool,
}

impl<P> Gathered<P> {
    /// Whether every live edge has replied in full.
    pub(super) fn is_complete(&self) -> bool {
        self.missing.is_empty() && !self.truncated
    }
}

/// Sends requests to the edges.
#[derive(Clone, Debug)]
pub(super) struct EdgeRequester {
    client: Client,
    edges: Arc<Edges>,
}

impl EdgeRequester {
    /// Sends requests with `client` and waits for the replies of `edges`.
    pub(super) fn new(client: Client, edges: Arc<Edges>) -> EdgeRequester {
        EdgeRequester { client, edges }
    }

    /// Sends a request on `subject`. Returns when every live edge has replied, when the replies exceed `max_bytes`,
    /// or after [`REPLY_TIMEOUT`].
    ///
    /// # Errors
    /// If NATS is not available.
    pub(super) async fn request<P: ReplyPart>(
        &self,
        subject: String,
        request: &impl Serialize,
        max_bytes: usize,
    ) -> Result<Gathered<P>, IngestError> {
        let failed = |error: &dyn Display| IngestError::NatsLost(error.to_string());
        // The client would buffer the request until it is connected.
        if !self.edges.is_connected() {
            return Err(IngestError::NatsUnavailable);
        }
        let deadline = Instant::now() + REPLY_TIMEOUT;
        let expected = self.edges.expected();
        let json = serde_json::to_vec(request).map_err(|error| failed(&error))?;
        let inbox = self.client.new_inbox();
        let mut replies = self.client.subscribe(inbox.clone()).await.map_err(|error| failed(&error))?;
        let sent = self.client.publish_with_reply(subject, inbox, json.into());
        sent.await.map_err(|error| failed(&error))?;

        let mut done = BTreeSet::new();
        let (mut parts, mut bytes, mut truncated) = (Vec::new(), 0, false);
        while expected.may_be_others || !expected.known.is_subset(&done) {
            let Ok(Some(reply)) = timeout_at(deadline, replies.next()).await else { break };
            if reply.status == Some(StatusCode::NO_RESPONDERS) {
                break;
            }
            bytes += reply.payload.len();
            if bytes > max_bytes {
                truncated = true;
                break;
            }
            match serde_json::from_slice::<P>(&reply.payload) {
                Ok(part) => {
                    if part.is_last() {
                        done.insert(part.edge().to_owned());
                    }
                    parts.push(part);
                }
                Err(error) => tracing::debug!(%error, "cannot parse an edge's reply"),
            }
        }
        // Edges may have left in the meantime, with their sessions, and new ones may be known.
        let missing = self.edges.expected().known.into_iter().filter(|edge| !done.contains(edge)).collect();
        Ok(Gathered { parts, missing, truncated })
    }
}
