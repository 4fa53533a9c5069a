//! The simulator: the services' own code between simulated brokers, networks and clients, in a time of its own.
//!
//! A run follows from its seed. `plan` is what happens in it, `world` makes it happen, `rabbitmq` and `nats` are the simulated
//! brokers, and `model` judges what the stream and the clients get.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // It is test code.

mod ingest;
mod model;
mod nats;
mod numbers;
mod pipe;
mod plan;
mod rabbitmq;
mod transit;
mod world;

use std::{
    cell::Cell,
    fmt,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use anyhow::{Context, Result};
use blackhole_common::catalogue::Catalogue;
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::Level;
use tracing_subscriber::fmt::{format::Writer, time::FormatTime};

pub use self::model::Counts;
use self::{plan::Plan, world::Outcome};

/// A promise that was broken.
#[derive(Debug)]
pub struct Failure {
    /// The run's seed.
    pub seed: u64,
    /// What was wrong.
    pub violation: String,
}

/// What came of many runs.
#[derive(Debug, Default)]
pub struct Report {
    /// How many there were.
    pub runs: u64,
    /// What happened in them.
    pub counts: Counts,
    /// The failure with the lowest seed.
    pub failure: Option<Failure>,
}

/// Runs the seeds from `first` on, on all processors, until `runs` are done or one fails. Calls `progress` after each.
///
/// # Errors
/// If the built-in catalogue cannot be read.
pub fn simulate(first: u64, runs: u64, progress: impl Fn(u64, &Counts) + Sync) -> Result<Report> {
    let catalogue = Catalogue::load(None).context("the built-in catalogue")?;
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let report = Mutex::new(Report::default());
    let failed: Mutex<Option<u64>> = Mutex::new(None);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= runs {
                        return;
                    }
                    let seed = first + index;
                    let outcome = world::run(&Plan::new(seed), &catalogue, false);
                    let mut report = report.lock();
                    report.runs += 1;
                    report.counts.add(&outcome.counts);
                    progress(report.runs, &report.counts);
                    if outcome.violation.is_some() {
                        stop.store(true, Ordering::Relaxed);
                        let mut failed = failed.lock();
                        *failed = Some(failed.map_or(seed, |other| other.min(seed)));
                    }
                }
            });
        }
    });
    let mut report = report.into_inner();
    report.failure = failed.into_inner().and_then(|seed| shorten(Plan::new(seed), &catalogue));
    Ok(report)
}

/// Leaves out what a failure does not need, and prints what happens in what remains.
fn shorten(mut plan: Plan, catalogue: &Catalogue) -> Option<Failure> {
    // Another failure may need less.
    let kind =
        |violation: Option<String>| violation.map(|text| text.replace(|c: char| c.is_ascii_digit(), ""));
    let first = kind(world::run(&plan, catalogue, false).violation);
    let mut size = plan.actions.len().div_ceil(2);
    loop {
        let mut index = 0;
        while index < plan.actions.len() {
            let mut shorter = plan.clone();
            shorter.actions.drain(index..(index + size).min(plan.actions.len()));
            if kind(world::run(&shorter, catalogue, false).violation) == first {
                plan = shorter;
            } else {
                index += size;
            }
        }
        if size == 1 {
            break;
        }
        size = size.div_ceil(2);
    }
    Some(Failure { seed: plan.seed, violation: shown(&plan, catalogue).violation? })
}

/// Prints the seconds since the run's first line.
struct SimulatedTime;

thread_local! {
    static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
}

impl FormatTime for SimulatedTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let began = BEGAN.get().unwrap_or_else(Instant::now);
        BEGAN.set(Some(began));
        write!(writer, "{:9.3}", began.elapsed().as_secs_f64())
    }
}

/// Runs a plan, and prints what happens between what the services log.
fn shown(plan: &Plan, catalogue: &Catalogue) -> Outcome {
    let format =
        tracing_subscriber::fmt().with_max_level(Level::DEBUG).with_timer(SimulatedTime).with_ansi(false);
    BEGAN.set(None);
    let subscriber = format.with_target(false).with_test_writer().finish();
    tracing::subscriber::with_default(subscriber, || {
        let Plan { servers, max_age, max_bytes, .. } = plan;
        tracing::debug!(servers, max_age, max_bytes, "the plan of seed {}", plan.seed);
        world::run(plan, catalogue, true)
    })
}

/// Runs one seed. Returns what was wrong and how much happened. Prints what happens, if it is to be `shown`.
///
/// # Errors
/// If the built-in catalogue cannot be read.
pub fn once(seed: u64, is_shown: bool) -> Result<(Option<String>, Counts)> {
    let catalogue = Catalogue::load(None).context("the built-in catalogue")?;
    let plan = Plan::new(seed);
    let outcome = if is_shown { shown(&plan, &catalogue) } else { world::run(&plan, &catalogue, false) };
    Ok((outcome.violation, outcome.counts))
}
