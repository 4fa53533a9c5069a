//! Logs and metrics.

use std::io::IsTerminal;

use prometheus_client::{metrics::info::Info, registry::Registry};
use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat};

/// Starts logging to standard error. Later calls in the same process change nothing.
pub fn init_logs(config: &LogConfig) {
    // The filter was checked with the configuration.
    let filter = config.filter.parse::<EnvFilter>().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _ = match config.format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init().is_ok(),
        LogFormat::Json => builder.json().flatten_event(true).try_init().is_ok(),
    };
}

/// A registry whose metrics all begin with `blackhole_`, holding the build's version.
pub fn registry(service: &'static str, version: &'static str) -> Registry {
    let mut registry = Registry::with_prefix("blackhole");
    registry.register(
        "build",
        "The running release",
        Info::new(vec![("service", service), ("version", version)]),
    );
    registry
}
