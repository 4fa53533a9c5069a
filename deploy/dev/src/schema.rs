//! `cargo dev schema`: writes what is made of the catalogue and the reference events. The code is in ws-edge, which serves
//! the document, too.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::workspace;

/// The options of `cargo dev schema`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Options {
    /// Writes nothing, and fails if a file is not up to date
    #[arg(long)]
    pub check: bool,
}

/// Runs it. The exit code is that of the program.
pub fn run(options: Options) -> Result<ExitCode> {
    let status = Command::new(workspace::cargo())
        .args(["run", "--quiet", "--example", "schema", "--"])
        // Without a package, libraries have the same features as for the tests, so they are not built twice.
        .args(options.check.then_some("--check"))
        .current_dir(workspace::root()?)
        .status()
        .context("cargo")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
