//! `cargo dev simulate`: the simulator, built with optimisation, for as many runs as one likes.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

/// The options of `cargo dev simulate`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How many runs
    #[arg(long, default_value_t = 10_000)]
    pub runs: u64,
    /// The seed of the first run: a run follows from its seed
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Runs it. The exit code is that of the simulator.
pub async fn run(Options { runs, seed }: Options) -> Result<ExitCode> {
    let (runs, seed) = (runs.to_string(), seed.to_string());
    let status = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--profile", "simulator", "-p", "blackhole-simulator", "--"])
        .args(["--runs", &runs, "--seed", &seed])
        .status()
        .context("cargo")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
