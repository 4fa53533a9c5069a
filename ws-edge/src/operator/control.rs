//! What the edge tells and answers on NATS, beside events: its sign of life, its sessions, its families. It is the
//! NATS micro service `blackhole-edge`: `nats micro ls` shows every edge, and every one of them answers.

use std::{sync::Arc, time::Duration};

use async_nats::{
    Client,
    connection::State,
    service::{Request, Service, ServiceExt, endpoint::Endpoint},
};
use blackhole_common::wire::{EdgeHeartbeat, FamilyReply, FamilyRequest, SessionsRequest, Subjects};
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
pub(crate) const NAME: &str = "blackhole-edge";
/// How often an edge tells that it is there.
const BEAT_INTERVAL: Duration = Duration::from_secs(5);
/// How long the farewell may take.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
/// A message holds so much at most, and a quarter of what the server takes.
const MAX_PAGE_BYTES: usize = 256 * 1024;

/// The edge's side of what edges, ingests and people say to each other.
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

/// A name for this run of the edge on `host`, fit for NATS.
pub(crate) fn edge_name(host: &str) -> String {
    let host: String = host
        .chars()
        .map(
            |character| {
                if character.is_ascii_alphanumeric() || "-.".contains(character) { character } else { '_' }
            },
        )
        .collect();
    format!("{host}-{:016x}", rand::random::<u64>())
}

impl Control {
    /// Sets the service up; it is there as soon as NATS is.
    ///
    /// # Errors
    /// When the client is closed.
    pub(crate) async fn start(
        client: Client,
        subjects: Subjects,
        host: &str,
        registry: Arc<Registry>,
        families: Arc<Families>,
    ) -> Result<Control, EdgeError> {
        let failed = |error: async_nats::Error| EdgeError::Service { name: NAME, reason: error.to_string() };
        let edge = edge_name(host);
        let service = client
            .service_builder()
            .description("serves WebSocket sessions with the events of their accounts")
            // One of its own, so that every edge gets every request.
            .queue_group(&edge)
            .metadata([("edge".to_owned(), edge.clone()), ("host".to_owned(), host.to_owned())].into())
            .start(NAME, env!("CARGO_PKG_VERSION"))
            .await
            .map_err(failed)?;
        let session_requests =
            service.endpoint_builder().name("sessions").add(subjects.sessions()).await.map_err(failed)?;
        let family_requests =
            service.endpoint_builder().name("families").add(subjects.families()).await.map_err(failed)?;
        Ok(Control { client, subjects, edge, registry, families, service, session_requests, family_requests })
    }

    /// The edge's name, as the others know it.
    pub(crate) fn edge(&self) -> &str {
        &self.edge
    }

    /// Answers until `shutdown`, then says farewell.
    pub(crate) async fn serve(mut self, shutdown: CancellationToken) {
        let following = tokio::spawn(stored::follow(
            self.client.clone(),
            self.subjects.stopped_families(),
            Arc::clone(&self.families),
            shutdown.clone(),
        ));
        let mut beat = tokio::time::interval(BEAT_INTERVAL);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = beat.tick() => self.beat(false).await,
                Some(request) = self.session_requests.next() => self.list(&request).await,
                Some(request) = self.family_requests.next() => self.switch(&request).await,
            }
        }
        let _ = following.await;
        let farewell = async {
            self.beat(true).await;
            let _ = self.service.stop().await;
            if self.client.connection_state() == State::Connected {
                let _ = self.client.flush().await;
            }
        };
        // Without it the others find out by themselves, later.
        let _ = tokio::time::timeout(FAREWELL_TIMEOUT, farewell).await;
    }

    async fn beat(&self, leaving: bool) {
        // What waited for a connection would tell of the past.
        if self.client.connection_state() == State::Connected {
            let beat = EdgeHeartbeat { edge: self.edge.clone(), leaving };
            self.send(self.subjects.edges(), &beat).await;
        }
    }

    async fn list(&self, request: &Request) {
        // An empty request asks for all.
        let Some(wanted) = asked::<Option<SessionsRequest>>(request, b"null").await else { return };
        let wanted = wanted.unwrap_or_default();
        let most = MAX_PAGE_BYTES.min(self.client.server_info().max_payload / 4);
        let sessions = self.registry.list(&wanted).await;
        let mut pages = pages(&self.edge, sessions, most).peekable();
        while let Some(page) = pages.next() {
            respond(request, page).await;
            if pages.peek().is_some() {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn switch(&self, request: &Request) {
        let Some(FamilyRequest { family, running }) = asked(request, b"").await else { return };
        let error = self.families.set(&family, running).err().map(|unknown| unknown.to_string());
        let reply = FamilyReply { edge: self.edge.clone(), error };
        if let Ok(json) = serde_json::to_vec(&reply) {
            respond(request, json).await;
        }
    }

    async fn send(&self, subject: String, message: &impl Serialize) {
        // These messages are always JSON; a failure to send is the connection's, which readiness shows.
        if let Ok(json) = serde_json::to_vec(message) {
            let _ = self.client.publish(subject, json.into()).await;
        }
    }
}

/// What a request asks for, `empty` where it has no payload. One that cannot be read is answered.
async fn asked<R: DeserializeOwned>(request: &Request, empty: &'static [u8]) -> Option<R> {
    let payload: &[u8] = if request.message.payload.is_empty() { empty } else { &request.message.payload };
    match serde_json::from_slice(payload) {
        Ok(asked) => Some(asked),
        Err(error) => {
            let status = format!("the request cannot be read: {error}");
            let _ = request.respond(Err(async_nats::service::error::Error { code: 400, status })).await;
            None
        }
    }
}

async fn respond(request: &Request, json: Vec<u8>) {
    if let Err(error) = request.respond(Ok(json.into())).await {
        tracing::debug!(%error, "a request over nats could not be answered");
    }
}
