//! Validation of a token's claims. Each rule is a function of its own, so that `check-token` can report them
//! one by one.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::{
    members::{Member, Members},
    refusal::Refusal,
};

/// Tolerated clock skew.
pub const LEEWAY_SECONDS: u64 = 30;
/// The end of the year 9999. Later times are clamped to it, so that arithmetic on them cannot overflow.
pub const MAX_TIME: u64 = 253_402_300_799;

/// The claims of a verified token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedToken {
    /// Claim `account_id`: the bearer's account.
    pub account_id: String,
    /// Claim `exp`, in Unix seconds, without leeway.
    pub expires_at: u64,
    /// Claim `owner_id`: the bearer's user, if any.
    pub owner_id: Option<String>,
    /// The token's id: see `token_id`.
    pub token_id: String,
}

impl VerifiedToken {
    /// Validates the claims of a token whose signature has been verified. `now` is in Unix seconds.
    ///
    /// # Errors
    /// The first rule that the claims violate.
    pub fn from_claims(claims: &Members, now: u64) -> Result<VerifiedToken, Refusal> {
        let expires_at = expiry(claims, now)?;
        not_before(claims, now)?;
        audience(claims)?;
        let account_id = account(claims)?;
        Ok(VerifiedToken {
            token_id: token_id(claims).unwrap_or_else(|| account_id.clone()),
            account_id,
            expires_at,
            owner_id: claims.text("owner_id"),
        })
    }
}

/// The token's id: `auth_id` if KAZOO has set it, else the identity that `identity_sig` signs, which is the
/// device, else the user, else the account.
fn token_id(claims: &Members) -> Option<String> {
    ["auth_id", "device_id", "owner_id", "account_id"].into_iter().find_map(|claim| claims.text(claim))
}

/// Now, in Unix seconds.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or_default()
}

/// Validates `exp`: required, and not past by more than [`LEEWAY_SECONDS`].
///
/// # Errors
/// If it is past, missing or not a time.
pub fn expiry(claims: &Members, now: u64) -> Result<u64, Refusal> {
    let expires_at = time(claims, "exp")?.ok_or(Refusal::NoExpiry)?;
    if expires_at.saturating_add(LEEWAY_SECONDS) < now {
        return Err(Refusal::Expired);
    }
    Ok(expires_at)
}

/// Validates `nbf`: optional, and not in the future by more than [`LEEWAY_SECONDS`].
///
/// # Errors
/// If it is in the future or not a time.
pub fn not_before(claims: &Members, now: u64) -> Result<Option<u64>, Refusal> {
    match time(claims, "nbf")? {
        Some(not_before) if not_before > now.saturating_add(LEEWAY_SECONDS) => Err(Refusal::NotYetValid),
        not_before => Ok(not_before),
    }
}

/// Rejects tokens with `aud`: KAZOO never sets it, so the token was issued for another service (RFC 7519, 4.1.3).
///
/// # Errors
/// If it is present.
pub fn audience(claims: &Members) -> Result<(), Refusal> {
    match claims.get("aud") {
        None | Some(Member::Null) => Ok(()),
        Some(_) => Err(Refusal::Audience),
    }
}

/// Validates `account_id`.
///
/// # Errors
/// If it is missing, empty or not a string.
pub fn account(claims: &Members) -> Result<String, Refusal> {
    match claims.get("account_id") {
        None | Some(Member::Null) => Err(Refusal::NoAccount),
        Some(Member::Text(id)) if id.is_empty() => Err(Refusal::NoAccount),
        Some(Member::Text(id)) => Ok(id),
        Some(_) => Err(Refusal::InvalidClaim("account_id")),
    }
}

/// Parses a NumericDate (RFC 7519, 2): seconds, whose fraction is ignored.
fn time(claims: &Members, claim: &'static str) -> Result<Option<u64>, Refusal> {
    let number = match claims.get(claim) {
        None => return Ok(None),
        Some(Member::Number(number)) => number,
        Some(_) => return Err(Refusal::InvalidClaim(claim)),
    };
    let seconds = match (number.as_u64(), number.as_f64()) {
        (Some(seconds), _) => seconds,
        // The cast saturates.
        (None, Some(seconds)) if seconds.is_finite() && seconds >= 0.0 => seconds as u64,
        _ => return Err(Refusal::InvalidClaim(claim)),
    };
    Ok(Some(seconds.min(MAX_TIME)))
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use serde_json::{Value, json};

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn validate(claims: Value) -> Result<VerifiedToken, Refusal> {
        let claims = Members::decode(&URL_SAFE_NO_PAD.encode(claims.to_string())).unwrap();
        VerifiedToken::from_claims(&claims, NOW)
    }

    #[test]
    fn kazoos_claims_are_accepted() {
        let verified = validate(json!({
            "iss": "kazoo", "account_id": "a", "owner_id": "o", "method": "cb_user_auth", "exp": NOW + 3600,
            "identity_sig": "x"
        }));
        let expected = VerifiedToken {
            account_id: "a".into(),
            expires_at: NOW + 3600,
            owner_id: Some("o".into()),
            token_id: "o".into(),
        };
        assert_eq!(verified, Ok(expected));
    }

    #[test]
    fn the_token_id_is_the_first_non_empty_string_of_four_claims() {
        for (claims, expected) in [
            (json!({"auth_id": "t", "device_id": "d", "owner_id": "o"}), "t"),
            (json!({"device_id": "d", "owner_id": "o"}), "d"),
            (json!({"auth_id": null, "device_id": "", "owner_id": "o"}), "o"),
            (json!({"auth_id": 7, "owner_id": ["o"]}), "a"),
            (json!({}), "a"),
        ] {
            let mut claims = claims;
            claims["account_id"] = "a".into();
            claims["exp"] = (NOW + 3600).into();
            assert_eq!(validate(claims.clone()).unwrap().token_id, expected, "{claims}");
        }
    }

    #[test]
    fn the_leeway_is_thirty_seconds_for_exp_and_nbf() {
        for (exp, expected) in [(NOW - 29, Ok(())), (NOW - 30, Ok(())), (NOW - 31, Err(Refusal::Expired))] {
            assert_eq!(validate(json!({"account_id": "a", "exp": exp})).map(drop), expected);
        }
        for (nbf, expected) in [(NOW - 1, Ok(())), (NOW + 30, Ok(())), (NOW + 31, Err(Refusal::NotYetValid))]
        {
            assert_eq!(validate(json!({"account_id": "a", "exp": NOW + 99, "nbf": nbf})).map(drop), expected);
        }
    }

    #[test]
    fn times_must_be_non_negative_numbers() {
        assert_eq!(validate(json!({"account_id": "a"})), Err(Refusal::NoExpiry));
        for exp in [json!("1800009999"), json!(-1), json!(null), json!([NOW + 9]), json!(true)] {
            assert_eq!(validate(json!({"account_id": "a", "exp": exp})), Err(Refusal::InvalidClaim("exp")));
        }
        let nbf = validate(json!({"account_id": "a", "exp": NOW + 9, "nbf": "soon"}));
        assert_eq!(nbf, Err(Refusal::InvalidClaim("nbf")));
        assert_eq!(validate(json!({"account_id": "a", "exp": 1.8e9 + 0.5})).unwrap().expires_at, NOW);
        for far in [json!(u64::MAX), json!(1e300)] {
            assert_eq!(validate(json!({"account_id": "a", "exp": far})).unwrap().expires_at, MAX_TIME);
        }
    }

    #[test]
    fn the_account_must_be_a_non_empty_string() {
        for (claims, expected) in [
            (json!({"exp": NOW}), Refusal::NoAccount),
            (json!({"exp": NOW, "account_id": null}), Refusal::NoAccount),
            (json!({"exp": NOW, "account_id": ""}), Refusal::NoAccount),
            (json!({"exp": NOW, "account_id": 7}), Refusal::InvalidClaim("account_id")),
            (json!({"exp": NOW, "account_id": ["a"]}), Refusal::InvalidClaim("account_id")),
        ] {
            assert_eq!(validate(claims), Err(expected));
        }
    }

    #[test]
    fn tokens_with_an_audience_are_refused() {
        for aud in [json!("other"), json!(["other"]), json!([])] {
            let claims = json!({"account_id": "a", "exp": NOW, "aud": aud});
            assert_eq!(validate(claims), Err(Refusal::Audience));
        }
    }
}
