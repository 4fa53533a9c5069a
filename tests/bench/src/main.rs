//! The bench: drives the whole path from an AMQP publisher to WebSocket clients, and other servers on the same work,
//! and reports what each costs. `cargo dev bench` builds and runs it; docs/benchmarks.md tells how to read it.
//!
//! | module | idea |
//! |---|---|
//! | [`run`] | one measurement after the other |
//! | [`contender`] | the servers that are measured |
//! | [`load`], [`event`], [`stamp`] | who binds what, and what is published |
//! | [`clients`] | the load generator |
//! | [`publisher`], [`consumer`], [`floor`] | the other workers, each a process of its own |
//! | [`control`] | what the run says to its workers |
//! | [`accounting`], [`clock`], [`histogram`] | how is measured |
//! | [`report`] | tables, ratios, targets |

// No service: whoever is out of bounds here ends a measurement, not a session.
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

use crate::control::Master;

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
    let master = Master::connect(address)?;
    match role {
        "publisher" => publisher::run(master),
        "consumer" => consumer::run(master),
        "floor" => floor::run(master),
        _ => clients::run(master),
    }
}
