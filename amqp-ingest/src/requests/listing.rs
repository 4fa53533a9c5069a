//! The list of sessions: as Crossbar asks for it over AMQP, and for people on the admin port.

use blackhole_common::{
    admin::{AdminRequest, AdminResponse, StatusCode},
    wire::{SessionInfo, SessionsRequest},
};
use serde::{Deserialize, Serialize, Serializer};

use super::{
    Desk, Reply,
    envelope::{self, Envelope},
    gather::{Gathered, SessionsPart},
};
use crate::{
    error::IngestError,
    metrics::{RequestKind, RequestOutcome},
};

/// The exchange and the routing key of the request.
pub(super) const EXCHANGE: &str = "sysconf";
/// See [`EXCHANGE`].
pub(super) const KEY: &str = "websockets.get";

/// So many bytes of sessions at most go into an answer: a broker takes no message over 16 MiB.
const MOST_BYTES: usize = 12 << 20;
/// The same on the admin port, where one list at a time is made.
const MOST_BYTES_SHOWN: usize = 128 << 20;

/// Seconds from year 0, where KAZOO's clock begins, to 1970.
const GREGORIAN_EPOCH: u64 = 62_167_219_200;

/// What Crossbar asks for.
#[derive(Debug, Deserialize)]
struct Wanted {
    #[serde(rename = "Account-ID")]
    account_id: Option<String>,
    #[serde(rename = "Socket-ID")]
    socket_id: Option<String>,
}

/// A session as KAZOO knows it. What it has beside these members, KAZOO is not told.
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

/// The answer's own member: all sessions, or the only one.
#[derive(Debug, Serialize)]
struct Listing {
    #[serde(rename = "Data", serialize_with = "data")]
    gathered: (bool, Gathered<SessionsPart>),
}

/// One session after the other, so that few are held in full.
fn data<S: Serializer>(
    (only_one, gathered): &(bool, Gathered<SessionsPart>),
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut sockets = sessions(gathered).map(Socket::from);
    if *only_one && let Some(socket) = sockets.next() {
        return socket.serialize(serializer);
    }
    // Crossbar takes an empty list for no session, and need not wait.
    serializer.collect_seq(sockets)
}

/// The sessions that were gathered. They are read to the last member: what we do not know is not passed on.
fn sessions(gathered: &Gathered<SessionsPart>) -> impl Iterator<Item = SessionInfo> {
    let raw = gathered.parts.iter().flat_map(|part| &part.sessions);
    raw.filter_map(|session| match serde_json::from_str(session.get()) {
        Ok(session) => Some(session),
        Err(error) => {
            tracing::debug!(%error, "a session cannot be read");
            None
        }
    })
}

impl Desk {
    /// Answers Crossbar.
    ///
    /// # Errors
    /// When NATS is away. An empty list would say that there are no sessions.
    pub(super) async fn list(&self, body: &[u8]) -> Result<Option<Reply>, IngestError> {
        let (envelope, wanted) = match envelope::read::<Wanted>(body, "get_req").and_then(asked) {
            Ok(asked) => asked,
            Err(reason) => {
                self.drop_malformed(RequestKind::Sessions, &reason);
                return Ok(None);
            }
        };
        let only_one = wanted.session_id.is_some();
        let gathered = self.gather_sessions(&wanted, MOST_BYTES).await?;
        // An edge that is silent has not the one session that was found.
        let found = only_one && gathered.parts.iter().any(|part| !part.sessions.is_empty());
        let complete = found || gathered.is_complete();
        let outcome = if complete { RequestOutcome::Done } else { RequestOutcome::Partial };
        self.metrics.requests(RequestKind::Sessions, outcome).inc();
        if !complete {
            tracing::warn!(
                account_id = wanted.account_id,
                session_id = wanted.session_id,
                missing = gathered.missing.join(" "),
                too_many = gathered.cut,
                "a list of sessions is partial"
            );
        }
        let answer = Listing { gathered: (only_one, gathered) };
        Ok(self.reply("get_resp", &envelope, &answer))
    }

    /// Answers `GET /sessions`.
    pub(super) async fn show(&self, request: AdminRequest) -> AdminResponse {
        #[derive(Serialize)]
        struct Shown<'a> {
            complete: bool,
            /// Edges that did not answer in time.
            missing: &'a [String],
            #[serde(serialize_with = "in_turn")]
            sessions: &'a Gathered<SessionsPart>,
        }
        fn in_turn<S: Serializer>(
            gathered: &&Gathered<SessionsPart>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            serializer.collect_seq(sessions(gathered))
        }
        let Ok(_one_at_a_time) = self.shown.acquire().await else { return unavailable(&"the end") };
        let wanted = SessionsRequest {
            account_id: request.parameter("account_id"),
            session_id: request.parameter("session_id"),
        };
        let gathered = match self.gather_sessions(&wanted, MOST_BYTES_SHOWN).await {
            Ok(gathered) => gathered,
            Err(error) => return unavailable(&error),
        };
        let shown =
            Shown { complete: gathered.is_complete(), missing: &gathered.missing, sessions: &gathered };
        match serde_json::to_vec(&shown) {
            Ok(json) => AdminResponse::json(json),
            Err(error) => unavailable(&error),
        }
    }

    async fn gather_sessions(
        &self,
        wanted: &SessionsRequest,
        most: usize,
    ) -> Result<Gathered<SessionsPart>, IngestError> {
        self.asker.ask(self.subjects.sessions(), wanted, most).await
    }
}

fn unavailable(reason: &dyn std::fmt::Display) -> AdminResponse {
    AdminResponse::text(StatusCode::SERVICE_UNAVAILABLE, format!("the edges cannot be asked: {reason}\n"))
}

/// The question to the edges. As with KAZOO's Blackhole, one about neither an account nor a session is none.
fn asked((envelope, wanted): (Envelope, Wanted)) -> Result<(Envelope, SessionsRequest), String> {
    let wanted = SessionsRequest { account_id: wanted.account_id, session_id: wanted.socket_id };
    if envelope.server_id.is_none() {
        return Err("it has no Server-ID".into());
    }
    if wanted == SessionsRequest::default() {
        return Err("it has neither Account-ID nor Socket-ID".into());
    }
    Ok((envelope, wanted))
}
