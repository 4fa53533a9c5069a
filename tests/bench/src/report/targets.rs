//! What must be reached, as ratios within one run, and how far it is.

use serde::Serialize;

use super::{Report, Row, aligned, number};

const OURS: &str = "blackhole";
const OFF: &str = "blackhole, history off";

/// A target and what was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Target {
    /// What it is about.
    pub(crate) what: String,
    /// The bound, in words.
    pub(crate) target: String,
    /// What was measured.
    pub(crate) measured: f64,
    /// Whether it is met.
    pub(crate) met: bool,
}

/// All targets of which both sides were measured.
pub(crate) fn all(report: &Report) -> Vec<Target> {
    let mut targets = Vec::new();
    let mut at_most = |what: String, measured: Option<f64>, bound: f64, unit: &str| {
        if let Some(measured) = measured {
            let target = format!("at most {} {unit}", number(bound));
            targets.push(Target { what, target, measured, met: measured <= bound });
        }
    };
    for row in rows(report, "fan-out, 1000 ", OURS) {
        let floor = of(report, &row.shape, "floor", "µs/delivery: floor");
        at_most(row.shape.clone() + ": edge", ratio(row.median("µs/delivery: edge"), floor), 1.3, "x floor");
    }
    for server in [OURS, OFF] {
        for row in rows(report, "sharded, ", server) {
            let own = sum(row, &["µs/delivery: edge", "µs/delivery: ingest"]);
            let node = of(report, &row.shape, "Node bridge", "µs/delivery: node");
            at_most(
                format!("{}: {server}: ingest + edge", row.shape),
                ratio(own, node),
                0.5,
                "x Node bridge",
            );
        }
    }
    for row in rows(report, "latency, ", OURS) {
        at_most(
            format!("{}: p50 over a plain consumer", row.shape),
            row.median("p50 over plain, ms"),
            1.0,
            "ms",
        );
        at_most(
            format!("{}: p99 over a plain consumer", row.shape),
            row.median("p99 over plain, ms"),
            5.0,
            "ms",
        );
    }
    for row in rows(report, "idle, ", OURS) {
        at_most(format!("{}: edge, per session", row.shape), row.median("KiB/session"), 5.0, "KiB");
    }
    for row in rows(report, "edges, ", OURS) {
        at_most(format!("{}: idle", row.shape), row.median("idle CPU %, each edge"), 5.0, "% of a core");
    }
    for group in ["growth, fan-out", "growth, "] {
        let all: Vec<&Row> = rows(report, group, OURS)
            .filter(|row| row.shape.contains("subjects") != group.contains("fan-out"))
            .collect();
        let (Some(first), Some(last)) = (all.first(), all.last()) else { continue };
        let from_to = format!("{} from {}", last.shape, first.shape);
        let cost = ratio(last.median("µs/delivery: edge"), first.median("µs/delivery: edge"));
        at_most(format!("{from_to}: edge, per delivery"), cost, 1.15, "x");
        if group.contains("fan-out") {
            let memory = ratio(last.median("KiB/session"), first.median("KiB/session"));
            at_most(format!("{from_to}: memory per session"), memory, 1.15, "x");
        } else if let Some(each) = per_subject(first, last) {
            at_most(format!("{from_to}: memory per further subject"), Some(each), 2.0, "KiB");
        }
    }
    let mut at_least = |what: String, measured: Option<f64>, bound: f64, unit: &str| {
        if let Some(measured) = measured {
            let target = format!("at least {} {unit}", number(bound));
            targets.push(Target { what, target, measured, met: measured >= bound });
        }
    };
    let rate = "deliveries/s";
    for (server, against, bound) in [(OURS, "NATS WebSocket", 1.0), (OURS, "floor, coalescing", 0.7)] {
        for row in rows(report, "most sustained, fan-out", server) {
            let other = of(report, &row.shape, against, rate);
            at_least(row.shape.clone(), ratio(row.median(rate), other), bound, &format!("x {against}"));
        }
    }
    for (server, bound) in [(OURS, 1.0), (OFF, 1.2)] {
        for row in rows(report, "most sustained, sharded", server) {
            let other = of(report, &row.shape, "Node bridge", rate);
            at_least(
                format!("{}: {server}", row.shape),
                ratio(row.median(rate), other),
                bound,
                "x Node bridge",
            );
        }
    }
    for row in rows(report, "subscribe, ", OURS) {
        at_least(row.shape.clone(), row.median("subscribes/s and core"), 10_000.0, "per second and core");
    }
    targets
}

/// They as a table.
pub(crate) fn table(report: &Report) -> String {
    let targets = all(report);
    if targets.is_empty() {
        return String::new();
    }
    let mut lines = vec![["target", "wanted", "measured", ""].map(str::to_owned).to_vec()];
    lines.extend(targets.iter().map(|target| {
        let met = if target.met { "met" } else { "NOT MET" };
        vec![target.what.clone(), target.target.clone(), number(target.measured), met.to_owned()]
    }));
    format!("\ntargets\n{}", aligned(&lines))
}

fn rows<'r>(report: &'r Report, shape: &'r str, server: &'r str) -> impl Iterator<Item = &'r Row> {
    report.rows.iter().filter(move |row| row.shape.starts_with(shape) && row.server == server)
}

fn of(report: &Report, shape: &str, server: &str, figure: &str) -> Option<f64> {
    rows(report, shape, server).find(|row| row.shape == shape)?.median(figure)
}

fn ratio(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    Some(one? / other.filter(|other| *other > 0.0)?)
}

fn sum(row: &Row, figures: &[&str]) -> Option<f64> {
    figures.iter().map(|figure| row.median(figure)).sum()
}

/// Memory for each subject that the last row has more than the first.
fn per_subject(first: &Row, last: &Row) -> Option<f64> {
    let subjects = |row: &Row| row.shape.split(", ").nth(1)?.split(' ').next()?.parse::<f64>().ok();
    let sessions = 100.0;
    let memory = (last.median("KiB/session")? - first.median("KiB/session")?) * sessions;
    let more = subjects(last)? - subjects(first)?;
    (more > 0.0).then_some(memory / more)
}
