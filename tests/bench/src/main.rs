//! Benchmarks: measure what the whole path from an AMQP publisher to WebSocket clients costs, and what other servers
//! cost under the same load. `cargo dev bench` builds and runs this; docs/benchmarks.md explains the results.
//!
//! | module | contents |
//! |---|---|
//! | [`run`] | the sequence of measurements |
//! | [`contender`] | the measured servers |
//! | [`load`], [`event`], [`stamp`] | sessions, their bindings, and the published events |
//! | [`clients`] | the load generator |
//! | [`publisher`], [`consumer`], [`floor`] | the other workers, each in its own process |
//! | [`control`] | the protocol between the run and its workers |
//! | [`accounting`], [`clock`], [`histogram`] | measuring |
//! | [`report`] | tables, ratios, targets |

// Not a service: a panic ends a measurement, not a session.
#![allow(clippy::indexing_slicing)]

mod accounting;
mod clients;
mod clock;
mod consumer;
mod contender;
mod control;
mod event;
mod floor;
mod histogram;
mod load;
mod publisher;
mod report;
mod run;
mod stamp;

use std::process::ExitCode;

use anyhow::Result;
use blackhole_dev::bench::Options;
use blackhole_dev::progress::say;
use clap::{Parser, Subcommand};

use crate::control::RunConnection;

/// Measures Blackhole; run by `cargo dev bench`
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures
    Run(Box<Options>),
    /// One of the processes that a run starts
    #[command(hide = true)]
    Worker { role: String, address: String },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Run(options) => run::run(*options),
        Command::Worker { role, address } => work(&role, &address).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        say(format_args!("error: {error:#}"));
        ExitCode::FAILURE
    })
}

fn work(role: &str, address: &str) -> Result<()> {
    let connection = RunConnection::connect(address)?;
    match role {
        "publisher" => publisher::run(connection),
        "consumer" => consumer::run(connection),
        "floor" => floor::run(connection),
        _ => clients::run(connection),
    }
}
