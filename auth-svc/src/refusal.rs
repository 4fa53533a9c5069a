//! Why a token is refused, with messages for clients.

use blackhole_common::wire::TOKEN_TOO_LONG;
use thiserror::Error;

/// Why a token is refused.
///
/// Clients see the messages, so these reveal nothing about the token or the configuration.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The token is empty.
    #[error("token is missing")]
    Missing,
    /// Longer than [`MAX_TOKEN_BYTES`](blackhole_common::wire::MAX_TOKEN_BYTES).
    #[error("{TOKEN_TOO_LONG}")]
    TooLong,
    /// Not three parts of base64url with a JSON object in the first two, or one that is nested too deep.
    #[error("token is malformed")]
    Malformed,
    /// The header requires an extension (RFC 7515, 4.1.11: such tokens must be rejected).
    #[error("token demands an unknown extension")]
    Critical,
    /// `none`, or another algorithm that no configured key supports.
    #[error("algorithm is not accepted")]
    Algorithm,
    /// A supported algorithm, but not of the key that the token names.
    #[error("algorithm does not fit the key")]
    KeyMismatch,
    /// The header has no `kid`, which the algorithm requires.
    #[error("token names no key")]
    NoKeyId,
    /// No configured key has the header's `kid`.
    #[error("unknown key id")]
    UnknownKey,
    /// The signature is wrong.
    #[error("bad signature")]
    Signature,
    /// `iss` names no configured issuer, or one that has not signed the token.
    #[error("issuer is not accepted")]
    Issuer,
    /// No `exp`.
    #[error("token has no expiry")]
    NoExpiry,
    /// A claim has an invalid type or value.
    #[error("claim {0} is invalid")]
    InvalidClaim(&'static str),
    /// `exp` is in the past.
    #[error("token is expired")]
    Expired,
    /// `nbf` is in the future.
    #[error("token is not valid yet")]
    NotYetValid,
    /// `aud` names another audience than the configured one, or one although none is configured.
    #[error("token is for another audience")]
    Audience,
    /// No `account_id`.
    #[error("token has no account")]
    NoAccount,
    /// The issuer's tokens may not name this account.
    #[error("issuer may not name this account")]
    IssuerAccount,
    /// `identity_sig` was not made with today's secrets, or these do not exist.
    #[error("bad identity signature")]
    Identity,
    /// The user, device or account in `identity_sig` is deleted.
    #[error("identity is gone")]
    IdentityGone,
    /// Crossbar refuses it for a reason of its own.
    #[error("KAZOO does not accept the token")]
    Crossbar,
    /// The token's account does not exist.
    #[error("unknown account")]
    UnknownAccount,
    /// The token's account is disabled.
    #[error("account is disabled")]
    DisabledAccount,
}

impl Refusal {
    /// A fixed label for metrics and logs.
    pub fn kind(self) -> &'static str {
        match self {
            Refusal::Missing => "missing",
            Refusal::TooLong => "too_long",
            Refusal::Malformed => "malformed",
            Refusal::Critical => "critical",
            Refusal::Algorithm => "algorithm",
            Refusal::KeyMismatch => "key_mismatch",
            Refusal::NoKeyId => "no_key_id",
            Refusal::UnknownKey => "unknown_key",
            Refusal::Signature => "signature",
            Refusal::Issuer => "issuer",
            Refusal::NoExpiry => "no_expiry",
            Refusal::InvalidClaim(_) => "invalid_claim",
            Refusal::Expired => "expired",
            Refusal::NotYetValid => "not_yet_valid",
            Refusal::Audience => "audience",
            Refusal::NoAccount => "no_account",
            Refusal::IssuerAccount => "issuer_account",
            Refusal::Identity => "identity",
            Refusal::IdentityGone => "identity_gone",
            Refusal::Crossbar => "crossbar",
            Refusal::UnknownAccount => "unknown_account",
            Refusal::DisabledAccount => "disabled_account",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clients match on the messages, and dashboards on the labels.
    #[test]
    fn messages_and_labels_do_not_change() {
        for (refusal, kind, message) in [
            (Refusal::Missing, "missing", "token is missing"),
            (Refusal::TooLong, "too_long", "token is too long"),
            (Refusal::Malformed, "malformed", "token is malformed"),
            (Refusal::Critical, "critical", "token demands an unknown extension"),
            (Refusal::Algorithm, "algorithm", "algorithm is not accepted"),
            (Refusal::KeyMismatch, "key_mismatch", "algorithm does not fit the key"),
            (Refusal::NoKeyId, "no_key_id", "token names no key"),
            (Refusal::UnknownKey, "unknown_key", "unknown key id"),
            (Refusal::Signature, "signature", "bad signature"),
            (Refusal::Issuer, "issuer", "issuer is not accepted"),
            (Refusal::NoExpiry, "no_expiry", "token has no expiry"),
            (Refusal::InvalidClaim("exp"), "invalid_claim", "claim exp is invalid"),
            (Refusal::Expired, "expired", "token is expired"),
            (Refusal::NotYetValid, "not_yet_valid", "token is not valid yet"),
            (Refusal::Audience, "audience", "token is for another audience"),
            (Refusal::NoAccount, "no_account", "token has no account"),
            (Refusal::IssuerAccount, "issuer_account", "issuer may not name this account"),
            (Refusal::Identity, "identity", "bad identity signature"),
            (Refusal::IdentityGone, "identity_gone", "identity is gone"),
            (Refusal::UnknownAccount, "unknown_account", "unknown account"),
            (Refusal::DisabledAccount, "disabled_account", "account is disabled"),
        ] {
            assert_eq!((refusal.kind(), refusal.to_string().as_str()), (kind, message));
        }
    }
}
