//! Names and messages that the services exchange over NATS, version 1.
//!
//! The version stands in the subject prefix (`nats.prefix`, default `blackhole.v1`), so services of different
//! releases run side by side. Unknown members of messages are ignored: members can be added.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// Header: what the event is told apart by, for the stream's duplicate window.
pub const MESSAGE_ID: &str = "Nats-Msg-Id";
/// Header: the AMQP exchange that the event came through.
pub const EXCHANGE: &str = "Bh-Exchange";
/// Header: the event's AMQP routing key, as [`header_text`].
pub const ROUTING_KEY: &str = "Bh-Key";
/// Header: the body's `Event-Name`, as [`header_text`].
pub const EVENT_NAME: &str = "Bh-Name";
/// Header: the zone of the broker that the event came through (`amqp.brokers`), as [`header_text`]; absent where
/// there is one broker without a name.
pub const ZONE: &str = "Bh-Zone";
/// Header that nats-server sets on a republished message: its position in the stream.
pub const SEQUENCE: &str = "Nats-Sequence";

/// A text as the inside of a JSON string of printable ASCII: safe in a header, and ready to be spliced between
/// the quotes of a frame. KAZOO's own names and keys pass unchanged.
pub fn header_text(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    push_header_text(&mut escaped, text);
    escaped
}

/// [`header_text`], behind what is there.
pub fn push_header_text(escaped: &mut String, text: &str) {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
    // Nearly all there is.
    if text.bytes().all(is_plain) {
        escaped.push_str(text);
        return;
    }
    for (index, character) in text.char_indices() {
        match character {
            '"' | '\\' => escaped.extend(['\\', character]),
            // Spaces at the ends of a header's value are not kept on the way.
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

/// Whether a text could come from [`header_text`], so that it may be spliced unread: the inside of a JSON string, of
/// printable ASCII.
pub fn is_header_text(text: &str) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let fine = match byte {
            b'\\' => match bytes.next() {
                Some(b'u') => (0..4).all(|_| bytes.next().is_some_and(|digit| digit.is_ascii_hexdigit())),
                escaped => matches!(escaped, Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't')),
            },
            b' '..=b'~' => byte != b'"',
            _ => false,
        };
        if !fine {
            return false;
        }
    }
    true
}

/// The subjects below a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subjects {
    prefix: String,
}

impl Subjects {
    /// Subjects below `prefix` (`nats.prefix`).
    pub fn new(prefix: &str) -> Subjects {
        Subjects { prefix: prefix.to_owned() }
    }

    /// Where amqp-ingest publishes: `<prefix>.ingest`, followed by tenant and routing key. The stream takes it.
    pub fn ingest(&self) -> String {
        format!("{}.ingest", self.prefix)
    }

    /// Where subscribers listen: `<prefix>.event`, followed by tenant and routing key. The stream republishes
    /// there what it has stored.
    pub fn event(&self) -> String {
        format!("{}.event", self.prefix)
    }

    /// Where auth-svc answers an [`AuthRequest`] with an [`AuthReply`], both JSON.
    pub fn auth_check(&self) -> String {
        format!("{}.auth.check", self.prefix)
    }

    /// Where every edge answers a [`SessionsRequest`] with one or more [`SessionsReply`]s, JSON. Without a queue
    /// group: who asks has to gather.
    pub fn sessions(&self) -> String {
        format!("{}.sessions", self.prefix)
    }

    /// Where every edge tells that it is there, with an [`EdgeHeartbeat`], so that who gathers knows whom to wait for.
    pub fn edges(&self) -> String {
        format!("{}.edges", self.prefix)
    }

    /// Where every edge answers a [`FamilyRequest`] with a [`FamilyReply`], JSON. Without a queue group.
    pub fn families(&self) -> String {
        format!("{}.families", self.prefix)
    }

    /// The key-value bucket of families that were stopped persistently: the key is the family's name.
    pub fn stopped_families(&self) -> String {
        format!("{}_STOPPED_FAMILIES", self.stream())
    }

    /// Where one amqp-ingest of a queue group answers a [`TargetedRequest`] with a [`TargetedReply`], JSON.
    pub fn targeted(&self) -> String {
        format!("{}.targeted", self.prefix)
    }

    /// The stream's name: `blackhole.v1` has `BLACKHOLE_V1`.
    pub fn stream(&self) -> String {
        self.prefix.replace('.', "_").to_ascii_uppercase()
    }
}

/// Longer tokens are refused unread: KAZOO's have less than 1 KiB, and 8 KiB is what HTTP servers take in headers.
pub const MAX_TOKEN_BYTES: usize = 8192;
/// What is said of those.
pub const TOKEN_TOO_LONG: &str = "token is too long";

/// Asks who bears a token, and what of an account it may see.
#[derive(Clone, Serialize, Deserialize)]
pub struct AuthRequest {
    /// The token as the client sent it.
    pub token: String,
    /// The account whose events are wanted; `*` for all; absent for the token's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_id: Option<String>,
}

/// The answer to an [`AuthRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "token", rename_all = "snake_case")]
pub enum AuthReply {
    /// The token is not good, or its account is not there (any more).
    Refused {
        /// Why, in words a client may read.
        reason: String,
    },
    /// The token is good.
    Accepted {
        /// What it says.
        bearer: Bearer,
        /// What it may see.
        access: Access,
    },
}

/// Who bears a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bearer {
    /// The token's account.
    pub account_id: String,
    /// When the token ends, in Unix seconds.
    pub expires_at: u64,
    /// Whether the account is a superduper admin's.
    pub superduper_admin: bool,
    /// The token's own id, by which KAZOO addresses what is for its bearer alone; absent from an auth-svc that
    /// does not tell it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_id: Option<String>,
}

/// What may be seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "access", rename_all = "snake_case")]
pub enum Access {
    /// The events of one account.
    Account {
        /// Its id.
        account_id: String,
        /// Its SIP realm, for events that carry nothing else.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        realm: Option<String>,
    },
    /// The events of all accounts and of nobody.
    All,
    /// Nothing of the account that was asked for.
    Denied {
        /// Why, for the operator's log.
        reason: String,
    },
}

/// Asks the edges for their sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionsRequest {
    /// Only those of this account; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_id: Option<String>,
    /// Only this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
}

/// A part of one edge's answer to a [`SessionsRequest`]: lists that do not fit one message come in several. Who only
/// passes the sessions on may read them as something simpler.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionsReply<S = SessionInfo> {
    /// The edge, as in its [`EdgeHeartbeat`].
    pub edge: String,
    /// Whether no further part follows.
    pub last: bool,
    /// The sessions.
    pub sessions: Vec<S>,
}

/// A session as it is listed. It never holds a token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// The session's id: unique over all edges.
    pub session_id: String,
    /// The account of its token; absent while it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_id: Option<String>,
    /// The bindings, as the client wrote them.
    pub bindings: Vec<String>,
    /// When it began, in Unix seconds.
    pub since: u64,
    /// The name that the client gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Free JSON that the client gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<serde_json::Value>,
    /// The client's address.
    pub source: String,
    /// The edge's host.
    pub destination: String,
}

/// An edge's sign of life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeHeartbeat {
    /// Unique to this run of the edge.
    pub edge: String,
    /// It is stopping: nobody has to wait for it any more.
    #[serde(default)]
    pub leaving: bool,
}

/// Starts or stops a binding family on the edges that are there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FamilyRequest {
    /// The family's name in the catalogue.
    pub family: String,
    /// Whether it is to serve.
    pub running: bool,
}

/// An edge's answer to a [`FamilyRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FamilyReply {
    /// The edge, as in its [`EdgeHeartbeat`].
    pub edge: String,
    /// Why not, where it is not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Asks to publish a message to KAZOO's exchange `targeted`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetedRequest {
    /// The routing key: the `Server-ID` of whom it is for.
    pub server_id: String,
    /// The zone of the broker; absent for every broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The message.
    pub body: serde_json::Map<String, serde_json::Value>,
}

/// The answer to a [`TargetedRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetedReply {
    /// Why it was not published; absent when a broker has confirmed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_from_the_prefix() {
        let subjects = Subjects::new("blackhole.v1");
        assert_eq!(subjects.ingest(), "blackhole.v1.ingest");
        assert_eq!(subjects.event(), "blackhole.v1.event");
        assert_eq!(subjects.auth_check(), "blackhole.v1.auth.check");
        assert_eq!(subjects.sessions(), "blackhole.v1.sessions");
        assert_eq!(subjects.edges(), "blackhole.v1.edges");
        assert_eq!(subjects.families(), "blackhole.v1.families");
        assert_eq!(subjects.targeted(), "blackhole.v1.targeted");
        assert_eq!(subjects.stream(), "BLACKHOLE_V1");
        assert_eq!(subjects.stopped_families(), "BLACKHOLE_V1_STOPPED_FAMILIES");
    }

    proptest::proptest! {
        #[test]
        fn header_texts_are_the_inside_of_json_strings(text in " ?.{0,20} ?") {
            let escaped = header_text(&text);
            proptest::prop_assert!(is_header_text(&escaped));
            proptest::prop_assert_eq!(escaped.trim(), &escaped);
            let back: String = serde_json::from_str(&format!("\"{escaped}\"")).unwrap();
            proptest::prop_assert_eq!(back, text);
        }

        #[test]
        fn what_would_end_the_string_early_is_no_header_text(text in "[a\"\\\\,{}\nu0é]{0,8}") {
            let json = format!("\"{text}\"");
            let is_string = serde_json::from_str::<&serde_json::value::RawValue>(&json).is_ok();
            proptest::prop_assert_eq!(is_header_text(&text), is_string && text.is_ascii());
        }
    }

    #[test]
    fn replies_are_stable_json() {
        let reply = AuthReply::Accepted {
            bearer: Bearer {
                account_id: "a".into(),
                expires_at: 7,
                superduper_admin: false,
                token_id: Some("t".into()),
            },
            access: Access::Account { account_id: "b".into(), realm: Some("r".into()) },
        };
        assert_eq!(
            serde_json::to_string(&reply).unwrap(),
            r#"{"token":"accepted","bearer":{"account_id":"a","expires_at":7,"superduper_admin":false,"token_id":"t"},"access":{"access":"account","account_id":"b","realm":"r"}}"#
        );
        // A member that came later may be absent: releases run side by side.
        let older = r#"{"account_id":"a","expires_at":7,"superduper_admin":false}"#;
        let bearer: Bearer = serde_json::from_str(older).unwrap();
        assert_eq!(bearer.token_id, None);
        assert_eq!(serde_json::to_string(&bearer).unwrap(), older);
        let refused = AuthReply::Refused { reason: "expired".into() };
        assert_eq!(serde_json::to_string(&refused).unwrap(), r#"{"token":"refused","reason":"expired"}"#);
    }
}
