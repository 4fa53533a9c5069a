//! `cargo dev check`, with a script in cargo's place: what it runs, and what it says.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use anyhow::Result;
use blackhole_dev::workspace::RunDir;

/// What it did.
struct Outcome {
    code: Option<i32>,
    said: String,
    /// The subcommands of cargo that it ran.
    calls: Vec<String>,
}

/// Runs it with a cargo that writes down its arguments, and fails if the first of them is `bad`.
fn check(name: &str, arguments: &[&str], bad: &str) -> Result<Outcome> {
    let run = RunDir::create(name)?;
    let (cargo, calls) = (run.path().join("cargo"), run.path().join("calls"));
    let script = format!(
        "#!/bin/sh\n\
         echo \"$1\" >> '{}'\n\
         echo \"about to $1\"\n\
         case \"$1\" in {bad}) exit 101;; esac\n\
         echo 'test result: ok. 7 passed; 0 failed'\n",
        calls.display()
    );
    fs::write(&cargo, script)?;
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755))?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_blackhole-dev"));
    let output = command.arg("check").args(arguments).env("CARGO", &cargo).output()?;
    let calls = fs::read_to_string(calls)?.lines().map(str::to_owned).collect();
    run.remove()?;
    Ok(Outcome { code: output.status.code(), said: String::from_utf8(output.stderr)?, calls })
}

#[test]
fn it_ends_with_a_summary() {
    let Outcome { code, said, calls } = check("test-check-good", &[], "nothing").unwrap();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(calls, ["fmt", "clippy", "doc", "test"]);
    assert!(said.contains("rustdoc done, "), "{said}");
    assert!(said.contains("all is well: format, Clippy, rustdoc, 7 unit tests, in "), "{said}");
    assert!(!said.contains("about to"), "what succeeds is not shown:\n{said}");
}

#[test]
fn it_stops_at_the_first_failure_and_shows_it() {
    let Outcome { code, said, calls } = check("test-check-bad", &[], "clippy").unwrap();
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(calls, ["fmt", "clippy"]);
    assert!(said.contains("about to clippy\nerror: `cargo clippy "), "{said}");
    assert!(said.contains("`cargo clippy --fix "), "{said}");
    assert!(!said.contains("all is well"), "{said}");
}

#[test]
fn cargo_deny_is_installed_where_it_is_missing() {
    let there = check("test-check-deny", &["--dependencies"], "nothing").unwrap();
    assert_eq!(there.code, Some(0), "{}", there.said);
    assert_eq!(there.calls, ["deny", "fetch", "deny"]);
    let missing = check("test-check-no-deny", &["--dependencies"], "deny").unwrap();
    assert_eq!(missing.code, Some(1), "{}", missing.said);
    assert_eq!(missing.calls, ["deny", "install", "fetch", "deny"]);
}
