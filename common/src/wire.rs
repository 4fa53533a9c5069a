//! Names and messages that the services exchange over NATS, version 1.
//!
//! The version is part of the subject prefix (`nats.prefix`, default `blackhole.v1`). Different releases can
//! run side by side: unknown members of messages are ignored, so members can be added.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::{Deserialize, Serialize};

use crate::owner::Own;

/// Header: the unique id of the event, for the stream's deduplication.
pub const MESSAGE_ID: &str = "Nats-Msg-Id";
/// Header: the AMQP exchange of the event.
pub const EXCHANGE: &str = "Bh-Exchange";
/// Header: the event's AMQP routing key, as [`header_text`].
pub const ROUTING_KEY: &str = "Bh-Key";
/// Header: the body's `Event-Name`, as [`header_text`].
pub const EVENT_NAME: &str = "Bh-Name";
/// Header: the zone of the broker that delivered the event (`amqp.brokers`), as [`header_text`]; absent if
/// there is only one broker without a name.
pub const ZONE: &str = "Bh-Zone";
/// Header: whose the event is within its account, as text of an [`Owner`](crate::owner::Owner); absent if the catalogue
/// does not say or the event names nobody.
pub const OWNER: &str = "Bh-Owner";
/// Header: when the ingest received the event over AMQP, in milliseconds since 1970; absent from older releases' events.
pub const RECEIVED: &str = "Bh-Time";
/// Header of a kept event ([`Subjects::state`]): its subject below [`Subjects::ingest`].
pub const STATE_SUBJECT: &str = "Bh-Subject";
/// Header of a kept event: its position in the stream of events.
pub const STATE_POSITION: &str = "Bh-Position";
/// Header of a kept event: all tenants that it names, with spaces between.
pub const STATE_TENANTS: &str = "Bh-Tenants";
/// Header of a kept event: until when it is kept without another event of its thing, in milliseconds since 1970.
pub const STATE_UNTIL: &str = "Bh-Until";
/// Header that nats-server sets on republished messages: the sequence in the stream.
pub const SEQUENCE: &str = "Nats-Sequence";

/// Escapes a text as the inside of a JSON string, in printable ASCII: safe in a header, and ready to be
/// spliced between the quotes of a frame. KAZOO's own names and keys do not change.
pub fn header_text(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    push_header_text(&mut escaped, text);
    escaped
}

/// Like [`header_text`], but appends to `escaped`.
pub fn push_header_text(escaped: &mut String, text: &str) {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
    // The common case.
    if text.bytes().all(is_plain) {
        escaped.push_str(text);
        return;
    }
    for (index, character) in text.char_indices() {
        match character {
            '"' | '\\' => escaped.extend(['\\', character]),
            // Leading and trailing spaces of a header value would be trimmed.
            ' ' if index == 0 || index + 1 == text.len() => escaped.push_str("\\u0020"),
            ' '..='~' => escaped.push(character),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    // Writing to a String cannot fail.
                    let _ = write!(escaped, "\\u{unit:04x}");
                }
            }
        }
    }
}

/// Whether a text is the inside of a JSON string in printable ASCII, as [`header_text`] writes it, so that it can be
/// spliced into a frame as it is.
pub fn is_header_text(text: &str) -> bool {
    if !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return false;
    }
    // The common case.
    if !text.contains('\\') {
        return !text.contains('"');
    }
    // Also refuses half of a surrogate pair, which not every parser reads.
    serde_json::from_str::<String>(&format!("\"{text}\"")).is_ok()
}

/// The subjects and other names below a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subjects {
    prefix: String,
}

impl Subjects {
    /// The subjects below `prefix` (`nats.prefix`).
    pub fn new(prefix: &str) -> Subjects {
        Subjects { prefix: prefix.to_owned() }
    }

    /// `<prefix>.ingest`, followed by tenant and routing key: amqp-ingest publishes here, and the stream stores it.
    pub fn ingest(&self) -> String {
        format!("{}.ingest", self.prefix)
    }

    /// `<prefix>.event`, followed by tenant and routing key: the stream republishes stored events here, for
    /// subscribers.
    pub fn event(&self) -> String {
        format!("{}.event", self.prefix)
    }

    /// auth-svc answers each [`AuthRequest`] here with an [`AuthReply`], both JSON.
    pub fn auth_check(&self) -> String {
        format!("{}.auth.check", self.prefix)
    }

    /// auth-svc answers each [`NumberRequest`] here with a [`NumberReply`], both JSON.
    pub fn auth_number(&self) -> String {
        format!("{}.auth.number", self.prefix)
    }

    /// auth-svc publishes an [`AuthChanged`] here when its sources have changed.
    pub fn auth_changed(&self) -> String {
        format!("{}.auth.changed", self.prefix)
    }

    /// Every edge answers a [`SessionsRequest`] here with one or more [`SessionsReply`]s, JSON. There is no
    /// queue group, so the caller has to gather the replies.
    pub fn sessions(&self) -> String {
        format!("{}.sessions", self.prefix)
    }

    /// Every edge publishes an [`EdgeHeartbeat`] here, so that callers know from which edges to expect a reply.
    pub fn edges(&self) -> String {
        format!("{}.edges", self.prefix)
    }

    /// Every edge answers a [`FamilyRequest`] here with a [`FamilyReply`], JSON. There is no queue group.
    pub fn families(&self) -> String {
        format!("{}.families", self.prefix)
    }

    /// The key-value bucket of persistently stopped families. Its keys are the families' names.
    pub fn stopped_families(&self) -> String {
        format!("{}_STOPPED_FAMILIES", self.stream())
    }

    /// The key-value bucket in which auth-svc remembers which account has which realm.
    pub fn realms(&self) -> String {
        format!("{}_REALMS", self.stream())
    }

    /// `<prefix>.state`, followed by tenant, family and a digest of the thing: the last event of each living thing, one
    /// message per subject. [`Subjects::state_progress`] is below it, too.
    pub fn state(&self) -> String {
        format!("{}.state", self.prefix)
    }

    /// How far the kept events are: a [`StateProgress`], JSON.
    pub fn state_progress(&self) -> String {
        format!("{}.state.progress", self.prefix)
    }

    /// The name of the stream of kept events.
    pub fn state_stream(&self) -> String {
        format!("{}_STATE", self.stream())
    }

    /// One amqp-ingest of a queue group answers a [`TargetedRequest`] here with a [`TargetedReply`], JSON.
    pub fn targeted(&self) -> String {
        format!("{}.targeted", self.prefix)
    }

    /// The stream's name: `BLACKHOLE_V1` for the prefix `blackhole.v1`.
    pub fn stream(&self) -> String {
        self.prefix.replace('.', "_").to_ascii_uppercase()
    }
}

/// Longer tokens are refused without parsing. KAZOO's have less than 1 KiB; HTTP servers commonly limit
/// headers to 8 KiB.
pub const MAX_TOKEN_BYTES: usize = 8192;
/// The refusal of longer tokens.
pub const TOKEN_TOO_LONG: &str = "token is too long";

/// Asks for the bearer of a token, and for the access it has to an account.
#[derive(Clone, Serialize, Deserialize)]
pub struct AuthRequest {
    /// The token as the client sent it.
    pub token: String,
    /// The requested account; `*` for all accounts; absent for the token's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_id: Option<String>,
}

/// The reply to an [`AuthRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "token", rename_all = "snake_case")]
pub enum AuthReply {
    /// The token is invalid, or its account is disabled or does not exist.
    Refused {
        /// Why; may be shown to the client.
        reason: String,
    },
    /// The token is valid.
    Accepted {
        /// The bearer of the token.
        bearer: Bearer,
        /// The access to the requested account.
        access: Access,
    },
}

/// The bearer of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bearer {
    /// The token's account.
    pub account_id: String,
    /// When the token expires, in Unix seconds.
    pub expires_at: u64,
    /// Whether the account is a superduper admin.
    pub superduper_admin: bool,
    /// The token's id, which KAZOO uses to address events to this token alone; absent in replies of older releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_id: Option<String>,
}

/// The access that a token has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "access", rename_all = "snake_case")]
pub enum Access {
    /// The events of one account.
    Account {
        /// Its id.
        account_id: String,
        /// Its SIP realm, for events that name only the realm.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        realm: Option<String>,
        /// Since when it has this realm, in milliseconds since 1970, if that is known: earlier events of the realm are
        /// another's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        realm_since_ms: Option<u64>,
    },
    /// The events of one account that are one user's own (`auth.users`). A release that does not know this refuses the
    /// reply as a whole, and so grants nothing.
    Own {
        /// The account's id.
        account_id: String,
        /// As in [`Access::Account`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        realm: Option<String>,
        /// As in [`Access::Account`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        realm_since_ms: Option<u64>,
        /// What the user owns.
        own: Own,
    },
    /// All events, including those without a tenant.
    All,
    /// No access to the requested account.
    Denied {
        /// Why; for the operator's log.
        reason: String,
    },
}

impl Access {
    /// The account, if it is to one.
    pub fn account_id(&self) -> Option<&str> {
        match self {
            Access::Account { account_id, .. } | Access::Own { account_id, .. } => Some(account_id),
            Access::All | Access::Denied { .. } => None,
        }
    }

    /// What the user owns whose events these are; `None` if they are not restricted to one user's.
    pub fn own(&self) -> Option<&Own> {
        match self {
            Access::Own { own, .. } => Some(own),
            Access::Account { .. } | Access::All | Access::Denied { .. } => None,
        }
    }

    /// Since when the account has its realm, in milliseconds since 1970, if that is known.
    pub fn realm_since_ms(&self) -> Option<u64> {
        match self {
            Access::Account { realm_since_ms, .. } | Access::Own { realm_since_ms, .. } => *realm_since_ms,
            Access::All | Access::Denied { .. } => None,
        }
    }
}

/// Tells the edges that earlier replies may no longer be true, so that they ask again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthChanged {
    /// The accounts that have changed; absent if any may have, or keys have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accounts: Option<Vec<String>>,
}

/// Longer numbers are nobody's. E.164 allows 15 digits; what is dialled may have more before them.
pub const MAX_NUMBER_BYTES: usize = 32;

/// Asks for the account of the number that was dialled. An event names it in several places; which of them counts is
/// known to KAZOO, and so to auth-svc. A number that is none ([`MAX_NUMBER_BYTES`]) is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NumberRequest {
    /// The user part of `Request`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// The user part of `To`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// `To-DID`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_did: Option<String>,
}

/// The reply to a [`NumberRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "number", rename_all = "snake_case")]
pub enum NumberReply {
    /// An account has the number.
    Assigned {
        /// Its id.
        account_id: String,
    },
    /// Nobody has it.
    Unassigned,
    /// No source of this auth-svc knows numbers: asking again is of no use for a while.
    Unserved,
}

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

#[cfg(test)]
mod contract;
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_derived_from_the_prefix() {
        let subjects = Subjects::new("blackhole.v1");
        assert_eq!(subjects.ingest(), "blackhole.v1.ingest");
        assert_eq!(subjects.event(), "blackhole.v1.event");
        assert_eq!(subjects.auth_check(), "blackhole.v1.auth.check");
        assert_eq!(subjects.auth_number(), "blackhole.v1.auth.number");
        assert_eq!(subjects.auth_changed(), "blackhole.v1.auth.changed");
        assert_eq!(subjects.sessions(), "blackhole.v1.sessions");
        assert_eq!(subjects.edges(), "blackhole.v1.edges");
        assert_eq!(subjects.families(), "blackhole.v1.families");
        assert_eq!(subjects.targeted(), "blackhole.v1.targeted");
        assert_eq!(subjects.stream(), "BLACKHOLE_V1");
        assert_eq!(subjects.stopped_families(), "BLACKHOLE_V1_STOPPED_FAMILIES");
        assert_eq!(subjects.realms(), "BLACKHOLE_V1_REALMS");
        assert_eq!(subjects.state(), "blackhole.v1.state");
        assert_eq!(subjects.state_progress(), "blackhole.v1.state.progress");
        assert_eq!(subjects.state_stream(), "BLACKHOLE_V1_STATE");
    }

    proptest::proptest! {
        #[test]
        fn header_texts_round_trip_through_json(text in " ?.{0,20} ?") {
            let escaped = header_text(&text);
            proptest::prop_assert!(is_header_text(&escaped));
            proptest::prop_assert_eq!(escaped.trim(), &escaped);
            let back: String = serde_json::from_str(&format!("\"{escaped}\"")).unwrap();
            proptest::prop_assert_eq!(back, text);
        }

        #[test]
        fn header_texts_are_exactly_the_insides_of_ascii_json_strings(text in "[a\"\\\\,{}\nu0é]{0,8}") {
            let json = format!("\"{text}\"");
            let is_string = serde_json::from_str::<&serde_json::value::RawValue>(&json).is_ok();
            proptest::prop_assert_eq!(is_header_text(&text), is_string && text.is_ascii());
        }
    }

    #[test]
    fn half_of_a_surrogate_pair_is_no_header_text() {
        assert!(is_header_text("\\ud83d\\ude00"));
        assert!(!is_header_text("\\ud83d") && !is_header_text("\\ude00\\ud83d"));
    }

    /// The release before knows three kinds of access. It must not take this one for access to the whole account.
    #[test]
    fn a_restriction_is_nothing_that_an_older_edge_can_read() {
        #[derive(Deserialize)]
        #[serde(tag = "access", rename_all = "snake_case")]
        #[expect(dead_code, reason = "only whether it can be read counts")]
        enum Before {
            Account { account_id: String, realm: Option<String>, realm_since_ms: Option<u64> },
            All,
            Denied { reason: String },
        }
        let own: Own = [crate::owner::Owner::Document("u".into())].into_iter().collect();
        let access = Access::Own { account_id: "a".into(), realm: None, realm_since_ms: None, own };
        let json = serde_json::to_string(&access).unwrap();
        assert_eq!(json, r#"{"access":"own","account_id":"a","own":["id:u"]}"#);
        assert!(serde_json::from_str::<Before>(&json).is_err());
        assert!(serde_json::from_str::<Before>(&json.replace("\"own\",", "\"account\",")).is_ok());
        // Nor is one that does not say what is the user's own.
        assert!(serde_json::from_str::<Access>(r#"{"access":"own","account_id":"a"}"#).is_err());
    }

    #[test]
    fn replies_have_a_stable_json_form() {
        let reply = AuthReply::Accepted {
            bearer: Bearer {
                account_id: "a".into(),
                expires_at: 7,
                superduper_admin: false,
                token_id: Some("t".into()),
            },
            access: Access::Account { account_id: "b".into(), realm: Some("r".into()), realm_since_ms: None },
        };
        assert_eq!(
            serde_json::to_string(&reply).unwrap(),
            r#"{"token":"accepted","bearer":{"account_id":"a","expires_at":7,"superduper_admin":false,"token_id":"t"},"access":{"access":"account","account_id":"b","realm":"r"}}"#
        );
        // Replies of older releases lack members that were added later.
        let older = r#"{"account_id":"a","expires_at":7,"superduper_admin":false}"#;
        let bearer: Bearer = serde_json::from_str(older).unwrap();
        assert_eq!(bearer.token_id, None);
        assert_eq!(serde_json::to_string(&bearer).unwrap(), older);
        let refused = AuthReply::Refused { reason: "expired".into() };
        assert_eq!(serde_json::to_string(&refused).unwrap(), r#"{"token":"refused","reason":"expired"}"#);
    }
}
