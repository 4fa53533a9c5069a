//! The ws-edge binary.

use std::process::ExitCode;

use anyhow::Context;
use blackhole_common::{
    cli::{self, ConfigArgs},
    shutdown, telemetry,
};
use clap::Parser;
use ws_edge::config::EdgeConfig;

/// Serves WebSocket sessions with the events of their accounts, read from NATS
#[derive(Parser)]
#[command(name = "ws-edge", version)]
struct Arguments {
    #[command(flatten)]
    config: ConfigArgs,
}

fn main() -> ExitCode {
    cli::finish("ws-edge", run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Some(config) = arguments.config.load::<EdgeConfig>()? else { return Ok(ExitCode::SUCCESS) };
    telemetry::init_logs(&config.log);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(async {
        let shutdown = shutdown::on_signal().context("cannot handle signals")?;
        let most = config.ws.max_connections;
        let running = ws_edge::start(config).await?;
        allow_sessions(most);
        running.serve(shutdown).await;
        tracing::info!("stopped");
        Ok(ExitCode::SUCCESS)
    })
}

/// Each session takes a file descriptor, and what a process may open at first is often but 1024 of what it may.
fn allow_sessions(sessions: usize) {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(most) if most >= sessions as u64 => {}
        Ok(most) => tracing::info!(
            most,
            max_connections = sessions,
            "may open fewer files than ws.max_connections: raise the limit of open files, or lower that"
        ),
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
    }
}
