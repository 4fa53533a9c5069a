//! `cargo dev compat`: runs the services of this work tree beside those of the baseline, the version before.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::{Process, Spec};
use crate::progress::say;
use crate::services::Binaries;
use crate::workspace::RunDir;
use crate::{test, workspace};

/// The file that names the baseline's commit. Lines that begin with `#` are comments.
const BASELINE: &str = "tests/compat/baseline";

const TEST: &str = "compat::versions_run_side_by_side";

/// The options of `cargo dev compat`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The version to run beside this one, instead of the commit in tests/compat/baseline: a commit, tag or branch
    #[arg(long, value_name = "COMMIT")]
    pub baseline: Option<String>,
    /// How long events flow after each step (such as "30s")
    #[arg(long = "for", value_name = "TIME", default_value = "6s", value_parser = humantime::parse_duration)]
    pub time: Duration,
}

/// Runs it. The exit code is that of the test.
pub async fn run(options: Options) -> Result<ExitCode> {
    let root = workspace::root()?;
    let baseline = match options.baseline {
        Some(baseline) => baseline,
        None => named_in(&root.join(BASELINE))?,
    };
    let run = RunDir::create("compat")?;
    let tree = checked_out(&root, &baseline, &run).await?;
    say(format_args!("building the baseline in {}", tree.display()));
    let programs = Binaries::build_tree(&tree, run.path()).await?;
    let dir = programs.ws_edge.parent().context("cargo built a program without a directory")?;
    let env = vec![
        ("COMPAT_BASELINE", dir.display().to_string()),
        ("COMPAT_SECONDS", options.time.as_secs().to_string()),
    ];
    run.remove()?;
    let args = ["-p", "blackhole-tests", "--test", "it", "--", "--exact", TEST, "--ignored", "--nocapture"];
    test::run_with(args.map(str::to_owned).to_vec(), env).await
}

fn named_in(file: &Path) -> Result<String> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    commit_of(&text).with_context(|| format!("{} names no commit", file.display()))
}

fn commit_of(text: &str) -> Option<String> {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'))?;
    Some(line.to_owned())
}

/// The work tree of a commit below `target/compat`. It stays there, with what was built.
async fn checked_out(root: &Path, commit: &str, run: &RunDir) -> Result<PathBuf> {
    let id = git(root, &["rev-parse", "--verify", &format!("{commit}^{{commit}}")], run).await.with_context(
        || format!("{commit} is no commit here; in a shallow clone, run `git fetch --unshallow` first"),
    )?;
    let tree = workspace::target_dir()?.join("compat").join(&id);
    if !tree.join("Cargo.toml").is_file() {
        // git still knows a tree that was removed with the target directory.
        git(root, &["worktree", "prune"], run).await?;
        let path = tree.to_str().context("the target directory is not UTF-8")?;
        git(root, &["worktree", "add", "--force", "--detach", path, &id], run).await?;
    }
    Ok(tree)
}

/// Runs git, and returns the first line of its output.
async fn git(root: &Path, args: &[&str], run: &RunDir) -> Result<String> {
    let output = run.path().join("git.out");
    let _ = std::fs::remove_file(&output);
    let status = Process::start(&Spec::new("git").args(args).dir(root).stdout(&output))?.exited().await?;
    if !status.success() {
        bail!("git {} failed ({status})", args.join(" "));
    }
    let text = std::fs::read_to_string(&output).context("git has no output")?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_baseline_is_a_commit() {
        let file = workspace::root().unwrap().join(BASELINE);
        let commit = named_in(&file).unwrap();
        assert!(commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit()), "{commit}");
        assert_eq!(commit_of("# a comment\n\n v0.1.0 \n").as_deref(), Some("v0.1.0"));
        assert_eq!(commit_of("# a comment\n"), None);
    }
}
