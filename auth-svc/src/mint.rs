//! Mints development tokens.

use std::time::Duration;

use blackhole_common::config::Secret;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use crate::{claims, error::Error, issuers};

/// One year.
const MAX_TTL: Duration = Duration::from_secs(366 * 24 * 60 * 60);

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'static str,
    account_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner_id: Option<&'a str>,
    iat: u64,
    exp: u64,
}

/// Mints a token for `account_id` that is valid for `ttl` from now, with the issuer of KAZOO's own tokens.
///
/// # Errors
/// [`Error::Mint`] if an argument is invalid.
pub fn mint(
    secret: &Secret,
    account_id: &str,
    owner_id: Option<&str>,
    ttl: Duration,
) -> Result<String, Error> {
    if account_id.is_empty() || account_id == crate::access::ALL {
        return Err(Error::Mint("--account must be the id of one account".into()));
    }
    if ttl.as_secs() == 0 || ttl > MAX_TTL {
        return Err(Error::Mint(
            "--ttl must be between one second and one year, as in 90m, 8h or 30d".into(),
        ));
    }
    let iat = claims::unix_now();
    let claims =
        Claims { iss: issuers::KAZOO, account_id, owner_id, iat, exp: iat.saturating_add(ttl.as_secs()) };
    let key = EncodingKey::from_secret(secret.reveal().as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)
        .map_err(|error| Error::Mint(format!("signing the token failed: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{issuers::Issuer, jwt_verifier::JwtVerifier, refusal::Refusal, testing};

    #[test]
    fn minted_tokens_are_valid_until_they_expire() {
        let secret = Secret::new(testing::SECRET);
        let verifier = JwtVerifier::new(vec![Issuer::kazoo(Some(&secret), None)]);
        let before = claims::unix_now();
        let token = mint(&secret, "child", Some("owner"), Duration::from_secs(60)).unwrap();
        let now = claims::unix_now();
        let verified = verifier.verify_at(&token, now).unwrap();
        assert_eq!((verified.account_id.as_str(), verified.owner_id.as_deref()), ("child", Some("owner")));
        assert!((before + 60..=now + 60).contains(&verified.expires_at), "{}", verified.expires_at);
        let end = verified.expires_at + claims::LEEWAY_SECONDS;
        verifier.verify_at(&token, end).unwrap();
        assert_eq!(verifier.verify_at(&token, end + 1), Err(Refusal::Expired));
        let other = Secret::new("another secret, as long");
        let other = JwtVerifier::new(vec![Issuer::kazoo(Some(&other), None)]);
        assert_eq!(other.verify_at(&token, now), Err(Refusal::Signature));
    }

    #[test]
    fn invalid_arguments_are_rejected() {
        let secret = Secret::new(testing::SECRET);
        let year = MAX_TTL.as_secs();
        for (account, seconds, expected) in [
            ("", 60, "--account must be"),
            ("*", 60, "--account must be"),
            ("a", 0, "--ttl must be"),
            ("a", year + 1, "--ttl must be"),
            ("a", u64::MAX, "--ttl must be"),
        ] {
            let error = mint(&secret, account, None, Duration::from_secs(seconds)).unwrap_err();
            assert!(matches!(&error, Error::Mint(text) if text.starts_with(expected)), "{error}");
        }
        for seconds in [1, year] {
            mint(&secret, "a", None, Duration::from_secs(seconds)).unwrap();
        }
    }
}
