//! Why a token is refused, in words that its bearer may read.

use std::fmt;

/// Why a token is refused.
///
/// The texts are deliberate: a client gets them. They hold nothing of the token and nothing of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// There is none.
    Missing,
    /// Longer than [`MAX_TOKEN_BYTES`](blackhole_common::wire::MAX_TOKEN_BYTES).
    TooLong,
    /// Not three parts of base64url with a JSON object in the first two.
    Malformed,
    /// The header demands what this service does not know (RFC 7515, 4.1.11: such a token must be refused).
    Critical,
    /// `none`, or any other algorithm that no configured key has.
    Algorithm,
    /// An algorithm that is fine for other keys than the one that the token names.
    KeyMismatch,
    /// The header has no `kid`, and the algorithm needs one.
    NoKeyId,
    /// The header's `kid` is none of the configured keys.
    UnknownKey,
    /// The signature does not fit.
    Signature,
    /// No `exp`.
    NoExpiry,
    /// A claim has a type or value that it cannot have.
    InvalidClaim(&'static str),
    /// `exp` is over.
    Expired,
    /// `nbf` is to come.
    NotYetValid,
    /// `aud` names others: the token was issued for another service.
    Audience,
    /// No `account_id`.
    NoAccount,
    /// The token's account is not there (any more).
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
