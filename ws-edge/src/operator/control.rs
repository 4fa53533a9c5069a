//! The edge's heartbeat, and its answers to requests over NATS about sessions and families. It is the NATS micro service
//! `blackhole-edge`: `nats micro ls` lists all edges, and each of them answers every request.

use std::{sync::Arc, time::Duration};

use async_nats::{
    Client,
    connection::State,
    service::{Request, Service, ServiceExt, endpoint::Endpoint},
};
use blackhole_common::{
    chance, version,
    wire::{EdgeHeartbeat, FamilyReply, FamilyRequest, SessionsRequest, Subjects},
};
use futures_util::StreamExt;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{paging::pages, registry::Registry};
use crate::{
    access::families::{Families, stored},
    error::EdgeError,
};

/// The service's name.
const NAME: &str = "blackhole-edge";
/// Pause between heartbeats.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);
/// Time for the last heartbeat, which announces that the edge stops.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
/// The largest message, unless a quarter of the server's limit is smaller.
const MAX_PAGE_BYTES: usize = 256 * 1024;

/// The edge's NATS micro service.
pub(crate) struct Control {
    client: Client,
    subjects: Subjects,
    edge: String,
    registry: Arc<Registry>,
    families: Arc<Families>,
    service: Service,
    session_requests: Endpoint,
    family_requests: Endpoint,
}

/// A unique name for this run of the edge on `host`, of characters that NATS allows.
fn edge_name(host: &str) -> String {
    let host: String = host
        .chars()
        .map(
            |character| {
                if character.is_ascii_alphanumeric() || "-.".contains(character) { character } else { '_' }
            },
        )
        .collect();
    format!("{host}-{:016x}", chance::random::<u64>())
}

impl Control {
    /// Registers the service; it is available once NATS is connected.
    ///
    /// # Errors
    /// If the client is closed.
    pub(crate) async fn start(
        client: Client,
        subjects: Subjects,
        host: &str,
        registry: Arc<Registry>,
        families: Arc<Families>,
    ) -> Result<Control, EdgeError> {
        let failed = |error: async_nats::Error| EdgeError::Service { name: NAME, reason: error.to_string() };
        let edge = edge_name(host);
        let metadata = [("edge", edge.as_str()), ("host", host), ("commit", version::COMMIT)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let service = client
            .service_builder()
            .description("delivers each account's KAZOO events to its WebSocket sessions")
            // Its own queue group: every edge gets every request.
            .queue_group(&edge)
            .metadata(metadata.into())
            .start(NAME, version::RELEASE)
            .await
            .map_err(failed)?;
        let session_requests =
            service.endpoint_builder().name("sessions").add(subjects.sessions()).await.map_err(failed)?;
        let family_requests =
            service.endpoint_builder().name("families").add(subjects.families()).await.map_err(failed)?;
        Ok(Control { client, subjects, edge, registry, families, service, session_requests, family_requests })
    }

    /// The edge's name in heartbeats and replies.
    pub(crate) fn edge(&self) -> &str {
        &self.edge
    }

    /// Answers until `shutdown`, then announces that the edge stops.
    pub(crate) async fn serve(mut self, shutdown: CancellationToken) {
        let following = tokio::spawn(stored::follow(
            self.client.clone(),
            self.subjects.stopped_families(),
            Arc::clone(&self.families),
            shutdown.clone(),
        ));
        let mut ticks = tokio::time::interval(HEARTBEAT_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = ticks.tick() => self.send_heartbeat(false).await,
                Some(request) = self.session_requests.next() => self.list(&request).await,
                Some(request) = self.family_requests.next() => self.switch(&request).await,
            }
        }
        let _ = following.await;
        let leave = async {
            self.send_heartbeat(true).await;
            let _ = self.service.stop().await;
            if self.client.connection_state() == State::Connected {
                let _ = self.client.flush().await;
            }
        };
        // Without it the ingests notice later, by the missing heartbeats.
        let _ = tokio::time::timeout(LEAVE_TIMEOUT, leave).await;
    }

    async fn send_heartbeat(&self, leaving: bool) {
        // A heartbeat that waited for the connection would be out of date.
        if self.client.connection_state() == State::Connected {
            let sessions = Some(self.registry.count() as u64);
            let heartbeat = EdgeHeartbeat { edge: self.edge.clone(), leaving, sessions };
            self.send(self.subjects.edges(), &heartbeat).await;
        }
    }

    async fn list(&self, request: &Request) {
        // An empty request lists all.
        let Some(filter) = read::<Option<SessionsRequest>>(request, b"null").await else { return };
        let filter = filter.unwrap_or_default();
        let max_bytes = MAX_PAGE_BYTES.min(self.client.server_info().max_payload / 4);
        let sessions = self.registry.list(&filter).await;
        let mut pages = pages(&self.edge, sessions, max_bytes).peekable();
        while let Some(page) = pages.next() {
            respond(request, page).await;
            if pages.peek().is_some() {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn switch(&self, request: &Request) {
        let Some(FamilyRequest { family, running }) = read(request, b"").await else { return };
        let error = self.families.set(&family, running).err().map(|unknown| unknown.to_string());
        let reply = FamilyReply { edge: self.edge.clone(), error };
        if let Ok(json) = serde_json::to_vec(&reply) {
            respond(request, json).await;
        }
    }

    async fn send(&self, subject: String, message: &impl Serialize) {
        // Serializing cannot fail, and a lost connection shows in the readiness.
        if let Ok(json) = serde_json::to_vec(message) {
            let _ = self.client.publish(subject, json.into()).await;
        }
    }
}

/// Reads a request's payload, or `default` if it is empty. Answers a request that cannot be read.
async fn read<R: DeserializeOwned>(request: &Request, default: &'static [u8]) -> Option<R> {
    let payload: &[u8] = if request.message.payload.is_empty() { default } else { &request.message.payload };
    match serde_json::from_slice(payload) {
        Ok(content) => Some(content),
        Err(error) => {
            let status = format!("the request cannot be read: {error}");
            let _ = request.respond(Err(async_nats::service::error::Error { code: 400, status })).await;
            None
        }
    }
}

async fn respond(request: &Request, json: Vec<u8>) {
    if let Err(error) = request.respond(Ok(json.into())).await {
        tracing::debug!(%error, "cannot answer a request over nats");
    }
}
