//! An issuer of tokens besides KAZOO, with a JWK Set and an OpenID configuration.

use std::sync::Arc;

use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use parking_lot::Mutex;
use ring::{
    rand::{SecureRandom, SystemRandom},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use serde_json::{Value, json};

use crate::web::{Answer, Web};

/// A key of an issuer.
#[derive(Clone)]
pub struct Key {
    /// Its id.
    pub kid: String,
    /// The algorithm that it signs with.
    pub algorithm: Algorithm,
    private: EncodingKey,
}

impl Key {
    /// A new Ed25519 key.
    pub fn ed25519(kid: &str) -> Key {
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed).unwrap();
        let private = EncodingKey::from_ed_der(&[ED25519_PKCS8, &seed].concat());
        Key { kid: kid.into(), algorithm: Algorithm::EdDSA, private }
    }

    /// A new P-256 key.
    pub fn p256(kid: &str) -> Key {
        let (kind, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let document = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        let private = EncodingKey::from_ec_der(document.as_ref());
        Key { kid: kid.into(), algorithm: Algorithm::ES256, private }
    }

    /// An RSA key in PEM.
    pub fn rsa(kid: &str, algorithm: Algorithm, pem: &str) -> Key {
        Key { kid: kid.into(), algorithm, private: EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap() }
    }

    /// The same key under another id.
    pub fn named(&self, kid: &str) -> Key {
        Key { kid: kid.into(), ..self.clone() }
    }

    /// The public half in a JWK Set.
    pub fn jwk(&self) -> Value {
        let mut jwk =
            serde_json::to_value(Jwk::from_encoding_key(&self.private, self.algorithm).unwrap()).unwrap();
        jwk["kid"] = self.kid.clone().into();
        jwk
    }

    /// A token with these claims.
    pub fn token(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.kid.clone()), ..Header::new(self.algorithm) };
        jsonwebtoken::encode(&header, claims, &self.private).unwrap()
    }
}

/// The issuer.
#[derive(Clone)]
pub struct Issuer {
    /// Its server.
    pub web: Web,
    answers: Arc<Mutex<Answers>>,
}

struct Answers {
    keys: Answer,
    configuration: Option<Value>,
}

/// What stands before the seed of a private key in PKCS#8 (RFC 8410).
const ED25519_PKCS8: &[u8] =
    &[0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// The path of the JWK Set.
pub const KEYS: &str = "/keys";
/// The path of the OpenID configuration.
pub const CONFIGURATION: &str = "/.well-known/openid-configuration";

impl Issuer {
    /// Starts one that publishes these keys. Its name is its URL.
    pub async fn start(keys: &[&Key]) -> Issuer {
        let answers = Arc::new(Mutex::new(Answers { keys: key_set(keys), configuration: None }));
        let own = Arc::clone(&answers);
        let web = Web::start(move |asked| {
            let answers = own.lock();
            match (asked.path.as_str(), &answers.configuration) {
                (KEYS, _) => answers.keys.clone(),
                (CONFIGURATION, Some(configuration)) => Answer::json(200, configuration),
                _ => Answer::text(404, "not found"),
            }
        })
        .await;
        let issuer = Issuer { web, answers };
        issuer.configure(&json!({ "issuer": issuer.iss(), "jwks_uri": issuer.keys_url() }));
        issuer
    }

    /// The claim `iss` of its tokens.
    pub fn iss(&self) -> String {
        self.web.url()
    }

    /// The URL of its JWK Set.
    pub fn keys_url(&self) -> String {
        format!("{}{KEYS}", self.web.url())
    }

    /// The URL of its OpenID configuration.
    pub fn configuration_url(&self) -> String {
        format!("{}{CONFIGURATION}", self.web.url())
    }

    /// From now on it publishes these keys.
    pub fn publish(&self, keys: &[&Key]) {
        self.answer_keys(key_set(keys));
    }

    /// From now on it answers this to who asks for its keys.
    pub fn answer_keys(&self, answer: Answer) {
        self.answers.lock().keys = answer;
    }

    /// From now on this is its OpenID configuration.
    pub fn configure(&self, configuration: &Value) {
        self.answers.lock().configuration = Some(configuration.clone());
    }
}

fn key_set(keys: &[&Key]) -> Answer {
    let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
    Answer::json(200, &json!({ "keys": keys }))
}
