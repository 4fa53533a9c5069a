//! Development tokens.

use std::time::Duration;

use blackhole_common::config::Secret;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use crate::{claims, error::Error};

/// Development tokens last no longer than a year.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'static str,
    account_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner_id: Option<&'a str>,
    iat: u64,
    exp: u64,
}

/// A token of `account_id` that is good for `ttl` from now, with the issuer that KAZOO's own tokens have.
///
/// # Errors
/// [`Error::Mint`] when no good token can be made of this.
pub fn mint(
    secret: &Secret,
    account_id: &str,
    owner_id: Option<&str>,
    ttl: Duration,
) -> Result<String, Error> {
    if account_id.is_empty() || account_id == crate::access::ALL {
        return Err(Error::Mint("a token is for one account: --account takes its id".into()));
    }
    if ttl.as_secs() == 0 || ttl > LONGEST {
        return Err(Error::Mint("--ttl is between one second and one year, such as 90m, 8h or 30d".into()));
    }
    let iat = claims::unix_now();
    let claims = Claims { iss: "kazoo", account_id, owner_id, iat, exp: iat.saturating_add(ttl.as_secs()) };
    let key = EncodingKey::from_secret(secret.reveal().as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)
        .map_err(|error| Error::Mint(format!("the token could not be signed: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{jwt::JwtVerifier, refusal::Refusal, testing};

    #[test]
    fn minted_tokens_are_good_until_they_end() {
        let secret = Secret::new(testing::SECRET);
        let verifier = JwtVerifier::new(Some(&secret), None);
        let token = mint(&secret, "child", Some("owner"), Duration::from_secs(60)).unwrap();
        let now = claims::unix_now();
        let verified = verifier.verify_at(&token, now).unwrap();
        assert_eq!((verified.account_id.as_str(), verified.owner_id.as_deref()), ("child", Some("owner")));
        assert!((now + 55..=now + 60).contains(&verified.expires_at));
        assert_eq!(verifier.verify_at(&token, now + 100), Err(Refusal::Expired));
        let other = JwtVerifier::new(Some(&Secret::new("another secret, as long")), None);
        assert_eq!(other.verify_at(&token, now), Err(Refusal::Signature));
    }

    #[test]
    fn impossible_tokens_are_not_minted() {
        let secret = Secret::new(testing::SECRET);
        for (account, seconds) in [("", 60), ("*", 60), ("a", 0), ("a", u64::MAX)] {
            let error = mint(&secret, account, None, Duration::from_secs(seconds)).unwrap_err();
            assert_eq!(error.kind(), "mint");
        }
    }
}
