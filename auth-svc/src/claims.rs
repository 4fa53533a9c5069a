//! Validation of a token's claims. Each rule is a function of its own, so that `check-token` can report them
//! one by one.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{
    issuers::{Issuer, Scope},
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
    /// Claim `account_id`, or the one that the issuer names it in: the bearer's account.
    pub account_id: String,
    /// Claim `exp`, in Unix seconds, without leeway.
    pub expires_at: u64,
    /// Claim `owner_id`: the bearer's user, if any.
    pub owner_id: Option<String>,
    /// The token's id: see `token_id`.
    pub token_id: String,
    /// The accounts that the token's issuer may name and see.
    pub scope: Arc<Scope>,
}

impl VerifiedToken {
    /// Validates the claims of a token that `issuer` has signed. `now` is in Unix seconds.
    ///
    /// # Errors
    /// The first rule that the claims violate.
    pub fn from_claims(claims: &Members, issuer: &Issuer, now: u64) -> Result<VerifiedToken, Refusal> {
        let expires_at = expiry(claims, now)?;
        not_before(claims, now)?;
        audience(claims, issuer.audience.as_deref())?;
        let account_id = account(claims, &issuer.account_claim)?;
        Ok(VerifiedToken {
            token_id: token_id(claims).unwrap_or_else(|| account_id.clone()),
            account_id,
            expires_at,
            owner_id: claims.text("owner_id"),
            scope: Arc::clone(&issuer.scope),
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
    unix_millis() / 1000
}

/// Now, in milliseconds since 1970.
pub fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The one of `issuers` that `iss` names.
///
/// # Errors
/// If it names none of them.
pub fn issuer<'i>(
    claims: &Members,
    mut issuers: impl Iterator<Item = &'i Issuer>,
) -> Result<&'i Issuer, Refusal> {
    let iss = claims.text("iss").ok_or(Refusal::Issuer)?;
    issuers.find(|issuer| issuer.iss == iss).ok_or(Refusal::Issuer)
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

/// Validates `aud`: it must name `expected` (RFC 7519, 4.1.3), or be absent if nothing is expected. KAZOO never sets it, so
/// a token that has it was issued for another service.
///
/// # Errors
/// If it does not.
pub fn audience(claims: &Members, expected: Option<&str>) -> Result<(), Refusal> {
    let is_right = match (claims.get("aud"), expected) {
        (None | Some(Member::Null), expected) => expected.is_none(),
        (Some(Member::Text(audience)), Some(expected)) => audience == expected,
        (Some(_), Some(expected)) => claims.texts("aud").iter().any(|audience| audience == expected),
        (Some(_), None) => false,
    };
    if is_right { Ok(()) } else { Err(Refusal::Audience) }
}

/// KAZOO's claim that names the account.
pub const ACCOUNT: &str = "account_id";

/// Validates the claim that names the account.
///
/// # Errors
/// If it is missing, empty or not a string.
pub fn account(claims: &Members, claim: &str) -> Result<String, Refusal> {
    match claims.get(claim) {
        None | Some(Member::Null) => Err(Refusal::NoAccount),
        Some(Member::Text(id)) if id.is_empty() => Err(Refusal::NoAccount),
        Some(Member::Text(id)) => Ok(id),
        Some(_) if claim == ACCOUNT => Err(Refusal::InvalidClaim(ACCOUNT)),
        Some(_) => Err(Refusal::InvalidClaim("of the account")),
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
        VerifiedToken::from_claims(&claims, &Issuer::kazoo(None, None), NOW)
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
            scope: Arc::new(Scope::All),
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

    fn members(claims: Value) -> Members {
        Members::decode(&URL_SAFE_NO_PAD.encode(claims.to_string())).unwrap()
    }

    #[test]
    fn tokens_for_another_audience_are_refused() {
        for (aud, expected, is_right) in [
            (json!(null), None, true),
            (json!("other"), None, false),
            (json!([]), None, false),
            (json!("me"), Some("me"), true),
            (json!(["other", "me"]), Some("me"), true),
            (json!("other"), Some("me"), false),
            (json!(["other"]), Some("me"), false),
            (json!(["me", 5]), Some("me"), false),
            (json!({"me": 1}), Some("me"), false),
            (json!([]), Some("me"), false),
            (json!(null), Some("me"), false),
        ] {
            let result = audience(&members(json!({ "aud": aud })), expected);
            assert_eq!(result, if is_right { Ok(()) } else { Err(Refusal::Audience) }, "{aud} {expected:?}");
        }
        assert_eq!(audience(&members(json!({})), Some("me")), Err(Refusal::Audience));
        let claims = json!({"account_id": "a", "exp": NOW, "aud": "other"});
        assert_eq!(validate(claims), Err(Refusal::Audience));
    }

    #[test]
    fn the_issuer_must_be_one_of_those() {
        let kazoo = Issuer::kazoo(None, None);
        let other = Issuer { iss: "https://idp.example.com".into(), ..kazoo.clone() };
        let issuers = [kazoo, other];
        for (claims, expected) in [
            (json!({"iss": "kazoo"}), Some("kazoo")),
            (json!({"iss": "https://idp.example.com"}), Some("https://idp.example.com")),
            (json!({"iss": "https://idp.example.com/"}), None),
            (json!({"iss": "Kazoo"}), None),
            (json!({"iss": ""}), None),
            (json!({"iss": ["kazoo"]}), None),
            (json!({"iss": null}), None),
            (json!({}), None),
        ] {
            let found = issuer(&members(claims.clone()), issuers.iter()).map(|issuer| issuer.iss.as_str());
            assert_eq!(found, expected.ok_or(Refusal::Issuer), "{claims}");
        }
    }
}
