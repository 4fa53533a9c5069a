//! Logs and metrics.

use std::io::IsTerminal;

use prometheus_client::{metrics::info::Info, registry::Registry};
use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter, Layer, filter::filter_fn, fmt, layer::SubscriberExt, util::SubscriberInitExt,
};

use crate::{
    config::{LogConfig, LogFormat},
    version,
};

/// Starts logging to standard error. Further calls in the same process have no effect.
pub fn init_logs(config: &LogConfig) {
    // Validation has ensured that the filter parses.
    let filter = config.filter.parse::<EnvFilter>().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match config.format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let _ = tracing_subscriber::registry()
        .with(filter)
        .with(lines.with_filter(filter_fn(may_be_logged)))
        .try_init();
}

/// Libraries log tokens and passwords at trace level, so that is suppressed whatever the operator's filter
/// is. The broker clients log every failed attempt; the services log each outage once instead.
fn may_be_logged(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    let one_of = |names: &[&str]| names.iter().any(|name| target.starts_with(name));
    one_of(&["blackhole", "amqp_ingest", "auth_svc", "ws_edge"])
        || *metadata.level() <= Level::DEBUG && !one_of(&["async_nats", "lapin"])
}

/// A metrics registry with the prefix `blackhole_`, and release and commit in `blackhole_build_info`.
pub fn registry(service: &'static str) -> Registry {
    let mut registry = Registry::with_prefix("blackhole");
    registry.register(
        "build",
        "The running release",
        Info::new(vec![("service", service), ("version", version::RELEASE), ("commit", version::COMMIT)]),
    );
    registry
}
