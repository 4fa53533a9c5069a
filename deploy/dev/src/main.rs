//! `cargo dev`: runs Blackhole on this machine, its tests, or its benchmarks.

use std::process::ExitCode;

use blackhole_dev::{
    alerts, autobahn, bench, capacity, chaos, chart, check, compat, containers, fuzz, matrix, progress,
    schema, simulate, test, up,
};
use clap::{Parser, Subcommand};

/// Runs a complete Blackhole on this machine, its tests, or its benchmarks
#[derive(Parser)]
#[command(name = "cargo dev", bin_name = "cargo dev")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Starts brokers, services and a simulated KAZOO, and prints the events a client receives
    Up(up::Options),
    /// Checks format, Clippy, rustdoc and unit tests: run it before a commit
    Check(check::Options),
    /// Installs what the tests need and runs all tests
    Test(test::Options),
    /// Runs the tests once on each of several versions of the brokers
    Matrix(matrix::Options),
    /// Kills and freezes processes while numbered events flow, and checks that no client misses one
    Chaos(chaos::Options),
    /// Runs this version beside the one before while numbered events flow, and checks that no client misses one
    Compat(compat::Options),
    /// Builds the images, starts the containers, and tests them while they are scaled and replaced
    Containers(containers::Options),
    /// Runs the services' code against simulated brokers, networks and clients, many times
    Simulate(simulate::Options),
    /// Writes docs/asyncapi.yaml and the types of the client packages
    Schema(schema::Options),
    /// Runs the Autobahn test suite against the edge's WebSocket code
    Autobahn(autobahn::Options),
    /// Runs the fuzz targets: random input for everything that reads bytes from outside
    Fuzz(fuzz::Options),
    /// Renders the Helm chart for its example values and checks the objects
    Chart(chart::Options),
    /// Checks and tests the alerts for Prometheus
    Alerts(alerts::Options),
    /// Says what a number of sessions and events takes, from what was measured
    Capacity(capacity::Options),
    /// Measures Blackhole and other servers under the same load
    Bench(bench::Options),
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Up(options) => up::run(options).await,
        Command::Check(options) => check::run(options).await,
        Command::Test(options) => test::run(options).await,
        Command::Matrix(options) => matrix::run(options).await,
        Command::Chaos(options) => chaos::run(options).await,
        Command::Compat(options) => compat::run(options).await,
        Command::Containers(options) => containers::run(options).await,
        Command::Simulate(options) => simulate::run(options).await,
        Command::Schema(options) => schema::run(options),
        Command::Autobahn(options) => autobahn::run(options).await,
        Command::Fuzz(options) => fuzz::run(options).await,
        Command::Chart(options) => chart::run(options).await,
        Command::Alerts(options) => alerts::run(options).await,
        Command::Capacity(options) => capacity::run(options).await,
        Command::Bench(options) => bench::run(options).await,
    };
    done.unwrap_or_else(|error| {
        progress::say(format_args!("error: {error:#}"));
        ExitCode::FAILURE
    })
}
