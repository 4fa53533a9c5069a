//! `cargo dev bench`: installs what the bench needs, builds it and the services, and runs it.

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

/// The bench's own program, a member of the workspace.
const PROGRAM: &str = "blackhole-bench";

/// The member that counts instructions, and the profile that it is built in.
const COUNTED: &str = "blackhole-instructions";
const COUNTED_PROFILE: &str = "instructions";

/// The options of `cargo dev bench`, which the bench itself reads too.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Fewer sessions, shorter, once: under 5 minutes in all
    #[arg(long)]
    pub quick: bool,
    /// Only these shapes [default: all; with --quick those that are short]
    #[arg(long, value_name = "SHAPE", value_delimiter = ',', value_enum)]
    pub only: Vec<Shape>,
    /// Beside ours, only these servers [default: all]
    #[arg(long, value_name = "SERVER", value_delimiter = ',', value_enum)]
    pub against: Vec<Rival>,
    /// How often each measurement is repeated [default: 3, with --quick 1]
    #[arg(long, value_name = "N")]
    pub repeat: Option<u32>,
    /// How long each measurement lasts, in seconds [default: 10, with --quick 2.5]
    #[arg(long, value_name = "S")]
    pub seconds: Option<f64>,
    /// Sessions of the shapes that have one size [default: each shape's own]
    #[arg(long, value_name = "N")]
    pub sessions: Option<u32>,
    /// The rate of the shapes that have one: deliveries per second for fan-out and mixed, events for the others
    #[arg(long, value_name = "N")]
    pub rate: Option<f64>,
    /// The view that our clients ask for
    #[arg(long, default_value = "args", value_parser = ["args", "data", "both"])]
    pub view: String,
    /// Ours with the history on, off, or both in turn
    #[arg(long, default_value = "both", value_enum)]
    pub history: History,
    /// Publish with publisher confirms, which KAZOO does not use for events
    #[arg(long)]
    pub confirms: bool,
    /// Ours alone, a few seconds: does it lose or repeat anything
    #[arg(long)]
    pub smoke: bool,
    /// Count the instructions of the hot functions instead, and compare with the counts that are kept
    #[arg(long)]
    pub instructions: bool,
    /// With --instructions: keep the new counts
    #[arg(long, requires = "instructions")]
    pub record: bool,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// Many sessions, one binding
    Fanout,
    /// Many sessions, each with an account of its own; each event to one
    Sharded,
    /// Sessions that are connected and subscribed, and nothing happens
    Idle,
    /// Sessions that connect, authenticate and subscribe at once
    Storm,
    /// Three bindings each, half of them wildcards
    Mixed,
    /// Fan-out to more and more sessions, sharded over more and more subjects
    Growth,
    /// The highest fan-out rate that is sustained
    MaxFanout,
    /// The highest sharded rate that is sustained
    MaxSharded,
    /// Subscriptions per second
    Subscribe,
    /// Latency beside that of a plain AMQP consumer
    Latency,
    /// As many sessions as one edge can have, and three
    Edges,
}

/// What is measured beside ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rival {
    /// Nothing: ours alone
    None,
    /// One ready-made frame per event and session, one write each
    Floor,
    /// The same, with as many frames in a write as are due
    FloorCoalescing,
    /// NATS's own WebSocket listener
    Nats,
    /// RabbitMQ's Web STOMP
    WebStomp,
    /// nginx with nchan
    Nchan,
    /// A bridge in Node, as one would write by hand
    Node,
}

/// Whether events are stored on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum History {
    /// They are
    On,
    /// They are not
    Off,
    /// First the one, then the other
    Both,
}

/// Runs the bench with our own arguments; the exit code is its.
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
                say(format_args!("going on without {}: {error:#}", tool.program));
            }
        }
    }
    // A smoke tells no times: what the tests have built is good enough for it.
    let release = !options.smoke || !cfg!(debug_assertions);
    say(if release { "building for release" } else { "building" });
    let program = Binaries::build_with(run.path(), PROGRAM, release).await?;
    // The words after `bench`, as they are.
    let given = std::env::args_os().skip_while(|word| word != "bench").skip(1);
    exit_code_of(&Spec::new(program).arg("run").args(given)).await
}

/// Counts instructions.
async fn count(record: bool, run: &RunDir) -> Result<ExitCode> {
    install::ensure(install::FOR_INSTRUCTIONS, run.path()).await?;
    say("building what is counted");
    let cargo = ["run", "--quiet", "--profile", COUNTED_PROFILE, "--package", COUNTED, "--"];
    exit_code_of(&Spec::new(workspace::cargo()).args(cargo).args(record.then_some("--record"))).await
}

async fn exit_code_of(spec: &Spec) -> Result<ExitCode> {
    let status = Process::start(&spec.clone().dir(workspace::root()?))?.exited().await?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
