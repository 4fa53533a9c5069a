//! Who may do what: the server's admin everything, users in `_users` what `_security` of a database says.
//!
//! Without an admin (`require_user`) everybody may do everything.

use base64::{Engine, engine::general_purpose::STANDARD};
use hyper::Method;
use serde_json::{Value, json};

use crate::{
    Faults,
    answers::{Answer, error},
    store::Store,
};

/// A refusal, if the request is not allowed. `segments` are those of its path.
pub(crate) fn refusal(
    store: &Store,
    faults: &Faults,
    authorization: Option<&str>,
    method: &Method,
    segments: &[&str],
) -> Option<Answer> {
    let forbidden = || Some(error(403, "forbidden", "You are not allowed to access this db."));
    let database = segments.first().copied().unwrap_or_default();
    if let Some(admin) = &faults.user {
        let unauthorized = |reason| Some(error(401, "unauthorized", reason));
        let given = authorization.and_then(credentials);
        match given {
            None if authorization.is_none() => {
                return unauthorized("You are not authorized to access this db.");
            }
            Some(given) if given == *admin => {}
            given => {
                let Some(roles) = given.and_then(|given| roles(store, &given)) else {
                    return unauthorized("Name or password is incorrect.");
                };
                let is_read = matches!(*method, Method::GET | Method::HEAD);
                if !is_member(store, database, &roles) || (!is_read && segments.len() < 2) {
                    return forbidden();
                }
                if !is_read && (segments[1].starts_with('_') || is_read_only(store, database, &roles)) {
                    return Some(error(403, "forbidden", "read only"));
                }
            }
        }
    }
    if faults.forbidden.contains(database) { forbidden() } else { None }
}

fn credentials(authorization: &str) -> Option<(String, String)> {
    let text = String::from_utf8(STANDARD.decode(authorization.strip_prefix("Basic ")?).ok()?).ok()?;
    text.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()))
}

/// The roles of a user in `_users`, with the right password.
fn roles(store: &Store, (name, password): &(String, String)) -> Option<Vec<Value>> {
    let user = store.document("_users", &format!("org.couchdb.user:{name}"))?;
    (user["password"] == password.as_str()).then(|| user["roles"].as_array().cloned().unwrap_or_default())
}

/// Without a `_security` object only admins are members.
fn is_member(store: &Store, database: &str, roles: &[Value]) -> bool {
    let Some(database) = store.databases.get(database) else { return true };
    let members = database.security["members"]["roles"].as_array();
    members.is_some_and(|members| roles.iter().any(|role| members.contains(role)))
}

/// The function in `docs/couchdb.md` is known here.
fn is_read_only(store: &Store, database: &str, roles: &[Value]) -> bool {
    let Some(database) = store.databases.get(database) else { return false };
    let mut designs = database.documents.iter().filter(|(id, _)| id.starts_with("_design/"));
    let has_function = designs.any(|(id, document)| {
        let design: Value = serde_json::from_str(&document.json(id)).unwrap();
        design["validate_doc_update"].as_str().is_some_and(|function| function.contains("'kazoo_reader'"))
    });
    has_function && roles.contains(&json!("kazoo_reader"))
}
