//! Messages of edges to one process of KAZOO, by way of the exchange `targeted`.

use std::{sync::Arc, time::Duration};

use async_nats::Message;
use blackhole_common::wire::{TargetedReply, TargetedRequest};
use futures_util::{StreamExt, future::join_all};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Desk, Line, envelope, responder};
use crate::{
    error::IngestError,
    metrics::{RequestKind, RequestOutcome},
};

/// Of all ingests one gets each message.
const QUEUE_GROUP: &str = "amqp-ingest";
/// So many messages are on their way to brokers at once.
const AT_ONCE: usize = 64;
/// A broker that is away may be back in this time. Edges wait 10 s, unless told otherwise.
const WITHIN: Duration = Duration::from_secs(3);

/// What became of a message.
#[derive(Debug, PartialEq, Eq)]
enum Sent {
    /// A broker has it.
    Yes,
    /// No broker has it, for this reason.
    No(RequestOutcome, String),
    /// A broker may have it: nothing is to be said, and the edge finds out by itself.
    Perhaps,
}

impl Desk {
    /// Takes messages until `shutdown`, and ends those that are on their way.
    pub(super) async fn relay(self: Arc<Self>, shutdown: CancellationToken) {
        let messages = match self.client.queue_subscribe(self.subjects.targeted(), QUEUE_GROUP.into()).await {
            Ok(messages) => messages,
            Err(error) => return tracing::error!(%error, "no messages for KAZOO can be taken"),
        };
        messages
            .take_until(shutdown.cancelled_owned())
            .for_each_concurrent(AT_ONCE, |message| self.relay_one(message))
            .await;
    }

    async fn relay_one(&self, message: Message) {
        let sent = match serde_json::from_slice::<TargetedRequest>(&message.payload) {
            Ok(request) => self.send(&request).await,
            Err(error) => Sent::No(RequestOutcome::Malformed, format!("the request cannot be read: {error}")),
        };
        let outcome = match &sent {
            Sent::Yes => RequestOutcome::Done,
            Sent::No(outcome, _) => *outcome,
            Sent::Perhaps => RequestOutcome::Unavailable,
        };
        self.metrics.requests(RequestKind::Targeted, outcome).inc();
        let error = match sent {
            Sent::Yes => None,
            Sent::No(_, reason) => Some(reason),
            Sent::Perhaps => return,
        };
        let Some(reply) = message.reply else { return };
        if let Ok(json) = serde_json::to_vec(&TargetedReply { error })
            && let Err(error) = self.client.publish(reply, json.into()).await
        {
            tracing::debug!(%error, "an edge cannot be answered");
        }
    }

    async fn send(&self, request: &TargetedRequest) -> Sent {
        let TargetedRequest { server_id, zone, body } = request;
        let refused = |reason: String| Sent::No(RequestOutcome::Refused, reason);
        if let Err(reason) = envelope::check_server_id(server_id) {
            return refused(format!("server_id {reason}"));
        }
        let lines: Vec<&Line> =
            self.lines.iter().filter(|line| zone.as_ref().is_none_or(|zone| line.zone == *zone)).collect();
        if lines.is_empty() {
            return refused("there is no such zone here".into());
        }
        let body = match serde_json::to_vec(body) {
            Ok(body) => body,
            Err(error) => return refused(error.to_string()),
        };
        // Who it is for is at one of the brokers; the others forget it.
        let results = join_all(lines.iter().map(|line| line.send(server_id, &body))).await;
        let mut reasons = Vec::new();
        let (mut confirmed, mut unknown) = (false, false);
        for (line, result) in lines.iter().zip(results) {
            match result {
                Ok(()) => confirmed = true,
                Err(error) => {
                    unknown |= !matches!(error, IngestError::BrokerAway);
                    reasons.push(if line.zone.is_empty() {
                        error.to_string()
                    } else {
                        format!("zone {}: {error}", line.zone)
                    });
                }
            }
        }
        let reasons = reasons.join("; ");
        if !reasons.is_empty() {
            self.log_failed("a message for KAZOO was not confirmed by every broker", &reasons);
        }
        match (confirmed, unknown) {
            (true, _) => Sent::Yes,
            (false, true) => Sent::Perhaps,
            (false, false) => Sent::No(RequestOutcome::Unavailable, reasons),
        }
    }
}

impl Line {
    /// Publishes, as soon as the broker is there.
    async fn send(&self, server_id: &str, body: &[u8]) -> Result<(), IngestError> {
        let mut channel = self.channel.clone();
        let there = async { channel.wait_for(Option::is_some).await.ok().and_then(|there| there.clone()) };
        let Ok(Some(channel)) = timeout(WITHIN, there).await else { return Err(IngestError::BrokerAway) };
        responder::publish(&channel, server_id, body).await
    }
}
