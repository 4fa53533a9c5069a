//! Messages of clients to one process of KAZOO: the actions `relay.publish` and `dialog.push`, in the form of KAZOO 5.
//!
//! They go by way of amqp-ingest to the exchange `targeted`. What a message is, who speaks and where it comes from is
//! said by the edge: a client's own words for that are dropped.

pub(crate) mod message;

use std::time::Duration;

use async_nats::{Client, Request, RequestErrorKind};
use blackhole_common::wire::{Subjects, TargetedReply};
use thiserror::Error;

use self::message::{Message, Sender};
use crate::metrics::{Metrics, Outcome};

/// A message was not sent, as far as is known; the text is what the client reads.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum Unsent {
    /// No amqp-ingest is there, or no broker took it.
    #[error("the message could not be sent, try again")]
    Away,
    /// Nobody said in time that it was sent.
    #[error("nobody confirmed the message in time, it may have been sent")]
    Silent,
}

/// The way to the exchange `targeted`.
#[derive(Debug)]
pub(crate) struct Targeted {
    client: Client,
    subject: String,
    timeout: Duration,
    node: String,
}

impl Targeted {
    /// Sends over `client` for the edge on `host`, and waits at most `timeout`.
    pub(crate) fn new(client: Client, subjects: &Subjects, timeout: Duration, host: &str) -> Targeted {
        Targeted { client, subject: subjects.targeted(), timeout, node: format!("blackhole@{host}") }
    }

    /// Sends a message, and returns when a broker has it.
    ///
    /// # Errors
    /// When none is known to have it.
    pub(crate) async fn send(
        &self,
        message: Message,
        sender: &Sender<'_>,
        metrics: &Metrics,
    ) -> Result<(), Unsent> {
        let sent = self.request(message, sender).await;
        let outcome = match sent {
            Ok(()) => "sent",
            Err(Unsent::Away) => "unavailable",
            Err(Unsent::Silent) => "timeout",
        };
        metrics.messages_targeted.get_or_create(&Outcome { outcome }).inc();
        sent
    }

    async fn request(&self, message: Message, sender: &Sender<'_>) -> Result<(), Unsent> {
        let request = message.signed(sender, &self.node);
        let payload = serde_json::to_vec(&request).map_err(|_| Unsent::Away)?;
        let request = Request::new().payload(payload.into()).timeout(Some(self.timeout));
        let answer = self.client.send_request(self.subject.clone(), request).await.map_err(|error| {
            tracing::debug!(%error, "a targeted message was not taken");
            if error.kind() == RequestErrorKind::TimedOut { Unsent::Silent } else { Unsent::Away }
        })?;
        match serde_json::from_slice::<TargetedReply>(&answer.payload) {
            Ok(TargetedReply { error: None }) => Ok(()),
            Ok(TargetedReply { error: Some(error) }) => {
                tracing::warn!(error, "a targeted message was not published");
                Err(Unsent::Away)
            }
            Err(error) => {
                tracing::warn!(%error, "the answer to a targeted message cannot be read");
                Err(Unsent::Silent)
            }
        }
    }
}
