//! `cargo dev alerts`: checks the alerts with Prometheus' own tool.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::ending::Endings;
use crate::process::{Process, Spec};
use crate::progress::say;
use crate::workspace::RunDir;
use crate::{install, workspace};

#[cfg(test)]
mod tests;

/// Where alerts, their tests and the dashboard are.
const DIRECTORY: &str = "deploy/prometheus";

/// The options of `cargo dev alerts`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {}

/// Installs promtool if it is missing, and runs it.
pub async fn run(Options {}: Options) -> Result<ExitCode> {
    let mut endings = Endings::listen()?;
    let run = RunDir::create("alerts")?;
    let code = tokio::select! {
        done = checks(&run) => done.map(|()| ExitCode::SUCCESS),
        ending = endings.next() => Ok(ending.exit_code()),
    };
    run.remove()?;
    code
}

async fn checks(run: &RunDir) -> Result<()> {
    install::ensure(&[install::PROMTOOL], run.path()).await?;
    let promtool = install::find(install::PROMTOOL)?;
    for arguments in [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts.test.yaml"]] {
        let spec = Spec::new(&promtool).args(arguments).dir(workspace::root()?.join(DIRECTORY));
        let status = Process::start(&spec)?.exited().await?;
        if !status.success() {
            bail!("promtool {} failed ({status})", arguments.join(" "));
        }
    }
    say("all is well");
    Ok(())
}
