//! `cargo dev autobahn`: the Autobahn test suite against the edge's WebSocket code.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::ending::Endings;
use crate::process::{Process, Spec};
use crate::progress::{say, step};
use crate::workspace;

/// The suite on PyPI.
const SUITE: &str = "autobahntestsuite==25.10.1";
/// The test that runs it.
const TEST: &str = "session::websocket::tests::autobahn::the_autobahn_test_suite_finds_no_fault";

/// The options of `cargo dev autobahn`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Python 2.7 with pip: the suite has not been ported to Python 3. `pyenv install 2.7.18` builds one
    #[arg(long, value_name = "PROGRAM", default_value = "python2.7")]
    pub python: PathBuf,
    /// Only these cases, such as `12.1.*,13.*`
    #[arg(long, default_value = "*")]
    pub cases: String,
}

/// Installs the suite below cargo's target directory, and runs it. The exit code is that of the test.
pub async fn run(options: Options) -> Result<ExitCode> {
    let mut endings = Endings::listen()?;
    tokio::select! {
        code = suite(&options) => code,
        ending = endings.next() => Ok(ending.exit_code()),
    }
}

async fn suite(Options { python, cases }: &Options) -> Result<ExitCode> {
    let dir = workspace::target_dir()?.join("autobahn");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let (packages, log) = (dir.join("packages"), dir.join("pip.log"));
    if !packages.join("autobahntestsuite").is_dir() {
        let pip = Spec::new(python)
            .args(["-m", "pip", "install", "--quiet", "--target"])
            .arg(&packages)
            .arg(SUITE)
            .log(&log);
        let install = async {
            let status = Process::start(&pip)?.exited().await?;
            if !status.success() {
                bail!("{} -m pip failed; see {}", python.display(), log.display());
            }
            Ok(())
        };
        step("installing the Autobahn test suite", install).await?;
    }
    say("running the Autobahn test suite");
    let spec = Spec::new(workspace::cargo())
        .args(["test", "--package", "ws-edge", "--lib", "--", "--ignored", "--exact", TEST, "--nocapture"])
        .env("AUTOBAHN_PYTHON", python)
        .env("AUTOBAHN_CASES", cases)
        .env("AUTOBAHN_DIRECTORY", &dir)
        .dir(workspace::root()?);
    let status = Process::start(&spec)?.exited().await?;
    say(format_args!("the report is {}", dir.join("report/index.html").display()));
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
