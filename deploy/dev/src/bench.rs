//! `cargo dev bench`: installs what the benchmarks need, builds them and the services, and runs them.

use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::ending::Endings;
use crate::process::{Process, Spec};
use crate::progress::say;
use crate::services::Binaries;
use crate::workspace::RunDir;
use crate::{install, workspace};

/// The workspace member that measures.
const PROGRAM: &str = "blackhole-bench";

/// The workspace member that counts instructions, and the profile to build it in.
const COUNTED: &str = "blackhole-instructions";
const COUNTED_PROFILE: &str = "instructions";

/// The options of `cargo dev bench`. The measuring program parses the same ones.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Fewer sessions, shorter, no repetitions: under 5 minutes in total
    #[arg(long)]
    pub quick: bool,
    /// Measure only these shapes [default: all; with --quick the short ones]
    #[arg(long, value_name = "SHAPE", value_delimiter = ',', value_enum)]
    pub only: Vec<Shape>,
    /// Compare Blackhole with these servers only [default: all]
    #[arg(long, value_name = "SERVER", value_delimiter = ',', value_enum)]
    pub against: Vec<Rival>,
    /// How often to take each measurement [default: 3, with --quick 1]
    #[arg(long, value_name = "N")]
    pub repeat: Option<u32>,
    /// Seconds that each measurement lasts [default: 10, with --quick 2.5]
    #[arg(long, value_name = "S")]
    pub seconds: Option<f64>,
    /// Number of sessions, for shapes with a single size [default: depends on the shape]
    #[arg(long, value_name = "N")]
    pub sessions: Option<u32>,
    /// Rate, for shapes with a fixed rate: deliveries per second for fan-out and mixed, events for the others
    #[arg(long, value_name = "N")]
    pub rate: Option<f64>,
    /// The view that Blackhole's clients ask for
    #[arg(long, default_value = "args", value_parser = ["args", "data", "both"])]
    pub view: String,
    /// Run Blackhole with the history on, off, or one after the other
    #[arg(long, default_value = "both", value_enum)]
    pub history: History,
    /// Publish with publisher confirms; KAZOO publishes events without
    #[arg(long)]
    pub confirms: bool,
    /// Blackhole alone, whose edges speak TLS themselves, with a full handshake for each session
    #[arg(long)]
    pub tls: bool,
    /// Blackhole alone, for a few seconds: fails if an event is lost or duplicated
    #[arg(long)]
    pub smoke: bool,
    /// Instead: count the instructions of the hot functions and compare them with the recorded counts
    #[arg(long)]
    pub instructions: bool,
    /// With --instructions: record the new counts
    #[arg(long, requires = "instructions")]
    pub record: bool,
}

/// A workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// Many sessions with the same binding
    Fanout,
    /// Many sessions, each with its own account: each event goes to one session
    Sharded,
    /// The same with three edges, and with as many bridges
    ShardedEdges,
    /// Connected, subscribed sessions without events
    Idle,
    /// Sessions that all connect, authenticate and subscribe at once
    Storm,
    /// Most sessions of an edge reconnect at once and resume, while events go on
    Reconnect,
    /// Sessions with three bindings each, half of them wildcards
    Mixed,
    /// Fan-out to increasing numbers of sessions, and sharding over increasing numbers of subjects
    Growth,
    /// The highest sustained fan-out rate
    MaxFanout,
    /// The highest sustained sharded rate
    MaxSharded,
    /// Subscriptions per second
    Subscribe,
    /// Latency compared with that of a plain AMQP consumer
    Latency,
    /// As many sessions as one edge can hold, then as many as three can
    Edges,
}

/// A server to compare Blackhole with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rival {
    /// None: Blackhole alone
    None,
    /// A server that only writes one prepared frame per event and session, each in its own write
    Floor,
    /// The same, with all frames that are due in one write
    FloorCoalescing,
    /// NATS's own WebSocket listener
    Nats,
    /// RabbitMQ's Web STOMP
    WebStomp,
    /// nginx with nchan
    Nchan,
    /// A simple bridge in Node.js
    Node,
}

/// Whether the stream stores events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum History {
    /// It does
    On,
    /// It does not
    Off,
    /// First on, then off
    Both,
}

/// Runs the measuring program with our own arguments. The exit code is that of the program.
pub async fn run(options: Options) -> Result<ExitCode> {
    let mut endings = Endings::listen()?;
    let run = RunDir::create("bench")?;
    let code = tokio::select! {
        code = bench(&options, &run) => code?,
        ending = endings.next() => ending.exit_code(),
    };
    run.remove()?;
    Ok(code)
}

async fn bench(options: &Options, run: &RunDir) -> Result<ExitCode> {
    if options.instructions {
        return count(options.record, run).await;
    }
    install::ensure(install::FOR_UP, run.path()).await?;
    if !options.smoke {
        for tool in install::FOR_RIVALS {
            if let Err(error) = install::ensure(&[*tool], run.path()).await {
                say(format_args!("continuing without {}: {error:#}", tool.program));
            }
        }
    }
    // A smoke run measures no times, so the debug build of the tests is good enough.
    let release = !options.smoke || !cfg!(debug_assertions);
    say(if release { "building in release mode" } else { "building" });
    let program = Binaries::build_with(run.path(), PROGRAM, release).await?;
    // The arguments after `bench`, unchanged.
    let given = std::env::args_os().skip_while(|word| word != "bench").skip(1);
    exit_code_of(&Spec::new(program).arg("run").args(given)).await
}

/// Counts instructions.
async fn count(record: bool, run: &RunDir) -> Result<ExitCode> {
    install::ensure(install::FOR_INSTRUCTIONS, run.path()).await?;
    say("building the functions to count");
    let cargo = ["run", "--quiet", "--profile", COUNTED_PROFILE, "--package", COUNTED, "--"];
    exit_code_of(&Spec::new(workspace::cargo()).args(cargo).args(record.then_some("--record"))).await
}

async fn exit_code_of(spec: &Spec) -> Result<ExitCode> {
    let status = Process::start(&spec.clone().dir(workspace::root()?))?.exited().await?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
