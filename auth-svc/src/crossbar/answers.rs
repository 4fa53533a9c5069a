//! Reads Crossbar's answers.

use hyper::StatusCode;
use serde::{Deserialize, de::DeserializeOwned};

use crate::{couchdb::documents, directory::Account, refusal::Refusal};

/// What Crossbar has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<T> {
    /// This.
    Found(T),
    /// There is no such thing, or the token may not see it.
    Missing,
    /// The token is not valid.
    Refused(Refusal),
}

/// What `tokeninfo` tells of a token.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TokenInfo {
    /// Its account.
    pub account_id: String,
}

#[derive(Deserialize)]
struct Envelope<T> {
    data: T,
}

/// An answer to what cannot be answered. Where the text stands differs between releases.
#[derive(Deserialize)]
struct Failure {
    status: String,
    #[serde(default)]
    message: Option<Message>,
    #[serde(default)]
    data: Option<Message>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Message {
    Text(String),
    Inner { message: String },
    Other(serde::de::IgnoredAny),
}

impl Message {
    fn text(&self) -> Option<&str> {
        match self {
            Message::Text(text) | Message::Inner { message: text } => Some(text),
            Message::Other(_) => None,
        }
    }
}

#[derive(Deserialize)]
struct AccountData {
    id: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    realm: Option<String>,
    #[serde(default)]
    enabled: Option<Flag>,
    #[serde(default)]
    superduper_admin: Option<Flag>,
}

/// A flag that is not a boolean is not set.
#[derive(Deserialize)]
#[serde(untagged)]
enum Flag {
    Bool(bool),
    Other(serde::de::IgnoredAny),
}

impl Flag {
    fn is_true(&self) -> bool {
        matches!(self, Flag::Bool(true))
    }
}

#[derive(Deserialize)]
struct Ancestor {
    id: String,
}

/// Reads an answer of `tokeninfo`.
///
/// # Errors
/// If it is none of Crossbar's.
pub fn token(status: StatusCode, json: &[u8]) -> Result<Answer<TokenInfo>, String> {
    if status == StatusCode::OK {
        return data(json).map(Answer::Found);
    }
    let failure = failure(status, json)?;
    let texts = [&failure.message, &failure.data];
    let says = |word: &str| texts.iter().any(|text| text.as_ref().and_then(Message::text) == Some(word));
    Ok(Answer::Refused(match status {
        // The user's document is gone, says 4.3. 5 says so of any bad token.
        StatusCode::INTERNAL_SERVER_ERROR => Refusal::IdentityGone,
        StatusCode::FORBIDDEN => Refusal::NoAccount,
        _ if says("invalid_jwt_signature") => Refusal::Signature,
        _ if says("token_expired") => Refusal::Expired,
        _ if says("invalid_identity_signature") => Refusal::Identity,
        _ if says("algorithm_not_supported") => Refusal::Algorithm,
        _ if says("invalid_jwt") => Refusal::Malformed,
        _ => Refusal::Crossbar,
    }))
}

/// Reads an answer about the account with this id.
///
/// # Errors
/// If it is none of Crossbar's, or about another account.
pub fn account(id: &str, status: StatusCode, json: &[u8]) -> Result<Answer<Account>, String> {
    if status != StatusCode::OK {
        failure(status, json)?;
        return Ok(Answer::Missing);
    }
    let account: AccountData = data(json)?;
    if account.id != id {
        return Err("it is about another account".into());
    }
    Ok(Answer::Found(Account {
        id: account.id,
        name: account.name.unwrap_or_default(),
        realm: account.realm.filter(|realm| documents::is_realm(realm)),
        ancestors: Vec::new(),
        superduper_admin: account.superduper_admin.is_some_and(|flag| flag.is_true()),
        // As KAZOO takes it.
        enabled: account.enabled.is_none_or(|flag| flag.is_true()),
    }))
}

/// Reads the ids of the accounts above an account, from the top that the token may see.
///
/// # Errors
/// If it is none of Crossbar's answers.
pub fn tree(status: StatusCode, json: &[u8]) -> Result<Answer<Vec<String>>, String> {
    if status != StatusCode::OK {
        failure(status, json)?;
        return Ok(Answer::Missing);
    }
    let ancestors: Vec<Ancestor> = data(json)?;
    Ok(Answer::Found(ancestors.into_iter().map(|ancestor| ancestor.id).collect()))
}

fn data<T: DeserializeOwned>(json: &[u8]) -> Result<T, String> {
    let envelope: Envelope<T> =
        serde_json::from_slice(json).map_err(|_| "it is not what Crossbar answers".to_owned())?;
    Ok(envelope.data)
}

/// What does not come from Crossbar decides nothing.
fn failure(status: StatusCode, json: &[u8]) -> Result<Failure, String> {
    let failure: Option<Failure> = serde_json::from_slice(json).ok();
    failure
        .filter(|failure| failure.status == "error")
        .ok_or_else(|| format!("status {} is not an answer of Crossbar's", status.as_u16()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ID: &str = "4b31dd1d32ce6d249897c06332375d65";

    fn status(code: u16) -> StatusCode {
        StatusCode::from_u16(code).unwrap()
    }

    #[test]
    fn refusals_are_told_apart() {
        for (code, message, expected) in [
            (401, "invalid_jwt_signature", Refusal::Signature),
            (401, "token_expired", Refusal::Expired),
            (401, "invalid_identity_signature", Refusal::Identity),
            (401, "algorithm_not_supported", Refusal::Algorithm),
            (401, "invalid_jwt", Refusal::Malformed),
            (401, "something new", Refusal::Crossbar),
            (403, "no associated account_id", Refusal::NoAccount),
            (404, "no token", Refusal::Crossbar),
            (500, "datastore_fault", Refusal::IdentityGone),
        ] {
            for json in [
                json!({"status": "error", "error": code.to_string(), "message": message, "data": {}}),
                json!({"status": "error", "message": "invalid_credentials", "data": {"message": message}}),
                json!({"status": "error", "data": message}),
            ] {
                let answer = token(status(code), json.to_string().as_bytes()).unwrap();
                assert_eq!(answer, Answer::Refused(expected), "{json}");
            }
        }
    }

    #[test]
    fn what_is_not_crossbars_decides_nothing() {
        for json in ["", "<html>", "{}", "[]", "{\"status\":\"success\"}", "{\"status\":5}"] {
            for code in [401, 403, 404, 500] {
                assert!(token(status(code), json.as_bytes()).is_err(), "{json}");
                assert!(account(ID, status(code), json.as_bytes()).is_err(), "{json}");
                assert!(tree(status(code), json.as_bytes()).is_err(), "{json}");
            }
        }
        for json in ["{\"data\":{}}", "{\"data\":[]}", "{\"data\":{\"account_id\":5}}", "{\"data\":null}"] {
            assert!(token(status(200), json.as_bytes()).is_err(), "{json}");
            assert!(account(ID, status(200), json.as_bytes()).is_err(), "{json}");
        }
    }

    #[test]
    fn an_account_has_no_more_than_it_says() {
        let read = |data: serde_json::Value| {
            account(ID, status(200), json!({ "data": data }).to_string().as_bytes())
        };
        let Ok(Answer::Found(plain)) = read(json!({"id": ID})) else { panic!() };
        assert!(plain.enabled && !plain.superduper_admin && plain.realm.is_none());
        let full = json!({"id": ID, "name": "n", "realm": "r.example.com", "enabled": true, "superduper_admin": true});
        let Ok(Answer::Found(full)) = read(full) else { panic!() };
        assert!(full.enabled && full.superduper_admin && full.realm.as_deref() == Some("r.example.com"));
        for odd in [json!(null), json!(1), json!("true"), json!(["true"])] {
            let data = json!({"id": ID, "enabled": odd, "superduper_admin": odd, "realm": "a b"});
            let Ok(Answer::Found(account)) = read(data) else { panic!("{odd}") };
            assert!(!account.superduper_admin && account.realm.is_none());
            assert_eq!(account.enabled, odd.is_null());
        }
        assert!(read(json!({"id": "other"})).is_err());
    }
}
