//! The `amqp-ingest` binary.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use amqp_ingest::{
    IngestConfig,
    doctor::{self, DoctorArgs},
};
use anyhow::Context;
use blackhole_common::{
    cli::{self, ConfigArgs},
    shutdown, telemetry, version,
};
use clap::{Parser, Subcommand};

/// Carries KAZOO's AMQP events into the NATS stream
#[derive(Debug, Parser)]
#[command(name = "amqp-ingest", version = version::with_commit())]
struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// The command to run instead of serving
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Look at the brokers, NATS, the stream and the services with the configuration at hand, and print what is right and
    /// what is not. It changes nothing. Exit code 0 if nothing is wrong, else 1
    Doctor(DoctorArgs),
}

fn main() -> ExitCode {
    cli::finish("amqp-ingest", run(&Args::parse()))
}

fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(Command::Doctor(doctor)) = &args.command {
        return examine(&args.config, doctor);
    }
    // Open nothing before the configuration is validated.
    let Some(loaded) = args.config.load::<IngestConfig>()? else { return Ok(ExitCode::SUCCESS) };
    telemetry::init_logs(&loaded.config.log);
    let config = loaded.logged();
    // An event passes through two tasks; waking another thread would cost more than either spends on it.
    let batch_delay = config.batch_delay();
    let runtime = amqp_ingest::runtime::single_threaded(batch_delay).context("cannot build the runtime")?;
    runtime.block_on(async {
        let shutdown = shutdown::on_signal().context("cannot listen for signals")?;
        amqp_ingest::run(config, shutdown).await?;
        tracing::info!("stopped");
        anyhow::Ok(())
    })?;
    // Do not wait for tasks that hang on a dead broker.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

fn examine(args: &ConfigArgs, doctor: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let config: IngestConfig = args.read()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(doctor::examine(&config, doctor))?;
    write!(io::stdout(), "{report}")?;
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
