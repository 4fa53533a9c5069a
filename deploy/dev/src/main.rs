//! `cargo dev`: everything on this machine, all tests, or the bench.

use std::process::ExitCode;

use blackhole_dev::{bench, chaos, check, progress, test, up};
use clap::{Parser, Subcommand};

/// Runs a whole Blackhole on this machine, its tests, or its bench
#[derive(Parser)]
#[command(name = "cargo dev", bin_name = "cargo dev")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Starts brokers, services and a simulated KAZOO, and prints the events that a client receives
    Up(up::Options),
    /// Checks format, Clippy, rustdoc and unit tests: what to run before a commit
    Check(check::Options),
    /// Installs what the tests need, and runs them all
    Test(test::Options),
    /// Kills everything while events flow, and judges what came by number
    Chaos(chaos::Options),
    /// Measures it, beside other servers
    Bench(bench::Options),
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Up(options) => up::run(options).await,
        Command::Check(options) => check::run(options).await,
        Command::Test(options) => test::run(options).await,
        Command::Chaos(options) => chaos::run(options).await,
        Command::Bench(options) => bench::run(options).await,
    };
    done.unwrap_or_else(|error| {
        progress::say(format_args!("error: {error:#}"));
        ExitCode::FAILURE
    })
}
