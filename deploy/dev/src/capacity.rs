//! `cargo dev capacity`: what a number of sessions and events takes, from what was measured (`docs/benchmarks.md`).

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::progress::print;

/// Memory of an idle session with one subject, in KiB; of each further distinct subject; of its connection in the kernel.
const SESSION_KIB: f64 = 4.45;
const SUBJECT_KIB: f64 = 1.11;
/// 8.7 KiB for both ends, of which one is here.
const KERNEL_KIB: f64 = 8.7 / 2.0;
/// Processor time of one event under load, in µs: in the ingest, in RabbitMQ, in the stream's leader with and without history.
const INGEST_US: f64 = 6.3;
const RABBITMQ_US: f64 = 39.0;
const NATS_US: f64 = 44.0;
const NATS_WITHOUT_HISTORY_US: f64 = 9.9;
/// Of an event in an edge for its first session there, and for each further one.
const FIRST_DELIVERY_US: f64 = 7.9;
const FURTHER_DELIVERY_US: f64 = 0.32;
/// Of a subscribe with a new subject: a second takes 11,700 of them.
const SUBSCRIBE_US: f64 = 1e6 / 11_700.0;
/// Of verifying a token that auth-svc has not seen within the hour (RSA, 2048 bits).
const TOKEN_US: f64 = 20.0;
/// Size of an event in the stream.
const EVENT_BYTES: f64 = 1400.0;
/// `ws.accept_per_second`.
const ACCEPT_PER_SECOND: f64 = 1000.0;

/// The options of `cargo dev capacity`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Sessions at the same time (such as 1e6)
    #[arg(long)]
    pub sessions: f64,
    /// Events per second
    #[arg(long)]
    pub events: f64,
    /// Sessions that get an event, on average
    #[arg(long, default_value_t = 1.0)]
    pub receivers: f64,
    /// Distinct subjects of a session, on average: one or two for each binding and account
    #[arg(long, default_value_t = 1.0)]
    pub subjects: f64,
    /// Seconds of history (history.max_age); 0: none
    #[arg(long, default_value_t = 600.0)]
    pub history: f64,
    /// Sessions of one edge (ws.max_connections)
    #[arg(long, default_value_t = 50_000.0)]
    pub per_edge: f64,
}

/// What it takes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Needs {
    edges: f64,
    /// Of one edge, in MiB: its own, and the kernel's.
    edge_mib: f64,
    kernel_mib: f64,
    /// Cores: of all edges, the ingest, RabbitMQ, the stream's leader.
    edge_cores: f64,
    ingest_cores: f64,
    rabbitmq_cores: f64,
    nats_cores: f64,
    stream_gib: f64,
    /// When all clients reconnect: seconds until all are in, cores of one edge, cores of all auth-svc.
    reconnect_seconds: f64,
    reconnect_edge_cores: f64,
    reconnect_auth_cores: f64,
}

/// Prints what it takes.
pub async fn run(options: Options) -> Result<ExitCode> {
    let numbers = [options.sessions, options.events, options.receivers, options.subjects, options.history];
    if numbers.iter().any(|number| !number.is_finite() || *number < 0.0) || options.per_edge < 1.0 {
        bail!("numbers must be finite and not negative, and --per-edge at least 1");
    }
    for line in report(&options) {
        print(line)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn needs(options: &Options) -> Needs {
    let Options { sessions, events, receivers, subjects, history, per_edge } = *options;
    let edges = (sessions / per_edge).ceil().max(1.0);
    let on_edge = sessions / edges;
    // An account's sessions are spread over the edges.
    let first = receivers.min(edges);
    let event_us = first * FIRST_DELIVERY_US + (receivers - first) * FURTHER_DELIVERY_US;
    let cores = |us: f64| events * us / 1e6;
    let memory = SESSION_KIB + (subjects - 1.0).max(0.0) * SUBJECT_KIB;
    Needs {
        edges,
        edge_mib: on_edge * memory / 1024.0,
        kernel_mib: on_edge * KERNEL_KIB / 1024.0,
        edge_cores: cores(event_us),
        ingest_cores: cores(INGEST_US),
        rabbitmq_cores: cores(RABBITMQ_US),
        nats_cores: cores(if history > 0.0 { NATS_US } else { NATS_WITHOUT_HISTORY_US }),
        stream_gib: events * history * EVENT_BYTES / f64::from(1 << 30),
        reconnect_seconds: on_edge / ACCEPT_PER_SECOND,
        reconnect_edge_cores: ACCEPT_PER_SECOND * subjects * SUBSCRIBE_US / 1e6,
        reconnect_auth_cores: edges * ACCEPT_PER_SECOND * TOKEN_US / 1e6,
    }
}

fn report(options: &Options) -> Vec<String> {
    let needs = needs(options);
    let row = |what: &str, text: String| format!("{what:<28}{text}");
    let cores = |cores: f64| format!("{cores:.2} cores");
    let mut lines = vec![
        row("edges", format!("{:.0}, each with {:.0} sessions", needs.edges, options.sessions / needs.edges)),
        row(
            "memory of an edge",
            format!("{:.0} MiB, and {:.0} MiB of the kernel", needs.edge_mib, needs.kernel_mib),
        ),
        row("all edges", cores(needs.edge_cores)),
        row("amqp-ingest", format!("{}, in one thread", cores(needs.ingest_cores))),
        row("RabbitMQ", format!("{}, in one queue", cores(needs.rabbitmq_cores))),
        row("nats-server, the leader", cores(needs.nats_cores)),
        row("history.max_bytes", format!("{:.1} GiB", needs.stream_gib)),
        row("all clients reconnect", format!("{:.0} s until all are in", needs.reconnect_seconds)),
        row("  an edge meanwhile", cores(needs.reconnect_edge_cores)),
        row(
            "  all auth-svc meanwhile",
            format!("{}, if no token was seen before", cores(needs.reconnect_auth_cores)),
        ),
    ];
    let alone = [
        ("RabbitMQ", needs.rabbitmq_cores, "split the events over zones, each with a broker of its own"),
        ("the stream's leader", needs.nats_cores, "a server with faster cores, or no history"),
        ("amqp-ingest", needs.ingest_cores, "another ingest, with a zone of its own"),
    ];
    let first = alone.into_iter().max_by(|one, other| one.1.total_cmp(&other.1));
    if let Some((name, cores, advice)) = first {
        let part = if cores > 1.0 { "is more than one core can do" } else { "of one core" };
        lines.push(row("breaks first", format!("{name}: {:.0} % {part}; {advice}", cores * 100.0)));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(sessions: f64, events: f64, receivers: f64, history: f64) -> Options {
        Options { sessions, events, receivers, subjects: 1.0, history, per_edge: 50_000.0 }
    }

    #[test]
    fn the_model_gives_what_was_measured() {
        // docs/benchmarks.md: 15,000 sessions on one edge; the highest rates, fan-out and sharded.
        let one = needs(&options(15_000.0, 0.0, 1.0, 600.0));
        assert_eq!((one.edges, one.edge_mib.round()), (1.0, 65.0));
        let fan_out = needs(&options(1000.0, 2260.0, 1000.0, 600.0));
        assert!((0.7..0.8).contains(&fan_out.edge_cores), "2,260,000 deliveries: {fan_out:?}");
        let sharded = needs(&options(1000.0, 25_800.0, 1.0, 0.0));
        let all = sharded.edge_cores + sharded.ingest_cores + sharded.nats_cores + sharded.rabbitmq_cores;
        assert!((1.5..2.0).contains(&all), "of two cores, with the load generator: {all}");
    }

    #[test]
    fn a_million_sessions_need_twenty_edges() {
        let million = needs(&options(1e6, 20_000.0, 1.0, 600.0));
        assert_eq!((million.edges, million.edge_mib.round()), (20.0, 217.0));
        assert_eq!((million.reconnect_seconds, million.stream_gib.round()), (50.0, 16.0));
        assert!(million.nats_cores < 1.0 && million.nats_cores > million.rabbitmq_cores);
        let lines = report(&options(1e6, 30_000.0, 1.0, 600.0));
        assert!(
            lines.iter().any(|line| line.contains("the stream's leader: 132 % is more than")),
            "{lines:#?}"
        );
    }
}
