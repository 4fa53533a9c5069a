//! What the handlers of all request types share.

use std::{fmt::Display, sync::Arc};

use async_nats::Client;
use blackhole_common::{catalogue::Catalogue, wire::Subjects};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Semaphore;

use super::{
    broker_channel::BrokerChannel,
    envelope::{self, Envelope},
    gather::EdgeRequester,
    stopped_families::StoppedFamilies,
};
use crate::{
    log_throttle::LogThrottle,
    metrics::{Metrics, RequestKind, RequestOutcome},
};

/// Handles requests. The modules of the request types add the methods.
#[derive(Debug)]
pub(super) struct RequestHandler {
    pub(super) client: Client,
    pub(super) subjects: Subjects,
    pub(super) requester: EdgeRequester,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) stopped: StoppedFamilies,
    pub(super) brokers: Vec<BrokerChannel>,
    /// The node name in responses to KAZOO.
    pub(super) node: String,
    pub(super) metrics: Metrics,
    pub(super) malformed_log: Mutex<LogThrottle>,
    pub(super) failure_log: Mutex<LogThrottle>,
    /// Limits the memory of `GET /sessions`.
    pub(super) admin_listing: Semaphore,
}

/// A response, and the `Server-ID` of its recipient.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) server_id: String,
    pub(super) body: Vec<u8>,
}

impl RequestHandler {
    /// A response with the event name `name` to the sender of `envelope`. `None` if the sender expects none.
    pub(super) fn respond(
        &self,
        name: &'static str,
        envelope: &Envelope,
        content: &impl Serialize,
    ) -> Option<Response> {
        let server_id = envelope.server_id.clone()?;
        match envelope::serialize(name, envelope, &self.node, content) {
            Ok(body) => Some(Response { server_id, body }),
            Err(error) => {
                tracing::error!(%error, name, "cannot serialize a response");
                None
            }
        }
    }

    /// Counts and logs a request that cannot be parsed.
    pub(super) fn drop_malformed(&self, kind: RequestKind, reason: &str) {
        self.metrics.requests(kind, RequestOutcome::Malformed).inc();
        if let Some(suppressed) = self.malformed_log.lock().permit() {
            tracing::warn!(?kind, reason, suppressed, "dropped a request that cannot be read");
        }
    }

    /// Logs a failed message to KAZOO.
    pub(super) fn log_failure(&self, what: &'static str, reason: &dyn Display) {
        if let Some(suppressed) = self.failure_log.lock().permit() {
            tracing::warn!(%reason, suppressed, "{what}");
        }
    }
}
