use blackhole_common::config::{self, UnknownKeys};

use super::*;
use crate::testing::{self, TempDir};

fn load<C: Configuration>(dir: &TempDir, text: &str) -> Result<C, String> {
    let file = dir.write("blackhole.toml", text);
    let loaded = config::load(Some(&file), UnknownKeys::Refuse);
    loaded.map(|loaded| loaded.config).map_err(|error| error.to_string())
}

#[test]
fn errors_are_one_line_without_secrets() {
    let dir = TempDir::new();
    let accounts = dir.write("accounts.toml", testing::ACCOUNTS);
    let broken_accounts = dir.write("broken.toml", "[[account]]\nid = \"a\"");
    for keys in ["keys", "broken-keys"] {
        std::fs::create_dir(dir.path().join(keys)).unwrap();
        dir.write(&format!("{keys}/a.pem"), testing::RSA_PUBLIC);
    }
    dir.write("broken-keys/b.pem", testing::RSA_1024_PUBLIC);
    let auth = |accounts: &std::path::Path, jwt: &str| {
        format!("[auth]\naccounts_file = {:?}\n[auth.jwt]\n{jwt}\n", accounts.display().to_string())
    };
    let keys_dir = |name: &str| format!("keys_dir = {:?}", dir.path().join(name).display().to_string());
    let secret = format!("hs256_secret = \"{}\"", testing::SECRET);
    // With the good keys for KAZOO, and these for another.
    let issuer = |keys: &str, text: &str| {
        let (jwt, own) = match keys.starts_with("keys_dir") {
            true => (keys_dir("keys"), keys.to_owned()),
            false => (keys.to_owned(), keys_dir("keys")),
        };
        format!("{}[[auth.issuers]]\n{own}\n{text}\n", auth(&accounts, &jwt))
    };
    for (text, expected) in [
        (String::new(), "`auth.jwt.keys_dir` (by default): is required"),
        (format!("[auth.jwt]\n{secret}"), "`auth.accounts_file` (by default): is required"),
        (auth(&accounts, ""), "or, for development, auth.jwt.hs256_secret"),
        (auth(&accounts, "hs256_secret = \"short\""), "`auth.jwt.hs256_secret` = [hidden]"),
        (
            auth(&accounts, &format!("hs256_secret = \"{KNOWN_SECRET}\"")),
            "`auth.jwt.hs256_secret` = [hidden] (in",
        ),
        (auth(&accounts, &format!("hs256_secret = \"{KNOWN_SECRET}\"")), "is the former example"),
        (
            auth(&accounts, &format!("{secret}\n{}", keys_dir("keys"))),
            "set auth.jwt.dangerous_secret_beside_keys = true",
        ),
        (auth(&accounts, "hs256_secrets = \"s\""), "unknown key"),
        (auth(&accounts, &keys_dir("none")), "No such file"),
        (auth(&accounts, &keys_dir("broken-keys")), "b.pem: is an RSA key of 1024 bits"),
        (issuer(&keys_dir("keys"), "iss = \"\"\naccounts = [\"*\"]"), "`auth.issuers`"),
        (
            issuer(&keys_dir("keys"), "iss = \"kazoo\"\naccounts = [\"*\"]"),
            "iss \"kazoo\" is empty or used twice",
        ),
        (issuer(&keys_dir("keys"), "iss = \"i\"\naccounts = []"), "i: accounts must list the ids"),
        (issuer(&keys_dir("keys"), "iss = \"i\"\naccounts = [\"\"]"), "i: accounts must list the ids"),
        (issuer(&keys_dir("keys"), "iss = \"i\""), "missing field `accounts`"),
        (issuer(&keys_dir("keys"), "iss = \"i\"\naccounts = [\"*\"]\nalgs = []"), "unknown key"),
        (
            issuer(&keys_dir("broken-keys"), "iss = \"i\"\naccounts = [\"*\"]"),
            "b.pem: is an RSA key of 1024 bits",
        ),
        (
            issuer(&secret, "iss = \"i\"\naccounts = [\"*\"]"),
            "beside auth.jwt.keys_dir, auth.couchdb or auth.issuers",
        ),
        (auth(&dir.path().join("none.toml"), &secret), "No such file"),
        (auth(&broken_accounts, &secret), "broken.toml: line 1: missing field `name`"),
        (auth(&accounts, &secret) + "[admin]\nlisten = \"here\"", "`admin.listen` = \"here\""),
    ] {
        let error = load::<AuthSvcConfig>(&dir, &text).unwrap_err();
        assert!(error.contains(expected), "{error} instead of {expected}");
        assert!(!error.contains('\n') && !error.contains("short\"") && !error.contains(testing::SECRET));
        assert!(!error.contains(KNOWN_SECRET));
    }
    let both = format!("{secret}\n{}\ndangerous_secret_beside_keys = true", keys_dir("keys"));
    let other = format!("[[auth.issuers]]\niss = \"kazoo\"\n{}\naccounts = [\"*\"]", keys_dir("keys"));
    for jwt in [secret, keys_dir("keys"), both, other] {
        let config: AuthSvcConfig = load(&dir, &auth(&accounts, &jwt)).unwrap();
        assert_eq!(config.admin.listen.to_string(), "127.0.0.1:9402");
    }
    let text = issuer(&keys_dir("keys"), "iss = \"https://i\"\naccounts = [\"a\"]\naudience = \"me\"");
    let config: AuthSvcConfig = load(&dir, &text).unwrap();
    let issuers = issuers::Issuer::all(&config.auth, None).unwrap();
    assert_eq!(issuers.iter().map(|issuer| issuer.iss.as_str()).collect::<Vec<_>>(), ["kazoo", "https://i"]);
    assert_eq!(issuers[1].audience.as_deref(), Some("me"));
    assert_eq!(*issuers[1].scope, issuers::Scope::Below(vec!["a".into()]));
}

#[test]
fn minting_requires_only_the_secret() {
    let dir = TempDir::new();
    let error = load::<MintConfig>(&dir, "[auth]\naccounts_file = \"/nonexistent\"").unwrap_err();
    assert!(error.contains("`auth.jwt.hs256_secret` (by default): is required to mint"), "{error}");
    let text = format!("[auth.jwt]\nhs256_secret = \"{}\"", testing::SECRET);
    load::<MintConfig>(&dir, &text).unwrap();
}

#[test]
fn couchdb_replaces_the_files_or_stands_beside_them() {
    let dir = TempDir::new();
    let accounts = dir.write("accounts.toml", testing::ACCOUNTS).display().to_string();
    let couchdb = "[auth.couchdb]\nurl = \"http://u:s3cr3t@127.0.0.1:15984\"\n";
    let sources = |text: &str| load::<AuthSvcConfig>(&dir, text).map(|config| config.auth.sources());
    assert_eq!(sources(couchdb), Ok(vec![Source::CouchDb, Source::Files]));
    let both = format!("[auth]\naccounts_file = {accounts:?}\nsources = [\"files\", \"couchdb\"]\n{couchdb}");
    assert_eq!(sources(&both), Ok(vec![Source::Files, Source::CouchDb]));
    let files = format!(
        "[auth]\naccounts_file = {accounts:?}\nsources = [\"files\"]\n{couchdb}[auth.jwt]\nhs256_secret = \"{}\"",
        testing::SECRET
    );
    let config: AuthSvcConfig = load(&dir, &files).unwrap();
    assert!(config.auth.couchdb().is_none());
    let shown = format!("{config:?}{}", serde_json::to_string(&config).unwrap());
    assert!(!shown.contains("s3cr3t"));
    let couchdb_with = |more: &str| format!("{couchdb}{more}\n");
    let url = |url: &str| format!("[auth.couchdb]\nurl = \"{url}\"\n");
    for (text, expected) in [
        ("[auth]\nsources = [\"couchdb\"]\n".to_owned(), "but auth.couchdb.url is not set"),
        (format!("[auth]\nsources = []\n{couchdb}"), "`auth.sources`"),
        (format!("[auth]\nsources = [\"couchdb\", \"couchdb\"]\n{couchdb}"), "each once"),
        (format!("[auth]\nsources = [\"crossbar\"]\n{couchdb}"), "`auth.sources"),
        (url(""), "`auth.couchdb.url`"),
        (url("couchdb://u:s3cr3t@h"), "must be a URL such as http://127.0.0.1:5984"),
        (url("http://h/?x=1"), "must be a URL"),
        (couchdb_with("password = \"s3cr3t\""), "needs auth.couchdb.user"),
        (couchdb_with("timeout = \"0s\""), "`auth.couchdb.timeout`"),
        (couchdb_with("timeout = \"2m\""), "`auth.couchdb.timeout`"),
        (couchdb_with("poll_interval = \"1ms\""), "must be at least 1s"),
        (couchdb_with("ca_file = \"/nonexistent\""), "/nonexistent: "),
        (couchdb_with("database = \"x\""), "unknown key"),
        (
            format!("{couchdb}[auth.jwt]\nhs256_secret = \"{}\"", testing::SECRET),
            "beside auth.jwt.keys_dir, auth.couchdb",
        ),
    ] {
        let error = sources(&text).unwrap_err();
        assert!(error.contains(expected), "{error} instead of {expected}");
        assert!(!error.contains("s3cr3t") && !error.contains('\n'), "{error}");
    }
}
