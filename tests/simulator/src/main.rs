//! Runs the simulator; `cargo dev simulate` builds and starts this.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Result;
use blackhole_simulator::{once, simulate};
use clap::Parser;
use parking_lot::Mutex;

/// Time between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(10);

/// Runs the services' own code against simulated brokers and clients
#[derive(Parser)]
struct Arguments {
    /// How many runs
    #[arg(long, default_value_t = 10_000)]
    runs: u64,
    /// The seed of the first run
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Prints all that happens in one run, with the services' logs
    #[arg(long)]
    show: bool,
    /// Goes on after failures, and only tells of them
    #[arg(long)]
    keep_going: bool,
}

fn main() -> Result<ExitCode> {
    let Arguments { runs, seed, show, keep_going } = Arguments::parse();
    if show {
        let (violation, counts) = once(seed, true)?;
        println!("{counts}; {}", violation.as_deref().unwrap_or("all promises were kept"));
        return Ok(ExitCode::SUCCESS);
    }
    let (began, told) = (Instant::now(), Mutex::new(Instant::now()));
    if keep_going {
        let mut failures = 0;
        for (done, seed) in (0..).zip(seed..seed + runs) {
            let (violation, counts) = once(seed, false)?;
            if let Some(violation) = violation {
                failures += 1;
                println!("seed {seed}: {violation} ({counts})");
            }
            let mut told = told.lock();
            if told.elapsed() > PROGRESS * 10 {
                *told = Instant::now();
                println!("{done} runs in {:?}, {failures} failures", began.elapsed());
            }
        }
        println!("{runs} runs in {:?}, {failures} failures", began.elapsed());
        return Ok(ExitCode::SUCCESS);
    }
    let report = simulate(seed, runs, |done, counts| {
        let mut told = told.lock();
        if told.elapsed() > PROGRESS {
            *told = Instant::now();
            println!("{done} runs in {:?}: {counts}", began.elapsed());
        }
    })?;
    println!("{} runs from seed {seed} in {:?}: {}", report.runs, began.elapsed(), report.counts);
    let Some(failure) = report.failure else { return Ok(ExitCode::SUCCESS) };
    println!("seed {} after {} runs: {}", failure.seed, report.runs, failure.violation);
    Ok(ExitCode::FAILURE)
}
