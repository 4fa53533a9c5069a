//! Messages of clients to one KAZOO process: KAZOO 5's actions `relay.publish` and `dialog.push`.
//!
//! amqp-ingest publishes them to the exchange `targeted`. The edge sets the members that describe type, sender and origin,
//! and drops the client's.

pub mod message;

use std::{sync::Arc, time::Duration};

use async_nats::RequestErrorKind;
use blackhole_common::{
    nats::requests::Requests,
    wire::{Subjects, TargetedReply},
};
use thiserror::Error;

use self::message::{Message, Sender};
use crate::metrics::{Metrics, Outcome};

/// A message was not confirmed; the text is for the client.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum SendError {
    /// No amqp-ingest listens, or no broker accepted the message.
    #[error("the message could not be sent, try again")]
    Unavailable,
    /// No confirmation in time.
    #[error("nobody confirmed the message in time, it may have been sent")]
    Timeout,
}

/// Sends messages to the exchange `targeted`.
#[derive(Debug)]
pub(crate) struct Targeted {
    requests: Arc<dyn Requests>,
    subject: String,
    timeout: Duration,
    node: String,
}

impl Targeted {
    /// Sends by `requests` for the edge on `host`; waits at most `timeout` for a confirmation.
    pub(crate) fn new(
        requests: Arc<dyn Requests>,
        subjects: &Subjects,
        timeout: Duration,
        host: &str,
    ) -> Targeted {
        Targeted { requests, subject: subjects.targeted(), timeout, node: format!("blackhole@{host}") }
    }

    /// Sends a message, and waits until a broker has confirmed it.
    ///
    /// # Errors
    /// If no broker has.
    pub(crate) async fn send(
        &self,
        message: Message,
        sender: &Sender<'_>,
        metrics: &Metrics,
    ) -> Result<(), SendError> {
        let result = self.request(message, sender).await;
        let outcome = match result {
            Ok(()) => "sent",
            Err(SendError::Unavailable) => "unavailable",
            Err(SendError::Timeout) => "timeout",
        };
        metrics.messages_targeted.get_or_create(&Outcome { outcome }).inc();
        result
    }

    async fn request(&self, message: Message, sender: &Sender<'_>) -> Result<(), SendError> {
        let request = message.into_request(sender, &self.node);
        let payload = serde_json::to_vec(&request).map_err(|_| SendError::Unavailable)?;
        let reply = self.requests.request(self.subject.clone(), payload.into(), self.timeout).await;
        let reply = reply.map_err(|error| match error {
            RequestErrorKind::TimedOut => SendError::Timeout,
            _ => SendError::Unavailable,
        })?;
        match serde_json::from_slice::<TargetedReply>(&reply) {
            Ok(TargetedReply { error: None }) => Ok(()),
            Ok(TargetedReply { error: Some(error) }) => {
                tracing::warn!(error, "a targeted message was not published");
                Err(SendError::Unavailable)
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read the reply to a targeted message");
                Err(SendError::Timeout)
            }
        }
    }
}
