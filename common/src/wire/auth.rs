//! What auth-svc is asked, and what it tells.

use serde::{Deserialize, Serialize};

use crate::owner::Own;

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

#[cfg(test)]
mod tests {
    use super::*;

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
