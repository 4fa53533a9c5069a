//! The ws-edge binary.

use std::process::ExitCode;

use anyhow::Context;
use blackhole_common::{
    cli::{self, ConfigArgs},
    shutdown, telemetry, version,
};
use clap::Parser;
use ws_edge::config::EdgeConfig;

/// Serves WebSocket sessions with the events of their accounts, read from NATS
#[derive(Parser)]
#[command(name = "ws-edge", version = version::with_commit())]
struct Arguments {
    #[command(flatten)]
    config: ConfigArgs,
}

fn main() -> ExitCode {
    cli::finish("ws-edge", run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Some(loaded) = arguments.config.load::<EdgeConfig>()? else { return Ok(ExitCode::SUCCESS) };
    telemetry::init_logs(&loaded.config.log);
    let config = loaded.logged();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(async {
        let shutdown = shutdown::on_signal().context("cannot handle signals")?;
        let max_sessions = config.ws.max_connections;
        let running = ws_edge::start(config).await?;
        raise_open_file_limit(max_sessions);
        running.serve(shutdown).await;
        tracing::info!("stopped");
        Ok(ExitCode::SUCCESS)
    })
}

/// Each session needs a file descriptor, and the soft limit is often 1024.
fn raise_open_file_limit(max_sessions: usize) {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) if limit >= max_sessions as u64 => {}
        Ok(limit) => tracing::info!(
            limit,
            max_connections = max_sessions,
            "the limit of open files is below ws.max_connections: raise it, or lower ws.max_connections"
        ),
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
    }
}
