//! `cargo dev test`: installs what the tests need, builds the programs they start, and runs them.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitCode;

use anyhow::Result;

use crate::ending::Endings;
use crate::process::{Process, Spec};
use crate::progress::say;
use crate::services::Binaries;
use crate::workspace::RunDir;
use crate::{install, workspace};

/// Makes each test program end with its cargo, as cargo ends with us. What a test started ends with the test program.
const RUNNER: &str = "target.'cfg(unix)'.runner = ['setpriv', '--pdeathsig', 'KILL', '--']";

/// The options of `cargo dev test`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Arguments for `cargo test --workspace`, such as `-p ws-edge`, or `-- NAME` to run only some tests
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<String>,
}

/// Runs the tests. The exit code is that of `cargo test`.
pub async fn run(options: Options) -> Result<ExitCode> {
    run_with(options.args, Vec::new()).await
}

/// As [`run`], with environment variables for the tests.
pub(crate) async fn run_with(args: Vec<String>, env: Vec<(&str, String)>) -> Result<ExitCode> {
    let mut endings = Endings::listen()?;
    let run = RunDir::create("test")?;
    let code = tokio::select! {
        code = tests(&args, &env, &run) => code?,
        ending = endings.next() => ending.exit_code(),
    };
    run.remove()?;
    Ok(code)
}

async fn tests(args: &[String], env: &[(&str, String)], run: &RunDir) -> Result<ExitCode> {
    install::ensure(install::FOR_TESTS, run.path()).await?;
    say("building the services");
    Binaries::build(run.path()).await?;
    say("building and running the tests");
    let spec = Spec::new(workspace::cargo())
        .args(["--config", RUNNER, "test", "--workspace"])
        .args(args)
        .dir(workspace::root()?);
    let spec = env.iter().fold(spec, |spec, (name, value)| spec.env(name, value));
    let status = Process::start(&spec)?.exited().await?;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    Ok(code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
