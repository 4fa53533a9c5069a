//! Names and messages that the services exchange over NATS, version 1.
//!
//! The version stands in the subject prefix (`nats.prefix`, default `blackhole.v1`), so services of different
//! releases run side by side. Unknown members of messages are ignored: members can be added.

use serde::{Deserialize, Serialize};

/// Header: what the event is told apart by, for the stream's duplicate window.
pub const MESSAGE_ID: &str = "Nats-Msg-Id";
/// Header: the AMQP exchange that the event came through.
pub const EXCHANGE: &str = "Bh-Exchange";
/// Header: the event's AMQP routing key, as it was, if it is printable ASCII; else escaped as in the subject.
pub const ROUTING_KEY: &str = "Bh-Key";
/// Header: the body's `Event-Name`, with control characters and non-ASCII as JSON escapes (`\u00e9`).
pub const EVENT_NAME: &str = "Bh-Name";
/// Header that nats-server sets on a republished message: its position in the stream.
pub const SEQUENCE: &str = "Nats-Sequence";

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

    /// The stream's name: `blackhole.v1` has `BLACKHOLE_V1`.
    pub fn stream(&self) -> String {
        self.prefix.replace('.', "_").to_ascii_uppercase()
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_from_the_prefix() {
        let subjects = Subjects::new("blackhole.v1");
        assert_eq!(subjects.ingest(), "blackhole.v1.ingest");
        assert_eq!(subjects.event(), "blackhole.v1.event");
        assert_eq!(subjects.auth_check(), "blackhole.v1.auth.check");
        assert_eq!(subjects.stream(), "BLACKHOLE_V1");
    }

    #[test]
    fn replies_are_stable_json() {
        let reply = AuthReply::Accepted {
            bearer: Bearer { account_id: "a".into(), expires_at: 7, superduper_admin: false },
            access: Access::Account { account_id: "b".into(), realm: Some("r".into()) },
        };
        assert_eq!(
            serde_json::to_string(&reply).unwrap(),
            r#"{"token":"accepted","bearer":{"account_id":"a","expires_at":7,"superduper_admin":false},"access":{"access":"account","account_id":"b","realm":"r"}}"#
        );
        let refused = AuthReply::Refused { reason: "expired".into() };
        assert_eq!(serde_json::to_string(&refused).unwrap(), r#"{"token":"refused","reason":"expired"}"#);
    }
}
