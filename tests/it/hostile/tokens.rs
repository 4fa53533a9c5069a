//! A flood of tokens that somebody made up, with the id of a real key: each costs a verification, and a good token still
//! gets its answer in time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use blackhole_common::wire::{AuthReply, AuthRequest};
use blackhole_dev::{services::Service, workspace::RunDir};
use blackhole_tests::{
    accounts::{self, Account},
    stack::{self, Stack},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;

const PRIVATE_KEY: &str = include_str!("../../../auth-svc/src/testdata/rsa-4096-private.pem");
const PUBLIC_KEY: &str = include_str!("../../../auth-svc/src/testdata/rsa-4096-public.pem");
/// As many as auth-svc lets wait.
const BAD_TOKENS: usize = 16_000;
/// How long an edge waits for an answer before it asks again (half of `ws.request_timeout`).
const PATIENCE: Duration = Duration::from_secs(5);

fn payload(token: String) -> Vec<u8> {
    serde_json::to_vec(&AuthRequest { token, account_id: None }).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_bad_tokens_keeps_no_good_one_waiting() {
    let dir = RunDir::create("bad-tokens").unwrap();
    let keys = dir.subdir("keys").unwrap();
    std::fs::write(keys.join("large.pem"), PUBLIC_KEY).unwrap();
    std::fs::write(dir.path().join("accounts.toml"), accounts::file()).unwrap();
    let env = [
        ("NATS__URL", Stack::shared().nats.url()),
        ("NATS__PREFIX", "badtokens.v1".to_owned()),
        ("AUTH__ACCOUNTS_FILE", dir.path().join("accounts.toml").display().to_string()),
        ("AUTH__JWT__KEYS_DIR", keys.display().to_string()),
    ];
    let auth_svc = Service::start("auth-svc", &stack::binaries().auth_svc, dir.path(), &env).await.unwrap();
    let subject = "badtokens.v1.auth.check";

    let account = Account::fresh();
    let expires = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(600);
    let claims = json!({ "iss": "kazoo", "account_id": account.id, "exp": expires.as_secs() });
    let header = Header { kid: Some("large".into()), ..Header::new(Algorithm::RS256) };
    let key = EncodingKey::from_rsa_pem(PRIVATE_KEY.as_bytes()).unwrap();
    let good = jsonwebtoken::encode(&header, &claims, &key).unwrap();

    let (signed, _) = good.rsplit_once('.').unwrap();
    let client = async_nats::connect(Stack::shared().nats.url()).await.unwrap();
    for number in 0..BAD_TOKENS {
        // All different, of the right length, and less than the modulus.
        let mut signature = [0; 512];
        signature[1..9].copy_from_slice(&number.to_be_bytes());
        let bad = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
        client.publish_with_reply(subject, "nobody", payload(bad).into()).await.unwrap();
    }
    let asked = Instant::now();
    let request = async_nats::Request::new().payload(payload(good).into()).timeout(Some(PATIENCE));
    let reply = client.send_request(subject, request).await.unwrap();
    println!("answered after {:?}, behind {BAD_TOKENS} bad tokens", asked.elapsed());
    let reply: AuthReply = serde_json::from_slice(&reply.payload).unwrap();
    assert!(matches!(reply, AuthReply::Accepted { bearer, .. } if bearer.account_id == account.id));
    let refused = r#"blackhole_auth_requests_total{outcome="refused",reason="signature"}"#;
    assert!(Stack::metric(&auth_svc, refused).await > BAD_TOKENS as f64 / 2.0, "they were verified");
}
