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
            issuer(&keys_dir("keys"), "iss = \"i\"\naccounts = [\"*\", \"a\"]"),
            "i: accounts must be \"*\" alone",
        ),
        (
            issuer(&keys_dir("keys"), "iss = \"i\"\naccounts = [\"*\"]\nalgorithms = [\"HS256\"]"),
            "i: algorithms must",
        ),
        (issuer(&keys_dir("keys"), "iss = \"i\"\naccounts = [\"*\"]\nalgorithms = []"), "i: algorithms must"),
        (
            issuer(&keys_dir("keys"), "iss = \"i\"\naccounts = [\"*\"]\nalgorithms = [\"none\"]"),
            "expected one of HS256",
        ),
        (
            issuer(&keys_dir("keys"), "iss = \"i\"\naccounts = [\"*\"]\njwks_url = \"https://h/\""),
            "i: needs one of jwks_url, discovery_url and keys_dir",
        ),
        (
            issuer(&keys_dir("broken-keys"), "iss = \"i\"\naccounts = [\"*\"]"),
            "b.pem: is an RSA key of 1024 bits",
        ),
        (
            issuer(&secret, "iss = \"i\"\naccounts = [\"*\"]"),
            "beside auth.jwt.keys_dir, auth.couchdb, auth.crossbar or auth.issuers",
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
    let issuers = issuers::Issuer::all(&config.auth, None, &issuers::Reports::default()).unwrap();
    assert_eq!(issuers.iter().map(|issuer| issuer.iss.as_str()).collect::<Vec<_>>(), ["kazoo", "https://i"]);
    assert_eq!(issuers[1].audience.as_deref(), Some("me"));
    assert_eq!(*issuers[1].scope, issuers::Scope::Only(vec!["a".into()]));
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
        (format!("[auth]\nsources = [\"crossbar\"]\n{couchdb}"), "but auth.crossbar.url is not set"),
        (format!("[auth]\nsources = [\"ldap\"]\n{couchdb}"), "`auth.sources"),
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

#[test]
fn crossbar_replaces_the_files_or_stands_beside_them() {
    let dir = TempDir::new();
    let crossbar = "[auth.crossbar]\nurl = \"http://127.0.0.1:8000\"\nkey_ids = [\"k\"]\n";
    let sources = |text: &str| load::<AuthSvcConfig>(&dir, text).map(|config| config.auth.sources());
    assert_eq!(sources(crossbar), Ok(vec![Source::Crossbar, Source::Files]));
    let all =
        "[auth]\nsources = [\"files\", \"couchdb\", \"crossbar\"]\n[auth.couchdb]\nurl = \"http://h\"\n";
    assert_eq!(
        sources(&format!("{all}{crossbar}")),
        Ok(vec![Source::Files, Source::CouchDb, Source::Crossbar])
    );
    let url = |url: &str| format!("[auth.crossbar]\nurl = \"{url}\"\nkey_ids = [\"k\"]\n");
    for (text, expected) in [
        (url(""), "`auth.crossbar.url`"),
        (url("http://u:s3cr3t@h"), "without user, password"),
        (url("ftp://h"), "must be a URL"),
        ("[auth.crossbar]\nurl = \"http://h\"\n".into(), "must list the ids of KAZOO's keys"),
        (format!("{crossbar}cache = \"10m\"\n"), "must be 1s to 5m"),
        (format!("{crossbar}cache = \"0s\"\n"), "must be 1s to 5m"),
        (format!("{crossbar}timeout = \"2m\"\n"), "must be 1ms to 1m"),
        (format!("{crossbar}ca_file = \"/nonexistent\"\n"), "/nonexistent: "),
        (format!("{crossbar}api_key = \"x\"\n"), "unknown key"),
    ] {
        let error = sources(&text).unwrap_err();
        assert!(error.contains(expected), "{error} instead of {expected}");
        assert!(!error.contains("s3cr3t") && !error.contains('\n'), "{error}");
    }
}

#[test]
fn issuers_are_read_over_https_or_on_this_machine() {
    let dir = TempDir::new();
    let accounts = dir.write("accounts.toml", testing::ACCOUNTS).display().to_string();
    let check = |lines: &str| {
        let text = format!(
            "[auth]\naccounts_file = {accounts:?}\n[[auth.issuers]]\niss = \"i\"\naccounts = [\"child\"]\n{lines}"
        );
        load::<AuthSvcConfig>(&dir, &text).map(drop)
    };
    for good in [
        "jwks_url = \"https://idp.example.com/keys\"",
        "discovery_url = \"https://idp.example.com/.well-known/openid-configuration\"",
        "jwks_url = \"http://127.0.0.1:8080/keys\"",
        "jwks_url = \"http://localhost:8080/keys\"",
        "jwks_url = \"http://[::1]:8080/keys\"",
        "jwks_url = \"http://idp.internal/keys\"\ndangerous_http = true",
        "jwks_url = \"https://h/\"\nalgorithms = [\"ES384\", \"PS256\"]\naccount_claim = \"acct\"\nkeep_keys = \"1h\"",
    ] {
        assert_eq!(check(good), Ok(()), "{good}");
    }
    for (bad, expected) in [
        ("", "needs one of jwks_url, discovery_url and keys_dir"),
        ("jwks_url = \"http://idp.internal/keys\"", "jwks_url must begin with https"),
        ("discovery_url = \"http://idp.internal/keys\"", "discovery_url must begin with https"),
        ("jwks_url = \"http://localhost.example.com/keys\"", "jwks_url must begin with https"),
        ("jwks_url = \"https://u:s3cr3t@h/\"", "without user, password and query"),
        ("jwks_url = \"https://h/?s3cr3t\"", "without user, password and query"),
        ("jwks_url = \"file:///etc/passwd\"", "must be a URL"),
        ("jwks_url = \"https://h/\"\ndiscovery_url = \"https://h/\"", "needs one of"),
        ("jwks_url = \"https://h/\"\nca_file = \"/nonexistent\"", "ca_file: /nonexistent: "),
        ("jwks_url = \"https://h/\"\ntimeout = \"0s\"", "timeout must be"),
        ("jwks_url = \"https://h/\"\nrefresh_interval = \"1ms\"", "refresh_interval must be"),
        ("jwks_url = \"https://h/\"\nkeep_keys = \"1s\"", "keep_keys must not be below"),
        ("jwks_url = \"https://h/\"\naccount_claim = \"\"", "account_claim is empty"),
    ] {
        let error = check(bad).unwrap_err();
        assert!(error.contains(expected), "{error} instead of {expected}");
        assert!(!error.contains("s3cr3t") && !error.contains('\n'), "{error}");
    }
}
