//! `cargo dev check`: what a commit has to be, as far as that is known without brokers.

use std::io::{IsTerminal, stderr};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::ending::Endings;
use crate::process::{Process, Spec};
use crate::progress::{say, step};
use crate::workspace;
use crate::workspace::RunDir;

/// The options of `cargo dev check`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Instead: licences, versions and origins of the dependencies; installs cargo-deny if it is missing
    #[arg(long)]
    pub dependencies: bool,
}

/// One command of cargo.
#[derive(Debug)]
struct Step {
    name: &'static str,
    /// Arguments of cargo; none contains a space.
    command: &'static str,
    /// Shown when it fails.
    advice: &'static str,
}

/// Quick ones first. `.ci/run` has the same commands.
const CODE: [Step; 4] = [
    Step { name: "format", command: "fmt --all --check", advice: "`cargo fmt --all` mends it" },
    Step {
        name: "Clippy",
        command: "clippy --workspace --all-targets --locked -- -D warnings",
        advice: "`cargo clippy --fix --allow-dirty --workspace --all-targets` mends some of it",
    },
    Step {
        name: "rustdoc",
        command: "doc --workspace --no-deps --document-private-items --locked",
        advice: "the lines above name the doc comments",
    },
    Step {
        name: "unit tests",
        command: "test --workspace --lib --bins --test rooms --locked --quiet",
        advice: "`cargo test -p CRATE NAME` runs one alone",
    },
];

/// Where there is no cargo-deny. Debian has no package of it.
const INSTALL: Step = Step {
    name: "installing cargo-deny",
    command: "install --locked cargo-deny@0.20.2",
    advice: "`cargo dev check` itself does without it",
};

const DEPENDENCIES: [Step; 2] = [
    // cargo-deny reads all of Cargo.lock, also what is not built here.
    Step {
        name: "fetching",
        command: "fetch --locked",
        advice: "is Cargo.lock up to date, and crates.io there?",
    },
    Step {
        name: "dependencies",
        command: "deny --offline check licenses bans sources",
        advice: "deny.toml says what is allowed, and why",
    },
];

/// Runs the checks, and stops at the first that fails.
pub async fn run(options: Options) -> Result<ExitCode> {
    let mut endings = Endings::listen()?;
    let run = RunDir::create("check")?;
    let log = run.path().join("cargo.log");
    let checks = async { if options.dependencies { dependencies(&log).await } else { code(&log).await } };
    let code = tokio::select! {
        done = checks => done.map(|()| ExitCode::SUCCESS),
        ending = endings.next() => Ok(ending.exit_code()),
    };
    run.remove()?;
    code
}

async fn code(log: &Path) -> Result<()> {
    let started = Instant::now();
    let mut tests = 0;
    for check in &CODE {
        let printed = cargo(check, log).await?;
        if check.command.starts_with("test ") {
            tests += passed(&printed);
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    say(format_args!("all is well: format, Clippy, rustdoc, {tests} unit tests, in {seconds:.1} s"));
    say("`cargo dev test` runs the end-to-end tests too");
    Ok(())
}

async fn dependencies(log: &Path) -> Result<()> {
    let version = Command::new(workspace::cargo()).args(["deny", "--version"]).output();
    if !version.is_ok_and(|output| output.status.success()) {
        cargo(&INSTALL, log).await?;
    }
    for check in &DEPENDENCIES {
        cargo(check, log).await?;
    }
    Ok(())
}

/// Runs one command, and returns what it printed. That is shown only if it fails.
async fn cargo(check: &Step, log: &Path) -> Result<String> {
    let color = if stderr().is_terminal() { "always" } else { "never" };
    let spec = Spec::new(workspace::cargo())
        .args(check.command.split(' '))
        .env("CARGO_TERM_COLOR", color)
        .env("RUSTDOCFLAGS", "-D warnings")
        .dir(workspace::root()?)
        .log(log);
    let _ = std::fs::remove_file(log);
    let done = step(check.name, async {
        let status = Process::start(&spec)?.exited().await?;
        if !status.success() {
            bail!("`cargo {}` failed ({status}); {}", check.command, check.advice);
        }
        Ok(())
    });
    let done = done.await;
    let printed = std::fs::read(log).with_context(|| format!("cannot read {}", log.display()))?;
    let printed = String::from_utf8_lossy(&printed).into_owned();
    if done.is_err() {
        say(printed.trim_end());
    }
    done.map(|()| printed)
}

/// How many tests passed, as cargo's test programs say.
fn passed(printed: &str) -> u32 {
    let results = printed.lines().filter_map(|line| line.split_once("test result: ")?.1.split_once(". "));
    results.filter_map(|(_, counts)| counts.split(' ').next()?.parse::<u32>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passed_tests_are_added_up() {
        let printed = "running 2 tests\n..\n\
                       test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n\n\
                       test result: ok. 10 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(passed(printed), 12);
        assert_eq!(passed("Finished `dev` profile"), 0);
    }

    #[test]
    fn ci_runs_the_same_commands() {
        let ci = std::fs::read_to_string(workspace::root().unwrap().join(".ci/run")).unwrap();
        for check in CODE.iter().filter(|check| !check.command.starts_with("test ")) {
            assert!(ci.contains(&format!("cargo {}\n", check.command)), ".ci/run has no {check:?}");
        }
    }
}
