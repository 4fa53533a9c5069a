//! The `amqp-ingest` binary.

use amqp_ingest::IngestConfig;
use std::process::ExitCode;

use anyhow::Context;
use blackhole_common::{
    cli::{self, ConfigArgs},
    shutdown, telemetry,
};
use clap::Parser;

/// Carries KAZOO's AMQP events into the NATS stream
#[derive(Debug, Parser)]
#[command(name = "amqp-ingest", version)]
struct Args {
    #[command(flatten)]
    config: ConfigArgs,
}

fn main() -> ExitCode {
    cli::finish("amqp-ingest", run(&Args::parse()))
}

fn run(args: &Args) -> anyhow::Result<ExitCode> {
    // Nothing is opened before the configuration is known to be good.
    let Some(config) = args.config.load::<IngestConfig>()? else { return Ok(ExitCode::SUCCESS) };
    telemetry::init_logs(&config.log);
    // An event passes through two tasks, and waking another thread costs more than either does with it.
    let runtime = amqp_ingest::runtime::of_one_thread().context("no runtime")?;
    runtime.block_on(async {
        let shutdown = shutdown::on_signal().context("cannot listen for signals")?;
        amqp_ingest::run(config, shutdown).await?;
        tracing::info!("stopped");
        anyhow::Ok(())
    })?;
    // A task that hangs on a dead broker must not hold up the exit.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}
