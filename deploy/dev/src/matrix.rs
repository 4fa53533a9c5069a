//! `cargo dev matrix`: runs the tests once on each version of the brokers.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::install::{self, NATS_SERVER, RABBITMQ_SERVER, Tool};
use crate::process::{Process, Spec};
use crate::progress::say;
use crate::test;
use crate::workspace::RunDir;

/// The options of `cargo dev matrix`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// A nats-server; several times for several. The installed one by default
    #[arg(long, value_name = "PROGRAM")]
    pub nats: Vec<PathBuf>,
    /// A rabbitmq-server, with its rabbitmqctl beside it; several times for several. The installed one by default
    #[arg(long, value_name = "PROGRAM")]
    pub rabbitmq: Vec<PathBuf>,
    /// Arguments for `cargo test --workspace`; the end-to-end tests by default
    #[arg(last = true)]
    pub args: Vec<String>,
}

/// Runs the tests on each pair of brokers, and prints a table. It fails if any run does.
pub async fn run(options: Options) -> Result<ExitCode> {
    let dir = RunDir::create("matrix")?;
    install::ensure(install::FOR_TESTS, dir.path()).await?;
    let nats = or_installed(options.nats, NATS_SERVER)?;
    let rabbitmq = or_installed(options.rabbitmq, RABBITMQ_SERVER)?;
    let args = match options.args {
        args if args.is_empty() => ["-p", "blackhole-tests", "--test", "it"].map(str::to_owned).to_vec(),
        args => args,
    };
    let mut rows = Vec::new();
    for nats in &nats {
        let nats_version = output_of(Spec::new(nats).arg("--version"), &dir).await?;
        for rabbitmq in &rabbitmq {
            let rabbitmqctl = rabbitmq.with_file_name("rabbitmqctl");
            let rabbitmq_version = output_of(Spec::new(rabbitmqctl).arg("version"), &dir).await?;
            let brokers = format!("{}, RabbitMQ {}", nats_version.replace(": v", " "), rabbitmq_version);
            say(format_args!("testing on {brokers}"));
            let env =
                vec![("DEV_NATS_SERVER", absolute(nats)?), ("DEV_RABBITMQ_SERVER", absolute(rabbitmq)?)];
            let began = Instant::now();
            let code = test::run_with(args.clone(), env).await?;
            rows.push((brokers, code, began.elapsed()));
        }
    }
    for (brokers, code, took) in &rows {
        let result = if *code == ExitCode::SUCCESS { "passed" } else { "FAILED" };
        say(format_args!("{brokers}: {result} after {}", humantime::format_duration(whole_seconds(*took))));
    }
    dir.remove()?;
    let failed = rows.into_iter().map(|(_, code, _)| code).find(|code| *code != ExitCode::SUCCESS);
    Ok(failed.unwrap_or(ExitCode::SUCCESS))
}

fn whole_seconds(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs())
}

fn or_installed(programs: Vec<PathBuf>, tool: Tool) -> Result<Vec<PathBuf>> {
    if programs.is_empty() { Ok(vec![install::find(tool)?]) } else { Ok(programs) }
}

fn absolute(program: &PathBuf) -> Result<String> {
    Ok(std::path::absolute(program)?.display().to_string())
}

/// The last line that a program prints.
async fn output_of(spec: Spec, dir: &RunDir) -> Result<String> {
    let file = dir.path().join("version");
    let _ = std::fs::remove_file(&file);
    let status = Process::start(&spec.stdout(&file))?.exited().await?;
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    match text.lines().last() {
        Some(line) if status.success() => Ok(line.trim().to_owned()),
        _ => bail!("a broker does not tell its version ({status})"),
    }
}
