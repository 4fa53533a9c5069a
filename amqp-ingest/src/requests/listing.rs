//! The list of sessions: for Crossbar over AMQP, and for operators on the admin port.

use blackhole_common::{
    admin::{AdminRequest as HttpRequest, AdminResponse as HttpResponse, StatusCode},
    wire::{SessionInfo, SessionsRequest},
};
use serde::{Deserialize, Serialize, Serializer};

use super::{
    envelope::{self, Envelope},
    gather::{Gathered, SessionsPart},
    handler::{RequestHandler, Response},
};
use crate::{
    error::IngestError,
    metrics::{RequestKind, RequestOutcome},
};

/// The exchange of the request.
pub(super) const EXCHANGE: &str = "sysconf";
/// The routing key of the request.
pub(super) const KEY: &str = "websockets.get";

/// Limit of a response to Crossbar: brokers accept messages of up to 16 MiB.
const MAX_CROSSBAR_BYTES: usize = 12 << 20;
/// Limit of a response on the admin port, which serves one list at a time.
const MAX_ADMIN_BYTES: usize = 128 << 20;

/// Seconds from year 0, the epoch of KAZOO's Gregorian timestamps, to 1970.
const GREGORIAN_EPOCH: u64 = 62_167_219_200;

/// Crossbar's request.
#[derive(Debug, Deserialize)]
struct SocketsRequest {
    #[serde(rename = "Account-ID")]
    account_id: Option<String>,
    #[serde(rename = "Socket-ID")]
    socket_id: Option<String>,
}

/// A session in the form that KAZOO expects. Other members are not sent to KAZOO.
#[derive(Debug, Serialize)]
struct Socket {
    bindings: Vec<String>,
    websocket_session_id: String,
    /// In Gregorian seconds.
    timestamp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<serde_json::Value>,
    destination: String,
    source: String,
}

impl From<SessionInfo> for Socket {
    fn from(session: SessionInfo) -> Socket {
        Socket {
            bindings: session.bindings,
            websocket_session_id: session.session_id,
            timestamp: session.since.saturating_add(GREGORIAN_EPOCH),
            name: session.name,
            metadata: session.metadata,
            destination: session.destination,
            source: session.source,
        }
    }
}

/// The member of the response, besides the envelope's: a list of sessions, or a single session.
#[derive(Debug, Serialize)]
struct SocketsResponse {
    #[serde(rename = "Data", serialize_with = "serialize_sockets")]
    data: (bool, Gathered<SessionsPart>),
}

/// Parses and serializes one session at a time, to limit memory.
fn serialize_sockets<S: Serializer>(
    (is_single, gathered): &(bool, Gathered<SessionsPart>),
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut sockets = sessions(gathered).map(Socket::from);
    if *is_single && let Some(socket) = sockets.next() {
        return socket.serialize(serializer);
    }
    // For Crossbar an empty list means that there is no such session.
    serializer.collect_seq(sockets)
}

/// The gathered sessions. They are parsed in full, so unknown members are not forwarded.
fn sessions(gathered: &Gathered<SessionsPart>) -> impl Iterator<Item = SessionInfo> {
    let raw = gathered.parts.iter().flat_map(|part| &part.sessions);
    raw.filter_map(|session| match serde_json::from_str(session.get()) {
        Ok(session) => Some(session),
        Err(error) => {
            tracing::debug!(%error, "cannot parse a session");
            None
        }
    })
}

impl RequestHandler {
    /// Lists sessions for Crossbar.
    ///
    /// # Errors
    /// If NATS is not available. There is no response then: an empty list would mean that there are no sessions.
    pub(super) async fn list_sockets(&self, body: &[u8]) -> Result<Option<Response>, IngestError> {
        let (envelope, request) = match parse(body) {
            Ok(parsed) => parsed,
            Err(reason) => {
                self.drop_malformed(RequestKind::Sessions, &reason);
                return Ok(None);
            }
        };
        let is_single = request.session_id.is_some();
        let gathered = self.gather_sessions(&request, MAX_CROSSBAR_BYTES).await?;
        // A session belongs to one edge: once it is found, missing edges do not matter.
        let found = is_single && gathered.parts.iter().any(|part| !part.sessions.is_empty());
        let complete = found || gathered.is_complete();
        let outcome = if complete { RequestOutcome::Done } else { RequestOutcome::Partial };
        self.metrics.requests(RequestKind::Sessions, outcome).inc();
        if !complete {
            tracing::warn!(
                account_id = request.account_id,
                session_id = request.session_id,
                missing = gathered.missing.join(" "),
                too_many = gathered.truncated,
                "a list of sessions is partial"
            );
        }
        let response = SocketsResponse { data: (is_single, gathered) };
        Ok(self.respond("get_resp", &envelope, &response))
    }

    /// Handles `GET /sessions`.
    pub(super) async fn get_sessions(&self, request: HttpRequest) -> HttpResponse {
        #[derive(Serialize)]
        struct Page<'a> {
            complete: bool,
            /// Edges that did not reply in time.
            missing: &'a [String],
            #[serde(serialize_with = "serialize_sessions")]
            sessions: &'a Gathered<SessionsPart>,
        }
        fn serialize_sessions<S: Serializer>(
            gathered: &&Gathered<SessionsPart>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            serializer.collect_seq(sessions(gathered))
        }
        let Ok(_permit) = self.admin_listing.acquire().await else { return unavailable(&"shutting down") };
        let request = SessionsRequest {
            account_id: request.parameter("account_id"),
            session_id: request.parameter("session_id"),
        };
        let gathered = match self.gather_sessions(&request, MAX_ADMIN_BYTES).await {
            Ok(gathered) => gathered,
            Err(error) => return unavailable(&error),
        };
        let page = Page { complete: gathered.is_complete(), missing: &gathered.missing, sessions: &gathered };
        match serde_json::to_vec(&page) {
            Ok(json) => HttpResponse::json(json),
            Err(error) => unavailable(&error),
        }
    }

    async fn gather_sessions(
        &self,
        request: &SessionsRequest,
        max_bytes: usize,
    ) -> Result<Gathered<SessionsPart>, IngestError> {
        self.requester.request(self.subjects.sessions(), request, max_bytes).await
    }
}

fn unavailable(reason: &dyn std::fmt::Display) -> HttpResponse {
    HttpResponse::text(StatusCode::SERVICE_UNAVAILABLE, format!("the edges cannot be asked: {reason}\n"))
}

/// Parses Crossbar's request: its envelope, and the request to the edges.
///
/// # Errors
/// Why it is invalid, for the log.
pub fn parse(body: &[u8]) -> Result<(Envelope, SessionsRequest), String> {
    envelope::parse::<SocketsRequest>(body, "get_req").and_then(sessions_request)
}

/// The request to the edges. Like KAZOO's Blackhole, it requires an account or a session.
fn sessions_request(
    (envelope, request): (Envelope, SocketsRequest),
) -> Result<(Envelope, SessionsRequest), String> {
    let request = SessionsRequest { account_id: request.account_id, session_id: request.socket_id };
    if envelope.server_id.is_none() {
        return Err("it has no Server-ID".into());
    }
    if request == SessionsRequest::default() {
        return Err("it has neither Account-ID nor Socket-ID".into());
    }
    Ok((envelope, request))
}
