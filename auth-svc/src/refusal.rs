//! Why a token is refused, with messages for clients.

use std::fmt;

/// Why a token is refused.
///
/// Clients see the messages, so these reveal nothing about the token or the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The token is empty.
    Missing,
    /// Longer than [`MAX_TOKEN_BYTES`](blackhole_common::wire::MAX_TOKEN_BYTES).
    TooLong,
    /// Not three parts of base64url with a JSON object in the first two.
    Malformed,
    /// The header requires an extension (RFC 7515, 4.1.11: such tokens must be rejected).
    Critical,
    /// `none`, or another algorithm that no configured key supports.
    Algorithm,
    /// A supported algorithm, but not of the key that the token names.
    KeyMismatch,
    /// The header has no `kid`, which the algorithm requires.
    NoKeyId,
    /// No configured key has the header's `kid`.
    UnknownKey,
    /// The signature is wrong.
    Signature,
    /// No `exp`.
    NoExpiry,
    /// A claim has an invalid type or value.
    InvalidClaim(&'static str),
    /// `exp` is in the past.
    Expired,
    /// `nbf` is in the future.
    NotYetValid,
    /// `aud` is present: the token was issued for another service.
    Audience,
    /// No `account_id`.
    NoAccount,
    /// The token's account does not exist.
    UnknownAccount,
    /// The token's account is disabled.
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
            Refusal::NoExpiry => "no_expiry",
            Refusal::InvalidClaim(_) => "invalid_claim",
            Refusal::Expired => "expired",
            Refusal::NotYetValid => "not_yet_valid",
            Refusal::Audience => "audience",
            Refusal::NoAccount => "no_account",
            Refusal::UnknownAccount => "unknown_account",
            Refusal::DisabledAccount => "disabled_account",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::Missing => "token is missing",
            Refusal::TooLong => blackhole_common::wire::TOKEN_TOO_LONG,
            Refusal::Malformed => "token is malformed",
            Refusal::Critical => "token demands an unknown extension",
            Refusal::Algorithm => "algorithm is not accepted",
            Refusal::KeyMismatch => "algorithm does not fit the key",
            Refusal::NoKeyId => "token names no key",
            Refusal::UnknownKey => "unknown key id",
            Refusal::Signature => "bad signature",
            Refusal::NoExpiry => "token has no expiry",
            Refusal::InvalidClaim(claim) => return write!(f, "claim {claim} is invalid"),
            Refusal::Expired => "token is expired",
            Refusal::NotYetValid => "token is not valid yet",
            Refusal::Audience => "token is for another audience",
            Refusal::NoAccount => "token has no account",
            Refusal::UnknownAccount => "unknown account",
            Refusal::DisabledAccount => "account is disabled",
        })
    }
}

impl std::error::Error for Refusal {}

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
            (Refusal::NoExpiry, "no_expiry", "token has no expiry"),
            (Refusal::InvalidClaim("exp"), "invalid_claim", "claim exp is invalid"),
            (Refusal::Expired, "expired", "token is expired"),
            (Refusal::NotYetValid, "not_yet_valid", "token is not valid yet"),
            (Refusal::Audience, "audience", "token is for another audience"),
            (Refusal::NoAccount, "no_account", "token has no account"),
            (Refusal::UnknownAccount, "unknown_account", "unknown account"),
            (Refusal::DisabledAccount, "disabled_account", "account is disabled"),
        ] {
            assert_eq!((refusal.kind(), refusal.to_string().as_str()), (kind, message));
        }
    }
}
