//! JWK Sets of issuers, and Crossbar's answers.

use auth_svc::{
    crossbar::answers::{self, Answer},
    keys::{
        ASYMMETRIC,
        jwk::{KeySet, MAX_ID_BYTES, MAX_KEYS, MAX_KEYS_PER_ID},
    },
};
use hyper::StatusCode;
use serde_json::Value;

/// The first byte chooses the reader and, for Crossbar, the status.
pub(crate) fn run(input: &[u8]) -> bool {
    let Some((reader, json)) = input.split_first() else { return false };
    match reader {
        b'k' => keys(json),
        b'a' => account(json),
        b't' => matches!(answers::tree(StatusCode::OK, json), Ok(Answer::Found(_))),
        b'i' => matches!(answers::token(StatusCode::OK, json), Ok(Answer::Found(_))),
        b'4' => refused(StatusCode::UNAUTHORIZED, json),
        b'5' => refused(StatusCode::INTERNAL_SERVER_ERROR, json),
        _ => false,
    }
}

/// A key has an id, and is public: it verifies with no secret, and not what it has not signed.
fn keys(json: &[u8]) -> bool {
    let Ok(set) = KeySet::parse(json) else { return false };
    assert!(set.len() <= MAX_KEYS && set.is_same(&set));
    for (id, key) in set.iter() {
        assert!((1..=MAX_ID_BYTES).contains(&id.len()) && set.get(id).len() <= MAX_KEYS_PER_ID);
        assert!(!key.was_private() && !key.algorithms().is_empty());
        for algorithm in key.algorithms() {
            assert!(ASYMMETRIC.contains(algorithm));
            assert!(!key.verifies(*algorithm, "signed", &"A".repeat(86)));
        }
    }
    !set.is_empty()
}

/// An account is the one that was asked for, and has only flags that are there.
fn account(json: &[u8]) -> bool {
    let Ok(Answer::Found(account)) = answers::account("a", StatusCode::OK, json) else { return false };
    assert_eq!(account.id, "a");
    assert!(account.ancestors.is_empty());
    if let Ok(parsed) = serde_json::from_slice::<Value>(json) {
        assert!(!account.superduper_admin || parsed["data"]["superduper_admin"] == true);
        assert_eq!(account.enabled, matches!(parsed["data"]["enabled"], Value::Null | Value::Bool(true)));
    }
    true
}

/// A refusal never accepts.
fn refused(status: StatusCode, json: &[u8]) -> bool {
    match answers::token(status, json) {
        Ok(answer) => {
            assert!(matches!(answer, Answer::Refused(_)));
            true
        }
        Err(reason) => {
            assert!(!reason.is_empty());
            false
        }
    }
}
