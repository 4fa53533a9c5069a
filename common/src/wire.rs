//! Names and messages that the services exchange over NATS, version 1.
//!
//! The version is part of the subject prefix (`nats.prefix`, default `blackhole.v1`). Different releases can
//! run side by side: unknown members of messages are ignored, so members can be added.

mod auth;
#[cfg(test)]
mod contract;
mod headers;
mod subjects;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::{
    auth::{
        Access, AuthChanged, AuthReply, AuthRequest, Bearer, MAX_NUMBER_BYTES, MAX_TOKEN_BYTES, NumberReply,
        NumberRequest, TOKEN_TOO_LONG,
    },
    headers::{
        EVENT_NAME, EXCHANGE, MESSAGE_ID, OWNER, RECEIVED, ROUTING_KEY, SEQUENCE, STATE_POSITION,
        STATE_SUBJECT, STATE_TENANTS, STATE_UNTIL, ZONE, header_text, is_header_text, push_header_text,
    },
    subjects::Subjects,
};

/// Asks all edges for their sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionsRequest {
    /// Only sessions of this account; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_id: Option<String>,
    /// Only this session; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
}

/// A part of one edge's reply to a [`SessionsRequest`]: long lists are split over several messages. Code that only
/// forwards sessions may deserialize them as a simpler type `S`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionsReply<S = SessionInfo> {
    /// The edge, as in its [`EdgeHeartbeat`].
    pub edge: String,
    /// Whether this is the last part.
    pub last: bool,
    /// The sessions.
    pub sessions: Vec<S>,
}

/// A session as listed. It never contains a token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// The session's id, unique across all edges.
    pub session_id: String,
    /// The account of its token; absent before it has authenticated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_id: Option<String>,
    /// The bindings, as the client sent them.
    pub bindings: Vec<String>,
    /// When it started, in Unix seconds.
    pub since: u64,
    /// The name set by the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Arbitrary JSON set by the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<serde_json::Value>,
    /// The client's address.
    pub source: String,
    /// The host name of the edge.
    pub destination: String,
}

/// The heartbeat of an edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeHeartbeat {
    /// The edge's id, unique to this run of it.
    pub edge: String,
    /// The edge is stopping; do not wait for its replies.
    #[serde(default)]
    pub leaving: bool,
    /// How many sessions it has. Releases up to 0.1.0 do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u64>,
}

/// Starts or stops a binding family on all running edges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FamilyRequest {
    /// The family's name in the catalogue.
    pub family: String,
    /// Whether to start it, else stop it.
    pub running: bool,
}

/// An edge's reply to a [`FamilyRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FamilyReply {
    /// The edge, as in its [`EdgeHeartbeat`].
    pub edge: String,
    /// Why the request failed; absent on success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Asks to publish a message to KAZOO's exchange `targeted`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetedRequest {
    /// The routing key: the `Server-ID` of the recipient.
    pub server_id: String,
    /// The zone of the broker; absent for all brokers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The message.
    pub body: serde_json::Map<String, serde_json::Value>,
}

/// The reply to a [`TargetedRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetedReply {
    /// Why it was not published; absent once a broker has confirmed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How far the kept events are: they say what is true at [`StateProgress::position`], and something of what came later.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateProgress {
    /// When the stream of events was created, as the server writes it: positions are those of this stream.
    pub stream: String,
    /// Everything up to this position is in the kept events.
    pub position: u64,
    /// The families of which something is kept.
    pub families: BTreeMap<String, StateFamily>,
}

/// What is kept of a family.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateFamily {
    /// What defines its things. When it changes, the state begins anew.
    pub definition: String,
    /// Messages of the stream of kept events up to this one do not count.
    pub begins: u64,
    /// Things without an event since this time, in milliseconds since 1970, may be missing.
    pub since_ms: u64,
}
