//! Passes on the commit that is built: `BUILD_COMMIT`, or in release builds what git says. Debug builds have none, so
//! that a commit does not make cargo compile everything again.

use std::{env, process::Command};

fn main() {
    println!("cargo:rerun-if-env-changed=BUILD_COMMIT");
    let given = env::var("BUILD_COMMIT").ok().filter(|commit| !commit.is_empty());
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = given.or_else(|| if is_release { of_git() } else { None });
    if let Some(commit) = commit {
        println!("cargo:rustc-env=BUILD_COMMIT={}", commit.chars().take(12).collect::<String>());
    }
}

/// The commit of the checkout, unless it is none.
fn of_git() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output =
            Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
    };
    // It changes with each commit and checkout.
    println!("cargo:rerun-if-changed={}", git(&["rev-parse", "--git-path", "logs/HEAD"])?);
    git(&["rev-parse", "HEAD"])
}
