//! The documents of a small KAZOO cluster, and tokens that go with them. The key was made for tests, and protects nothing.

use std::sync::LazyLock;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use ring::hmac;
use serde_json::{Value, json};

use crate::CouchDb;

/// The top account, of a superduper admin.
pub const MASTER: &str = "6b71cb72c876b5b1396a335f8f8a2594";
/// An account below it.
pub const ACME: &str = "4b31dd1d32ce6d249897c06332375d65";
/// The account's own database.
pub const ACME_DATABASE: &str = "account/4b/31/dd1d32ce6d249897c06332375d65";
/// The same as KAZOO writes it in routing keys.
pub const ACME_ENCODED: &str = "account%2F4b%2F31%2Fdd1d32ce6d249897c06332375d65";
/// A user of the account.
pub const USER: &str = "6b1c7e2f8a904d53b0e2a1f4c7d89e01";
/// A device of this user.
pub const DEVICE: &str = "d0d0beefd0d0beefd0d0beefd0d0beef";
/// The server's secret.
pub const SERVER_SECRET: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";
/// The user's secret.
pub const USER_SECRET: &str = "a1b2c3d4e5f60718293a4b5c6d7e8f90";
/// The end of all tokens of the file.
pub const FOREVER: u64 = 4_102_444_800;

static FILE: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(include_str!("kazoo.json")).unwrap());

/// A server with these documents.
pub async fn start() -> CouchDb {
    let couchdb = CouchDb::start().await;
    fill(&couchdb);
    couchdb
}

/// Writes the documents.
pub fn fill(couchdb: &CouchDb) {
    for (database, documents) in FILE["databases"].as_object().unwrap() {
        for document in documents.as_array().unwrap() {
            couchdb.put(database, document);
        }
    }
    couchdb.attach("system_auth", kid(), "private_key.pem", private_key().as_bytes());
}

/// Adds accounts below the top account, with users whose secrets are [`USER_SECRET`].
pub fn add(couchdb: &CouchDb, accounts: u32, users: u32) {
    // As many bytes as KAZOO's documents have.
    let rest = "x".repeat(1500);
    for account in 0..accounts {
        let id = account_id(account);
        let document = json!({
            "_id": id, "name": format!("account {account}"), "realm": format!("a{account}.sip.example.com"),
            "enabled": true, "pvt_enabled": true, "pvt_type": "account", "pvt_vsn": "1", "pvt_account_id": id,
            "pvt_tree": [MASTER, ACME], "pvt_signature_secret": USER_SECRET, "rest": rest,
        });
        couchdb.put("accounts", &document);
        let database = format!("account/{}/{}/{}", &id[..2], &id[2..4], &id[4..]);
        for user in 0..users {
            let document =
                json!({ "_id": user_id(user), "pvt_type": "user", "pvt_signature_secret": USER_SECRET });
            couchdb.put(&database, &document);
        }
    }
}

/// The id of an account of [`add`].
pub fn account_id(number: u32) -> String {
    format!("{number:032x}")
}

/// The id of a user of [`add`].
pub fn user_id(number: u32) -> String {
    format!("{number:031x}u")
}

/// The id of the key.
pub fn kid() -> &'static str {
    FILE["signing_key"]["kid"].as_str().unwrap()
}

/// The key, whose exponent is 2049.
pub fn private_key() -> &'static str {
    FILE["signing_key"]["pem"].as_str().unwrap()
}

/// A token that KAZOO's rules make of these documents: of `user`, `account` or `device`.
pub fn token(of: &str) -> &'static str {
    FILE["tokens"][of].as_str().unwrap()
}

/// `identity_sig` of an identity with these secrets.
pub fn identity_sig(identity: &str, secret: &str, server_secret: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, format!("{secret}{server_secret}").as_bytes());
    URL_SAFE_NO_PAD.encode(hmac::sign(&key, identity.as_bytes()))
}

/// A token with these claims, signed with a private key in PEM.
pub fn signed_with(pem: &str, kid: &str, algorithm: Algorithm, claims: &Value) -> String {
    let header = Header { kid: Some(kid.to_owned()), ..Header::new(algorithm) };
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap()).unwrap()
}

/// A token with these claims, signed with KAZOO's key.
pub fn signed(claims: &Value) -> String {
    signed_with(private_key(), kid(), Algorithm::RS256, claims)
}

/// The claims of a user's token, with this secret.
pub fn user_claims(secret: &str) -> Value {
    json!({
        "iss": "kazoo", "account_id": ACME, "owner_id": USER, "method": "cb_user_auth", "exp": FOREVER,
        "identity_sig": identity_sig(USER, secret, SERVER_SECRET),
    })
}
