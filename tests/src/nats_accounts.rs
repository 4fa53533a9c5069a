//! An operator with one account and its users, as `nsc` makes them: JWTs that nkeys sign.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use nkeys::KeyPair;
use serde_json::{Value, json};

/// An operator with one account.
pub struct Operator {
    operator: KeyPair,
    account: KeyPair,
    /// The account of nats-server itself.
    system: KeyPair,
}

impl Operator {
    /// With new keys.
    pub fn new() -> Operator {
        Operator {
            operator: KeyPair::new_operator(),
            account: KeyPair::new_account(),
            system: KeyPair::new_account(),
        }
    }

    /// Lines for nats-server's configuration. The account may use JetStream.
    pub fn server_config(&self) -> String {
        let operator =
            jwt(&self.operator, &self.operator.public_key(), json!({ "type": "operator", "version": 2 }));
        let limits = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
            "conn": -1, "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
        });
        let system = json!({ "type": "account", "version": 2 });
        let system = jwt(&self.operator, &self.system.public_key(), system);
        let account = json!({ "type": "account", "version": 2, "limits": limits });
        let account = jwt(&self.operator, &self.account.public_key(), account);
        let (account_id, system_id) = (self.account.public_key(), self.system.public_key());
        format!(
            "operator: {operator}\nsystem_account: {system_id}\nresolver: MEMORY\n\
             resolver_preload: {{ {account_id}: {account}, {system_id}: {system} }}\n"
        )
    }

    /// The text of a `.creds` file for a new user of the account.
    pub fn credentials(&self) -> String {
        let user = KeyPair::new_user();
        let claims = json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1 });
        let token = jwt(&self.account, &user.public_key(), claims);
        format!(
            "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            user.seed().unwrap()
        )
    }
}

impl Default for Operator {
    fn default() -> Self {
        Operator::new()
    }
}

fn jwt(issuer: &KeyPair, subject: &str, claims: Value) -> String {
    let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = encode(json!({ "typ": "JWT", "alg": "ed25519-nkey" }));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let body = encode(json!({
        "jti": subject, "iat": now, "iss": issuer.public_key(), "sub": subject, "name": "test", "nats": claims,
    }));
    let signed = format!("{header}.{body}");
    let signature = URL_SAFE_NO_PAD.encode(issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}
