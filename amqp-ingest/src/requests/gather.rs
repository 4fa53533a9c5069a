//! One question to all edges over NATS, and what they answer within a time.

use std::{collections::BTreeSet, fmt::Display, sync::Arc, time::Duration};

use async_nats::{Client, StatusCode};
use blackhole_common::wire::{FamilyReply, SessionsReply};
use futures_util::StreamExt;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout_at};

use super::edges::Edges;
use crate::error::IngestError;

/// KAZOO waits 2 s for an answer.
const WITHIN: Duration = Duration::from_secs(1);

/// A part of an edge's answer.
pub(super) trait Part: DeserializeOwned {
    /// The edge.
    fn edge(&self) -> &str;
    /// Whether no other part of its answer follows.
    fn is_last(&self) -> bool;
}

/// The sessions of an edge, or some of them, each as its JSON.
pub(super) type SessionsPart = SessionsReply<Box<RawValue>>;

impl Part for SessionsPart {
    fn edge(&self) -> &str {
        &self.edge
    }

    fn is_last(&self) -> bool {
        self.last
    }
}

impl Part for FamilyReply {
    fn edge(&self) -> &str {
        &self.edge
    }

    fn is_last(&self) -> bool {
        true
    }
}

/// What was gathered.
#[derive(Debug)]
pub(super) struct Gathered<P> {
    /// The parts, as they came.
    pub(super) parts: Vec<P>,
    /// The edges whose answer is not complete.
    pub(super) missing: Vec<String>,
    /// It was too much, and the rest is missing.
    pub(super) cut: bool,
}

impl<P> Gathered<P> {
    /// Whether every edge that is there has answered in full.
    pub(super) fn is_complete(&self) -> bool {
        self.missing.is_empty() && !self.cut
    }
}

/// Who asks.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    client: Client,
    edges: Arc<Edges>,
}

impl Asker {
    /// Asks over `client`, and waits for `edges`.
    pub(super) fn new(client: Client, edges: Arc<Edges>) -> Asker {
        Asker { client, edges }
    }

    /// Asks on `subject`, and takes at most `most` bytes of answers. Ends as soon as every edge that is there has
    /// answered, and in any case after a second.
    ///
    /// # Errors
    /// When NATS is away.
    pub(super) async fn ask<P: Part>(
        &self,
        subject: String,
        request: &impl Serialize,
        most: usize,
    ) -> Result<Gathered<P>, IngestError> {
        let failed = |error: &dyn Display| IngestError::NatsLost(format!(": {error}"));
        // What is sent without a connection would be kept for later.
        if !self.edges.is_listening() {
            return Err(IngestError::NatsAway);
        }
        let deadline = Instant::now() + WITHIN;
        let expected = self.edges.expected();
        let json = serde_json::to_vec(request).map_err(|error| failed(&error))?;
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await.map_err(|error| failed(&error))?;
        let sent = self.client.publish_with_reply(subject, inbox, json.into());
        sent.await.map_err(|error| failed(&error))?;

        let mut done = BTreeSet::new();
        let (mut parts, mut bytes, mut cut) = (Vec::new(), 0, false);
        while expected.others || !expected.edges.is_subset(&done) {
            let Ok(Some(answer)) = timeout_at(deadline, answers.next()).await else { break };
            if answer.status == Some(StatusCode::NO_RESPONDERS) {
                break;
            }
            bytes += answer.payload.len();
            if bytes > most {
                cut = true;
                break;
            }
            match serde_json::from_slice::<P>(&answer.payload) {
                Ok(part) => {
                    if part.is_last() {
                        done.insert(part.edge().to_owned());
                    }
                    parts.push(part);
                }
                Err(error) => tracing::debug!(%error, "an edge's answer cannot be read"),
            }
        }
        // One that has left meanwhile took its sessions along, and one may have been heard that was not known.
        let missing = self.edges.expected().edges.into_iter().filter(|edge| !done.contains(edge)).collect();
        Ok(Gathered { parts, missing, cut })
    }
}
