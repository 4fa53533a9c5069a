//! The commands and configuration of docs/migrating.md: converting the accounts, and HAProxy.

use std::{
    path::Path,
    process::{Command, Output},
};

use blackhole_dev::{
    install::{self, HAPROXY, JQ},
    workspace::RunDir,
};
use blackhole_tests::{accounts, stack};
use serde_json::json;

fn block(language: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/migrating.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, rest) = page.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

fn out(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn the_documented_jq_program_converts_kazoos_accounts() {
    let dir = RunDir::create("migrating").unwrap();
    let file = |name: &str| dir.path().join(name);
    let (top, child) = (accounts::TOP, "4b31dd1d32ce6d249897c06332375d65");
    let documents = json!({ "rows": [
        { "doc": { "_id": "_design/accounts" } },
        { "doc": { "_id": child, "name": "Zoë \"Z\" \\ Sons", "realm": "Child.example.com", "pvt_type": "account",
                   "pvt_tree": [top], "pvt_enabled": true } },
        { "doc": { "_id": top, "name": "system", "realm": "top.example.com", "pvt_type": "account", "pvt_tree": [],
                   "pvt_superduper_admin": true } },
        { "doc": { "_id": accounts::DISABLED, "realm": "off.example.com", "pvt_type": "account",
                   "pvt_tree": [top, child], "pvt_enabled": false } },
        { "doc": { "_id": "gone", "realm": "Child.example.com", "pvt_type": "account", "pvt_deleted": true } },
    ] });
    std::fs::write(file("documents.json"), documents.to_string()).unwrap();
    std::fs::write(file("accounts.jq"), block("jq")).unwrap();
    let mut jq = Command::new(install::find(JQ).unwrap());
    jq.args(["-r", "-f", "accounts.jq", "documents.json"]).current_dir(dir.path());
    std::fs::write(file("accounts.toml"), out(&jq.output().unwrap())).unwrap();

    let auth = |arguments: &[&str]| {
        let mut command = Command::new(stack::binaries().auth_svc);
        command.args(arguments).current_dir(dir.path());
        command.env("BLACKHOLE_AUTH__ACCOUNTS_FILE", "accounts.toml");
        command.env("BLACKHOLE_AUTH__JWT__HS256_SECRET", accounts::SECRET);
        command
    };
    assert_eq!(out(&auth(&["--check-config"]).output().unwrap()), "the configuration is good\n");
    let hour = std::time::Duration::from_secs(3600);
    let explained = |account: &str| {
        std::fs::write(file("token"), accounts::token(account, hour)).unwrap();
        let token = std::fs::File::open(file("token")).unwrap();
        let output = auth(&["check-token"]).stdin(token).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let of_child = explained(child);
    assert!(of_child.contains("the token is good"), "{of_child}");
    assert!(of_child.contains("Zoë \"Z\" \\ Sons") && of_child.to_lowercase().contains("child.example.com"));
    assert!(!of_child.contains(top), "the parent account is not shown: {of_child}");
    let of_disabled = explained(accounts::DISABLED);
    assert!(of_disabled.contains("account is disabled"), "{of_disabled}");
    assert!(of_disabled.contains("the token is refused"), "{of_disabled}");
    assert!(explained(top).contains("the token is good"));
    dir.remove().unwrap();
}

#[test]
fn the_documented_haproxy_configuration_is_valid() {
    let dir = RunDir::create("migrating-proxy").unwrap();
    let file = dir.path().join("haproxy.cfg");
    let head = "global\n    maxconn 1000\ndefaults\n    mode http\n    timeout connect 5s\n    timeout client 30s\n    \
                timeout server 30s\n    timeout tunnel 2h\n";
    let block = block("haproxy");
    // The test has no certificate at that path.
    let tls = " ssl crt /etc/kazoo/haproxy/cert_key.pem alpn http/1.1";
    assert!(block.contains(tls));
    std::fs::write(&file, format!("{head}{}", block.replace(tls, ""))).unwrap();
    out(&Command::new(install::find(HAPROXY).unwrap()).arg("-c").arg("-f").arg(&file).output().unwrap());
    dir.remove().unwrap();
}
