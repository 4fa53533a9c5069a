//! The `amqp-ingest` binary.

use std::process::ExitCode;

use amqp_ingest::IngestConfig;
use anyhow::Context;
use blackhole_common::{
    cli::{self, ConfigArgs},
    shutdown, telemetry, version,
};
use clap::Parser;

/// Carries KAZOO's AMQP events into the NATS stream
#[derive(Debug, Parser)]
#[command(name = "amqp-ingest", version = version::with_commit())]
struct Args {
    #[command(flatten)]
    config: ConfigArgs,
}

fn main() -> ExitCode {
    cli::finish("amqp-ingest", run(&Args::parse()))
}

fn run(args: &Args) -> anyhow::Result<ExitCode> {
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
