//! Token keys in a directory, and changes of the accounts file, through auth-svc and the edge.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use blackhole_dev::{ports, services::Service, workspace::RunDir};
use blackhole_tests::{
    accounts::{self, Account, AccountPair},
    client::Client,
    eventually, soon, stack,
    stack::Stack,
};
use futures_util::StreamExt;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use serde_json::json;

fn signed(algorithm: Algorithm, kid: &str, key: &EncodingKey, account: &Account) -> String {
    signed_by("kazoo", algorithm, kid, key, account)
}

fn signed_by(iss: &str, algorithm: Algorithm, kid: &str, key: &EncodingKey, account: &Account) -> String {
    let header = Header { kid: Some(kid.to_owned()), ..Header::new(algorithm) };
    let expires = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(600);
    let claims = json!({ "iss": iss, "account_id": account.id, "exp": expires.as_secs() });
    jsonwebtoken::encode(&header, &claims, key).unwrap()
}

async fn reply(url: &str, token: &str) -> serde_json::Value {
    Client::connect(url).await.request(json!({ "action": "ping", "auth_token": token })).await
}

/// Why a token was refused; none if it was accepted.
fn refusal(reply: &serde_json::Value) -> Option<&str> {
    let text = reply["data"]["errors"][0].as_str()?;
    Some(text.strip_prefix("failed to authenticate token : ").unwrap_or_else(|| panic!("{text}")))
}

#[tokio::test]
async fn keys_are_selected_by_id_and_may_be_added_and_removed() {
    let shared = Stack::shared();
    let dir = RunDir::create("keys").unwrap();
    let keys = dir.subdir("keys").unwrap();
    let (ec, ed) = (
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
        KeyPair::generate_for(&PKCS_ED25519).unwrap(),
    );
    std::fs::write(keys.join("ec.pem"), ec.public_key_pem()).unwrap();
    std::fs::write(dir.path().join("accounts.toml"), accounts::file()).unwrap();
    // A separate deployment on the same NATS server.
    let mut env = vec![
        ("NATS__URL", shared.nats.url()),
        ("NATS__PREFIX", "keys.v1".to_owned()),
        ("AUTH__ACCOUNTS_FILE", dir.path().join("accounts.toml").display().to_string()),
        ("AUTH__JWT__KEYS_DIR", keys.display().to_string()),
    ];
    let binaries = stack::binaries();
    let _auth_svc = Service::start("auth-svc", &binaries.auth_svc, dir.path(), &env).await.unwrap();
    let port = ports::free().unwrap();
    env.push(("WS__LISTEN", format!("127.0.0.1:{port}")));
    env.push(("WS__AUTH_CACHE", "1ms".to_owned()));
    let _edge = Service::start("ws-edge", &binaries.ws_edge, dir.path(), &env).await.unwrap();
    let url = format!("ws://127.0.0.1:{port}");

    let account = Account::fresh();
    let ec_key = EncodingKey::from_ec_der(ec.serialized_der());
    let ed_key = EncodingKey::from_ed_der(ed.serialized_der());
    let good = signed(Algorithm::ES256, "ec", &ec_key, &account);
    assert_eq!(reply(&url, &good).await["status"], "success");

    let later = signed(Algorithm::EdDSA, "ed", &ed_key, &account);
    // The public key as an HMAC secret.
    let public_key = EncodingKey::from_secret(ec.public_key_pem().as_bytes());
    for (bad, reason) in [
        (later.clone(), "unknown key id"),
        (signed(Algorithm::EdDSA, "ec", &ed_key, &account), "algorithm does not fit the key"),
        (signed(Algorithm::ES256, "../keys/ec", &ec_key, &account), "unknown key id"),
        (signed(Algorithm::HS256, "ec", &public_key, &account), "algorithm is not accepted"),
        // HS256 is disabled without a secret.
        (account.token(), "algorithm is not accepted"),
    ] {
        assert_eq!(refusal(&reply(&url, &bad).await), Some(reason));
    }

    std::fs::write(keys.join("ed.pem"), ed.public_key_pem()).unwrap();
    eventually("the new key", || async { reply(&url, &later).await["status"] == "success" }).await;
    std::fs::remove_file(keys.join("ec.pem")).unwrap();
    eventually("the end of the old key", || async {
        refusal(&reply(&url, &good).await) == Some("unknown key id")
    })
    .await;
}

#[tokio::test]
async fn auth_svc_ends_while_a_file_cannot_be_read() {
    use std::os::unix::fs::OpenOptionsExt;
    const O_NONBLOCK: i32 = 0o4000;

    let dir = RunDir::create("unreadable").unwrap();
    let file = dir.path().join("accounts.toml");
    std::fs::write(&file, accounts::file()).unwrap();
    let env = [
        ("NATS__URL", Stack::shared().nats.url()),
        ("NATS__PREFIX", "unreadable.v1".to_owned()),
        ("AUTH__ACCOUNTS_FILE", file.display().to_string()),
        ("AUTH__JWT__HS256_SECRET", accounts::SECRET.to_owned()),
    ];
    let auth_svc = Service::start("auth-svc", &stack::binaries().auth_svc, dir.path(), &env).await.unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
    // A writer can open the pipe when auth-svc reads it. It never writes.
    let open = || std::fs::OpenOptions::new().write(true).custom_flags(O_NONBLOCK).open(&file).ok();
    let mut writer = None;
    eventually("the read", || {
        writer = open();
        std::future::ready(writer.is_some())
    })
    .await;
    let began = std::time::Instant::now();
    assert!(auth_svc.server().stop().await.unwrap().success());
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[tokio::test]
async fn each_issuer_has_its_own_keys_and_accounts() {
    let dir = RunDir::create("issuers").unwrap();
    let (kazoo_keys, idp_keys) = (dir.subdir("kazoo").unwrap(), dir.subdir("idp").unwrap());
    let keys = [(); 2].map(|()| KeyPair::generate_for(&PKCS_ED25519).unwrap());
    for (keys_dir, key) in [&kazoo_keys, &idp_keys].into_iter().zip(&keys) {
        std::fs::write(keys_dir.join("1.pem"), key.public_key_pem()).unwrap();
    }
    std::fs::write(dir.path().join("accounts.toml"), accounts::file()).unwrap();
    let (pair, stranger) = (AccountPair::fresh(), Account::fresh());
    let issuers = format!(
        "[{{iss=\"https://idp\",keys_dir=\"{}\",accounts=[\"{}\"],descendants=true}}]",
        idp_keys.display(),
        pair.parent.id
    );
    let mut env = vec![
        ("NATS__URL", Stack::shared().nats.url()),
        ("NATS__PREFIX", "issuers.v1".to_owned()),
        ("AUTH__ACCOUNTS_FILE", dir.path().join("accounts.toml").display().to_string()),
        ("AUTH__JWT__KEYS_DIR", kazoo_keys.display().to_string()),
        ("AUTH__ISSUERS", issuers),
    ];
    let binaries = stack::binaries();
    let auth_svc = Service::start("auth-svc", &binaries.auth_svc, dir.path(), &env).await.unwrap();
    assert_eq!(Stack::metric(&auth_svc, "blackhole_auth_keys").await, 2.0);
    let port = ports::free().unwrap();
    env.push(("WS__LISTEN", format!("127.0.0.1:{port}")));
    env.push(("WS__AUTH_CACHE", "1ms".to_owned()));
    let _edge = Service::start("ws-edge", &binaries.ws_edge, dir.path(), &env).await.unwrap();
    let url = format!("ws://127.0.0.1:{port}");

    let [kazoo, idp] = keys.map(|key| EncodingKey::from_ed_der(key.serialized_der()));
    for (iss, key, account, expected) in [
        ("kazoo", &kazoo, &stranger, None),
        ("https://idp", &idp, &pair.parent, None),
        ("https://idp", &idp, &pair.child, None),
        ("https://idp", &idp, &stranger, Some("issuer may not name this account")),
        ("https://idp", &kazoo, &pair.parent, Some("issuer is not accepted")),
        ("kazoo", &idp, &pair.parent, Some("issuer is not accepted")),
        ("https://other", &kazoo, &pair.parent, Some("issuer is not accepted")),
    ] {
        let token = signed_by(iss, Algorithm::EdDSA, "1", key, account);
        assert_eq!(refusal(&reply(&url, &token).await), expected, "{iss}");
    }

    // Its keys are reloaded like KAZOO's.
    let token = signed_by("https://idp", Algorithm::EdDSA, "1", &idp, &pair.parent);
    std::fs::remove_file(idp_keys.join("1.pem")).unwrap();
    eventually("the end of the issuer's key", || async {
        refusal(&reply(&url, &token).await) == Some("bad signature")
    })
    .await;
    assert_eq!(Stack::metric(&auth_svc, "blackhole_auth_keys").await, 1.0);
}

#[tokio::test]
async fn auth_svc_is_a_nats_micro_service() {
    let client = async_nats::connect(Stack::shared().nats.url()).await.unwrap();
    // Deployments of other tests answer too, often first.
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.unwrap();
    client.publish_with_reply("$SRV.INFO.blackhole-auth", inbox, "".into()).await.unwrap();
    soon("the answer of the shared deployment", async {
        loop {
            let answer = answers.next().await.unwrap();
            let info: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
            assert_eq!(info["name"], "blackhole-auth");
            // The library lists the endpoints in any order.
            let mut endpoints = info["endpoints"].as_array().unwrap().iter();
            if endpoints.any(|endpoint| endpoint["subject"] == "blackhole.v1.auth.check") {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_changed_accounts_file_takes_effect_at_once() {
    let dir = RunDir::create("reload").unwrap();
    let shared = Stack::shared();
    let file = dir.path().join("accounts.toml");
    std::fs::write(&file, accounts::file()).unwrap();
    let mut env = vec![
        ("NATS__URL", shared.nats.url()),
        ("NATS__PREFIX", "reload.v1".to_owned()),
        ("AUTH__ACCOUNTS_FILE", file.display().to_string()),
        ("AUTH__JWT__HS256_SECRET", accounts::SECRET.to_owned()),
    ];
    let binaries = stack::binaries();
    let _auth_svc = Service::start("auth-svc", &binaries.auth_svc, dir.path(), &env).await.unwrap();
    let port = ports::free().unwrap();
    env.push(("WS__LISTEN", format!("127.0.0.1:{port}")));
    env.push(("WS__AUTH_CACHE", "1ms".to_owned()));
    let _edge = Service::start("ws-edge", &binaries.ws_edge, dir.path(), &env).await.unwrap();
    let url = format!("ws://127.0.0.1:{port}");

    let account = Account::fresh();
    assert_eq!(reply(&url, &account.token()).await["status"], "success");
    let line = format!("realm = \"{}\"\n", account.realm);
    std::fs::write(&file, accounts::file().replace(&line, &format!("{line}enabled = false\n"))).unwrap();
    eventually("the disabled account", || async {
        refusal(&reply(&url, &account.token()).await) == Some("account is disabled")
    })
    .await;
}
