//! A run: each server in turn, with each shape in turn.

mod measure;
mod search;
mod shapes;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use blackhole_dev::bench::{History, Options, Rival, Shape};
use blackhole_dev::progress::say;
use blackhole_dev::workspace::{self, RunDir};

use crate::accounting;
use crate::contender::{Contender, Name, Ours};
use crate::report::{self, Report};

const ALL: [Shape; 13] = [
    Shape::Fanout,
    Shape::Sharded,
    Shape::ShardedEdges,
    Shape::Idle,
    Shape::Storm,
    Shape::Reconnect,
    Shape::Mixed,
    Shape::MaxFanout,
    Shape::MaxSharded,
    Shape::Growth,
    Shape::Subscribe,
    Shape::Latency,
    Shape::Edges,
];
const QUICK: [Shape; 7] = [
    Shape::Fanout,
    Shape::Sharded,
    Shape::Idle,
    Shape::Storm,
    Shape::Mixed,
    Shape::Subscribe,
    Shape::Latency,
];
const SMOKE: [Shape; 5] = [Shape::Fanout, Shape::Sharded, Shape::Mixed, Shape::Storm, Shape::Reconnect];
const RIVALS: [Rival; 6] =
    [Rival::Floor, Rival::FloorCoalescing, Rival::Nats, Rival::WebStomp, Rival::Nchan, Rival::Node];

/// The sizes and durations of a run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The options.
    pub(crate) options: Options,
    /// The shapes to measure.
    pub(crate) shapes: Vec<Shape>,
    /// The number of repetitions.
    pub(crate) repeat: u32,
    /// Seconds of events before the measurement.
    pub(crate) warm_up: f64,
    /// Seconds of the measurement.
    pub(crate) seconds: f64,
    /// How long events may take to arrive after the last one was published.
    pub(crate) timeout: Duration,
}

impl Plan {
    fn new(options: Options) -> Self {
        let short = options.quick || options.smoke;
        let default = match (options.smoke, options.quick) {
            (true, _) => &SMOKE[..],
            (_, true) => &QUICK[..],
            _ => &ALL[..],
        };
        let shapes = if options.only.is_empty() { default.to_vec() } else { options.only.clone() };
        Self {
            shapes,
            repeat: options.repeat.unwrap_or(if short { 1 } else { 3 }).max(1),
            warm_up: match (options.smoke, options.quick) {
                (true, _) => 0.5,
                (_, true) => 1.0,
                _ => 2.0,
            },
            seconds: options.seconds.unwrap_or(match (options.smoke, options.quick) {
                (true, _) => 1.0,
                (_, true) => 2.5,
                _ => 10.0,
            }),
            // A smoke run only checks that everything arrives, even on a slow machine.
            timeout: Duration::from_secs(if options.smoke { 60 } else { 15 }),
            options,
        }
    }

    /// The size for a full, quick or smoke run, unless `--sessions` is set.
    pub(crate) fn sessions(&self, full: u32, quick: u32, smoke: u32) -> u32 {
        self.options.sessions.unwrap_or(self.size(full, quick, smoke))
    }

    /// As [`Plan::sessions`], without the option.
    pub(crate) fn size<T>(&self, full: T, quick: T, smoke: T) -> T {
        if self.options.smoke {
            smoke
        } else if self.options.quick {
            quick
        } else {
            full
        }
    }

    /// Whether a shape is measured with this server.
    fn includes(&self, shape: Shape, name: Name) -> bool {
        let is_measured = match name {
            Name::Ours { history: true } => true,
            // There is nothing to resume from.
            Name::Ours { history: false } if shape == Shape::Reconnect => false,
            // Starting everything a second time takes half the time of a smoke run.
            Name::Ours { history: false } => !self.options.smoke || shape == Shape::Sharded,
            Name::Rival(rival) => match shape {
                Shape::Growth | Shape::Subscribe | Shape::Latency | Shape::Edges | Shape::Reconnect => false,
                Shape::ShardedEdges => rival == Rival::Node,
                _ => true,
            },
        };
        is_measured && self.shapes.contains(&shape)
    }
}

/// Runs it. The exit code is a failure if Blackhole lost, duplicated or reordered an event.
pub(crate) fn run(options: Options) -> Result<ExitCode> {
    let files = accounting::raise_file_limit()?;
    let plan = Plan::new(options);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let dir = RunDir::create("bench-run")?;
    let mut report = Report::new(&plan);
    let ended = runtime.block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            done = everything(&plan, &dir, files, &mut report) => done.map(|()| true),
            _ = tokio::signal::ctrl_c() => Ok(false),
            _ = terminate.recv() => Ok(false),
        }
    })?;
    if !ended {
        report.note("interrupted: the results are incomplete".into());
    }
    report.print()?;
    let file = workspace::target_dir()?.join("bench/results.json");
    report.write(&file).with_context(|| format!("cannot write {}", file.display()))?;
    say(format_args!("all figures: {}", file.display()));
    if !ended {
        return Ok(ExitCode::from(130));
    }
    if report.failures.is_empty() {
        dir.remove()?;
        return Ok(ExitCode::SUCCESS);
    }
    say(format_args!("failed; the logs are in {}", dir.path().display()));
    Ok(ExitCode::FAILURE)
}

async fn everything(plan: &Plan, dir: &RunDir, files: u64, report: &mut Report) -> Result<()> {
    if files < 20_000 {
        report
            .note(format!("a process may open only {files} files here, which limits the number of sessions"));
    }
    let names = names(plan, dir.path(), report).await?;
    for (number, name) in names.into_iter().enumerate() {
        let own = dir.subdir(&format!("{number}"))?;
        if let Err(error) = one(plan, name, &own, report).await {
            let text = format!("not measured: {}: {error:#}", name.text());
            say(&text);
            // Continue with the other servers; Blackhole has to work.
            match name {
                Name::Ours { .. } => report.failures.push(text),
                Name::Rival(_) => report.note(text),
            }
        }
    }
    Ok(())
}

async fn names(plan: &Plan, dir: &Path, report: &mut Report) -> Result<Vec<Name>> {
    let options = &plan.options;
    let mut names = Vec::new();
    if options.history != History::Off {
        names.push(Name::Ours { history: true });
    }
    if options.history != History::On {
        if Ours::has_history_off(dir).await? {
            names.push(Name::Ours { history: false });
        } else {
            report.note("this release does not support running without the history: not measured".into());
        }
    }
    let rivals = match options.against.as_slice() {
        _ if options.tls => &[],
        [] if options.smoke => &[],
        [] => &RIVALS[..],
        chosen => chosen,
    };
    names.extend(rivals.iter().filter(|rival| **rival != Rival::None).map(|rival| Name::Rival(*rival)));
    Ok(names)
}

async fn one(plan: &Plan, name: Name, dir: &Path, report: &mut Report) -> Result<()> {
    let shapes: Vec<Shape> =
        plan.shapes.iter().copied().filter(|shape| plan.includes(*shape, name)).collect();
    if shapes.is_empty() {
        return Ok(());
    }
    say(format_args!("starting {}", name.text()));
    let accounts = shapes.iter().map(|shape| shapes::accounts(plan, *shape)).max().unwrap_or(1);
    let mut contender = Contender::start(name, dir, accounts, &plan.options).await?;
    for shape in shapes {
        if let Err(error) = shapes::measure(plan, shape, &mut contender, report).await {
            let text = format!("{}, {}: {error:#}", report::shape_name(shape), name.text());
            say(&text);
            match name {
                Name::Ours { .. } => report.failures.push(text),
                Name::Rival(_) => report.note(text),
            }
        }
        // Let the sockets of the last measurement close.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    Ok(())
}
