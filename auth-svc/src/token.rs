//! Parses tokens (JWS compact serialization, RFC 7515) without verifying them. [`crate::jwt_verifier`] verifies signatures.
//!
//! This does not use jsonwebtoken's `decode`, which rejects payloads with a repeated claim: KAZOO releases
//! write `iss` twice (`kz_auth:ensure_issuer` and `kz_auth_jwt:encode` both add it). The last of repeated
//! members counts, as in KAZOO's own JSON decoder.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use blackhole_common::wire::MAX_TOKEN_BYTES;
use serde_json::{Map, Value};

use crate::refusal::Refusal;

/// A parsed token, not verified.
#[derive(Clone, Debug)]
pub struct Token<'a> {
    /// The header's members.
    pub header: Map<String, Value>,
    /// The payload's members.
    pub claims: Map<String, Value>,
    /// The signed part: header and payload, still encoded.
    pub signed: &'a str,
    /// The signature, base64url.
    pub signature: &'a str,
}

impl<'a> Token<'a> {
    /// Parses a token.
    ///
    /// # Errors
    /// If it is malformed.
    pub fn parse(text: &'a str) -> Result<Token<'a>, Refusal> {
        if text.is_empty() {
            return Err(Refusal::Missing);
        }
        if text.len() > MAX_TOKEN_BYTES {
            return Err(Refusal::TooLong);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(Refusal::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(Refusal::Malformed)?;
        // A fourth part would end up in `claims`, with a dot, which is not base64url.
        Ok(Token { header: object(header)?, claims: object(claims)?, signed, signature })
    }

    /// The header's algorithm.
    ///
    /// # Errors
    /// If there is none, or the header requires extensions.
    pub fn algorithm(&self) -> Result<&str, Refusal> {
        if self.header.contains_key("crit") {
            return Err(Refusal::Critical);
        }
        self.header.get("alg").and_then(Value::as_str).ok_or(Refusal::Malformed)
    }

    /// The header's key id, if any.
    ///
    /// # Errors
    /// If it is not a string.
    pub fn key_id(&self) -> Result<Option<&str>, Refusal> {
        match self.header.get("kid") {
            None => Ok(None),
            Some(Value::String(id)) => Ok(Some(id)),
            Some(_) => Err(Refusal::Malformed),
        }
    }
}

/// Decodes the JSON object in a part. serde_json limits the nesting depth.
fn object(part: &str) -> Result<Map<String, Value>, Refusal> {
    let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| Refusal::Malformed)?;
    serde_json::from_slice(&json).map_err(|_| Refusal::Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(json: &str) -> String {
        URL_SAFE_NO_PAD.encode(json)
    }

    #[test]
    fn tokens_are_split_into_their_parts() {
        let text = format!("{}.{}.c2ln", part(r#"{"alg":"RS256","kid":"k"}"#), part(r#"{"exp":1}"#));
        let token = Token::parse(&text).unwrap();
        assert_eq!(token.algorithm(), Ok("RS256"));
        assert_eq!(token.key_id(), Ok(Some("k")));
        assert_eq!(token.claims["exp"], 1);
        assert_eq!(token.signature, "c2ln");
        assert_eq!(format!("{}.c2ln", token.signed), text);
    }

    #[test]
    fn the_last_of_repeated_members_counts() {
        let text =
            format!("{}.{}.", part(r#"{"alg":"a"}"#), part(r#"{"iss":"other","exp":1,"iss":"kazoo"}"#));
        assert_eq!(Token::parse(&text).unwrap().claims["iss"], "kazoo");
    }

    #[test]
    fn malformed_tokens_are_refused() {
        let (header, claims) = (part(r#"{"alg":"none"}"#), part("{}"));
        let deep = part(&format!("{{\"a\":{}{}}}", "[".repeat(1000), "]".repeat(1000)));
        for text in [
            "a".to_owned(),
            "..".to_owned(),
            format!("{header}.{claims}"),
            format!("{header}.{claims}.x.y"),
            format!("{header}.{}.x", part("[]")),
            format!("{header}.{}.x", part("5")),
            format!("{}.{claims}.x", part("\"alg\"")),
            format!("{header}=.{claims}.x"),
            format!("{header}.{claims}+/.x"),
            format!("{header}.{deep}.x"),
            format!("Bearer {header}.{claims}.x"),
        ] {
            assert_eq!(Token::parse(&text).unwrap_err(), Refusal::Malformed, "{text}");
        }
        assert_eq!(Token::parse("").unwrap_err(), Refusal::Missing);
        assert_eq!(Token::parse(&"a".repeat(MAX_TOKEN_BYTES)).unwrap_err(), Refusal::Malformed);
        assert_eq!(Token::parse(&"a".repeat(MAX_TOKEN_BYTES + 1)).unwrap_err(), Refusal::TooLong);
    }

    #[test]
    fn invalid_headers_are_refused() {
        let text = format!("{}.{}.", part(r#"{"alg":"RS256","crit":["b64"],"b64":false}"#), part("{}"));
        assert_eq!(Token::parse(&text).unwrap().algorithm(), Err(Refusal::Critical));
        let text = format!("{}.{}.", part(r#"{"alg":5,"kid":["k"]}"#), part("{}"));
        assert_eq!(Token::parse(&text).unwrap().algorithm(), Err(Refusal::Malformed));
        assert_eq!(Token::parse(&text).unwrap().key_id(), Err(Refusal::Malformed));
    }

    proptest! {
        #[test]
        fn arbitrary_text_does_not_panic(text in "[A-Za-z0-9._=é -]{0,200}") {
            let _ = Token::parse(&text);
        }

        #[test]
        fn parts_are_returned_as_they_were_sent(
            header in "(\\{\\}|\\[\\]|x)", claims in "(\\{\\}|1|)", signature in "[A-Za-z0-9_.-]{0,9}",
        ) {
            let (signed, is_valid) = (format!("{}.{}", part(&header), part(&claims)), header == "{}" && claims == "{}");
            let text = format!("{signed}.{signature}");
            match Token::parse(&text) {
                Ok(token) => prop_assert_eq!((token.signed, token.signature), (signed.as_str(), signature.as_str())),
                Err(refusal) => prop_assert_eq!(refusal, Refusal::Malformed),
            }
            prop_assert_eq!(Token::parse(&text).is_ok(), is_valid && !signature.contains('.'));
        }
    }
}
