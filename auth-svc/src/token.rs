//! The outer form of a token (JWS compact serialization, RFC 7515): three parts, two of them JSON.
//!
//! Nothing here is verified. jsonwebtoken's own `decode` is not used, because it refuses payloads with a repeated
//! claim, and KAZOO releases write `iss` twice (`kz_auth:ensure_issuer` and `kz_auth_jwt:encode` both add it); of
//! repeated members the last one counts, as with KAZOO's own JSON decoder. Signatures are jsonwebtoken's, see
//! [`crate::jwt`].

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use blackhole_common::wire::MAX_TOKEN_BYTES;
use serde_json::{Map, Value};

use crate::refusal::Refusal;

/// A token, taken apart but not verified.
#[derive(Clone, Debug)]
pub struct Token<'a> {
    /// The header's members.
    pub header: Map<String, Value>,
    /// The payload's members.
    pub claims: Map<String, Value>,
    /// What is signed: header and payload as they were sent.
    pub signed: &'a str,
    /// The signature, base64url.
    pub signature: &'a str,
}

impl<'a> Token<'a> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// When it has not the form of a token.
    pub fn parse(text: &'a str) -> Result<Token<'a>, Refusal> {
        if text.is_empty() {
            return Err(Refusal::Missing);
        }
        if text.len() > MAX_TOKEN_BYTES {
            return Err(Refusal::TooLong);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(Refusal::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(Refusal::Malformed)?;
        // A fourth part would be in `claims`, whose dot is no base64url.
        Ok(Token { header: object(header)?, claims: object(claims)?, signed, signature })
    }

    /// The header's algorithm.
    ///
    /// # Errors
    /// When there is none, or the header demands extensions.
    pub fn algorithm(&self) -> Result<&str, Refusal> {
        if self.header.contains_key("crit") {
            return Err(Refusal::Critical);
        }
        self.header.get("alg").and_then(Value::as_str).ok_or(Refusal::Malformed)
    }

    /// The header's key id, if any.
    ///
    /// # Errors
    /// When it is no text.
    pub fn key_id(&self) -> Result<Option<&str>, Refusal> {
        match self.header.get("kid") {
            None => Ok(None),
            Some(Value::String(id)) => Ok(Some(id)),
            Some(_) => Err(Refusal::Malformed),
        }
    }
}

/// The JSON object in a part. serde_json bounds the depth of nesting.
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
    fn a_token_is_taken_apart() {
        let text = format!("{}.{}.c2ln", part(r#"{"alg":"RS256","kid":"k"}"#), part(r#"{"exp":1}"#));
        let token = Token::parse(&text).unwrap();
        assert_eq!(token.algorithm(), Ok("RS256"));
        assert_eq!(token.key_id(), Ok(Some("k")));
        assert_eq!(token.claims["exp"], 1);
        assert_eq!(token.signature, "c2ln");
        assert_eq!(format!("{}.c2ln", token.signed), text);
    }

    #[test]
    fn repeated_members_are_borne() {
        let text =
            format!("{}.{}.", part(r#"{"alg":"a"}"#), part(r#"{"iss":"kazoo","exp":1,"iss":"kazoo"}"#));
        assert_eq!(Token::parse(&text).unwrap().claims["iss"], "kazoo");
    }

    #[test]
    fn other_forms_are_refused() {
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
        assert_eq!(Token::parse(&"a".repeat(MAX_TOKEN_BYTES + 1)).unwrap_err(), Refusal::TooLong);
    }

    #[test]
    fn headers_that_demand_extensions_are_refused() {
        let text = format!("{}.{}.", part(r#"{"alg":"RS256","crit":["b64"],"b64":false}"#), part("{}"));
        assert_eq!(Token::parse(&text).unwrap().algorithm(), Err(Refusal::Critical));
        let text = format!("{}.{}.", part(r#"{"alg":5,"kid":["k"]}"#), part("{}"));
        assert_eq!(Token::parse(&text).unwrap().algorithm(), Err(Refusal::Malformed));
        assert_eq!(Token::parse(&text).unwrap().key_id(), Err(Refusal::Malformed));
    }

    proptest! {
        #[test]
        fn any_text_gets_an_answer(text in "[A-Za-z0-9._=é -]{0,200}") {
            let _ = Token::parse(&text);
        }
    }
}
