//! Parses tokens (JWS compact serialization, RFC 7515) without verifying them. [`crate::jwt_verifier`] verifies signatures.
//!
//! The header is parsed at once, the claims on demand: whoever has no key cannot have any parsed.
//!
//! This does not use jsonwebtoken's `decode`, which rejects payloads with a repeated claim: KAZOO releases
//! write `iss` twice (`kz_auth:ensure_issuer` and `kz_auth_jwt:encode` both add it).

use blackhole_common::wire::MAX_TOKEN_BYTES;

use crate::{
    members::{Member, Members},
    refusal::Refusal,
};

/// A parsed token, not verified.
#[derive(Clone, Debug)]
pub struct Token<'a> {
    /// The header's members.
    pub header: Members,
    /// The payload, still encoded.
    encoded_claims: &'a str,
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
        if claims.contains('.') {
            return Err(Refusal::Malformed);
        }
        Ok(Token { header: Members::decode(header)?, encoded_claims: claims, signed, signature })
    }

    /// The payload's members. Verify the signature first.
    ///
    /// # Errors
    /// If it is not a JSON object.
    pub fn claims(&self) -> Result<Members, Refusal> {
        Members::decode(self.encoded_claims)
    }

    /// The header's algorithm.
    ///
    /// # Errors
    /// If there is none, or the header requires extensions.
    pub fn algorithm(&self) -> Result<String, Refusal> {
        if self.header.get("crit").is_some() {
            return Err(Refusal::Critical);
        }
        match self.header.get("alg") {
            Some(Member::Text(algorithm)) => Ok(algorithm),
            _ => Err(Refusal::Malformed),
        }
    }

    /// The header's key id, if any.
    ///
    /// # Errors
    /// If it is not a string.
    pub fn key_id(&self) -> Result<Option<String>, Refusal> {
        match self.header.get("kid") {
            None => Ok(None),
            Some(Member::Text(id)) => Ok(Some(id)),
            Some(_) => Err(Refusal::Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use proptest::prelude::*;

    use super::*;

    fn part(json: &str) -> String {
        URL_SAFE_NO_PAD.encode(json)
    }

    #[test]
    fn tokens_are_split_into_their_parts() {
        let text = format!("{}.{}.c2ln", part(r#"{"alg":"RS256","kid":"k"}"#), part(r#"{"exp":1}"#));
        let token = Token::parse(&text).unwrap();
        assert_eq!(token.algorithm().as_deref(), Ok("RS256"));
        assert_eq!(token.key_id(), Ok(Some("k".into())));
        assert_eq!(token.claims().unwrap().get("exp"), Some(Member::Number(1.into())));
        assert_eq!(token.signature, "c2ln");
        assert_eq!(format!("{}.c2ln", token.signed), text);
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
            format!("{}.{claims}.x", part("\"alg\"")),
            format!("{header}=.{claims}.x"),
            format!("{deep}.{claims}.x"),
            format!("Bearer {header}.{claims}.x"),
        ] {
            assert_eq!(Token::parse(&text).unwrap_err(), Refusal::Malformed, "{text}");
        }
        for claims in ["", &part("[]"), &part("5"), &format!("{claims}+/"), &deep] {
            let text = format!("{header}.{claims}.x");
            assert_eq!(Token::parse(&text).unwrap().claims().unwrap_err(), Refusal::Malformed, "{text}");
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
            let _ = Token::parse(&text).map(|token| token.claims().map(drop));
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
            let is_parsed = Token::parse(&text).and_then(|token| token.claims()).is_ok();
            prop_assert_eq!(is_parsed, is_valid && !signature.contains('.'));
        }
    }
}
