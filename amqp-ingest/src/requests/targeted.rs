//! Relays messages of edges to one KAZOO process.

use std::sync::Arc;

use async_nats::Message;
use blackhole_common::wire::{TargetedReply, TargetedRequest};
use futures_util::{StreamExt, future::join_all};
use tokio_util::sync::CancellationToken;

use super::{broker_channel::BrokerChannel, envelope, handler::RequestHandler};
use crate::{
    error::IngestError,
    metrics::{RequestKind, RequestOutcome},
};

/// One ingest of the group receives each message.
const QUEUE_GROUP: &str = "amqp-ingest";
/// Messages relayed concurrently.
const MAX_CONCURRENT: usize = 64;

/// What happened to a message.
#[derive(Debug, PartialEq, Eq)]
enum SendResult {
    /// A broker has confirmed it.
    Confirmed,
    /// No broker has it, for this reason.
    Failed(RequestOutcome, String),
    /// A broker may have it. There is no reply then, and the edge's request times out.
    Unknown,
}

impl RequestHandler {
    /// Relays messages until `shutdown`, and completes those in progress.
    pub(super) async fn relay(self: Arc<Self>, shutdown: CancellationToken) {
        let messages = match self.client.queue_subscribe(self.subjects.targeted(), QUEUE_GROUP.into()).await {
            Ok(messages) => messages,
            Err(error) => return tracing::error!(%error, "cannot subscribe to messages for KAZOO"),
        };
        messages
            .take_until(shutdown.cancelled_owned())
            .for_each_concurrent(MAX_CONCURRENT, |message| self.relay_one(message))
            .await;
    }

    async fn relay_one(&self, message: Message) {
        let result = match serde_json::from_slice::<TargetedRequest>(&message.payload) {
            Ok(request) => self.send(&request).await,
            Err(error) => {
                SendResult::Failed(RequestOutcome::Malformed, format!("the request cannot be read: {error}"))
            }
        };
        let outcome = match &result {
            SendResult::Confirmed => RequestOutcome::Done,
            SendResult::Failed(outcome, _) => *outcome,
            SendResult::Unknown => RequestOutcome::Unavailable,
        };
        self.metrics.requests(RequestKind::Targeted, outcome).inc();
        let error = match result {
            SendResult::Confirmed => None,
            SendResult::Failed(_, reason) => Some(reason),
            SendResult::Unknown => return,
        };
        let Some(reply) = message.reply else { return };
        if let Ok(json) = serde_json::to_vec(&TargetedReply { error })
            && let Err(error) = self.client.publish(reply, json.into()).await
        {
            tracing::debug!(%error, "cannot reply to an edge");
        }
    }

    async fn send(&self, request: &TargetedRequest) -> SendResult {
        let TargetedRequest { server_id, zone, body } = request;
        let refused = |reason: String| SendResult::Failed(RequestOutcome::Refused, reason);
        if let Err(reason) = envelope::check_server_id(server_id) {
            return refused(format!("server_id {reason}"));
        }
        let is_addressed = |broker: &&BrokerChannel| zone.as_ref().is_none_or(|zone| broker.zone == *zone);
        let brokers: Vec<&BrokerChannel> = self.brokers.iter().filter(is_addressed).collect();
        if brokers.is_empty() {
            return refused("there is no such zone here".into());
        }
        let body = match serde_json::to_vec(body) {
            Ok(body) => body,
            Err(error) => return refused(error.to_string()),
        };
        // The recipient is connected to one of the brokers; the others drop the message.
        let results = join_all(brokers.iter().map(|broker| broker.send(server_id, &body))).await;
        let mut reasons = Vec::new();
        let (mut is_confirmed, mut may_be_sent) = (false, false);
        for (broker, result) in brokers.iter().zip(results) {
            match result {
                Ok(()) => is_confirmed = true,
                Err(error) => {
                    may_be_sent |=
                        !matches!(error, IngestError::BrokerUnavailable | IngestError::BrokerBlocked(_));
                    reasons.push(if broker.zone.is_empty() {
                        error.to_string()
                    } else {
                        format!("zone {}: {error}", broker.zone)
                    });
                }
            }
        }
        let reasons = reasons.join("; ");
        if !reasons.is_empty() {
            self.log_failure("a message for KAZOO was not confirmed by every broker", &reasons);
        }
        match (is_confirmed, may_be_sent) {
            (true, _) => SendResult::Confirmed,
            (false, true) => SendResult::Unknown,
            (false, false) => SendResult::Failed(RequestOutcome::Unavailable, reasons),
        }
    }
}
