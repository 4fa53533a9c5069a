//! The targets, as ratios within one run, and whether they are met.

use serde::Serialize;

use super::{Report, Row, aligned, number};

const OURS: &str = "blackhole";
const OFF: &str = "blackhole, history off";

/// A target and the measured value.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Target {
    /// What is measured.
    pub(crate) what: String,
    /// The bound as text.
    pub(crate) target: String,
    /// The measured value.
    pub(crate) measured: f64,
    /// Whether it is met; none for a figure without a bound.
    pub(crate) met: Option<bool>,
}

/// A list of targets.
#[derive(Default)]
struct Targets(Vec<Target>);

impl Targets {
    fn at_most(&mut self, what: String, measured: Option<f64>, bound: f64, unit: &str) {
        let target = format!("at most {} {unit}", number(bound));
        self.enter(what, target, measured, |measured| Some(measured <= bound));
    }

    fn at_least(&mut self, what: String, measured: Option<f64>, bound: f64, unit: &str) {
        let target = format!("at least {} {unit}", number(bound));
        self.enter(what, target, measured, |measured| Some(measured >= bound));
    }

    fn without_bound(&mut self, what: String, measured: Option<f64>, unit: &str) {
        self.enter(what, unit.to_owned(), measured, |_| None);
    }

    fn enter(
        &mut self,
        what: String,
        target: String,
        measured: Option<f64>,
        met: impl Fn(f64) -> Option<bool>,
    ) {
        if let Some(measured) = measured {
            self.0.push(Target { what, target, measured, met: met(measured) });
        }
    }
}

/// All targets for which the necessary figures were measured.
pub(crate) fn all(report: &Report) -> Vec<Target> {
    let mut targets = Targets::default();
    costs(report, &mut targets);
    rates(report, &mut targets);
    for server in [OURS, OFF] {
        for row in rows(report, "latency, ", server) {
            for (name, bound) in [("p50", 1.0), ("p99", 5.0)] {
                let over = row.median(&format!("{name} over plain, ms"));
                targets.at_most(title(row, &format!("{name} over a plain consumer")), over, bound, "ms");
            }
        }
    }
    for row in rows(report, "idle, ", OURS) {
        targets.at_most(title(row, "edge, per session"), row.median("KiB/session"), 5.0, "KiB");
    }
    for row in rows(report, "edges, ", OURS) {
        targets.at_most(title(row, "idle"), row.median("idle CPU %, each edge"), 5.0, "% of a core");
        targets.at_most(title(row, "lost"), Some((row.lost + row.cut_off) as f64), 0.0, "events");
    }
    for row in rows(report, "reconnect, ", OURS) {
        // With TLS they are let in at a lower pace.
        if row.shape.ends_with("5000/s") {
            targets.at_least(row.shape.clone(), row.median("sessions/s"), 5_000.0, "sessions/s");
        }
        targets.at_most(title(row, "others, p99"), row.median("others, p99 ms"), 250.0, "ms");
    }
    growth(report, &mut targets);
    for row in rows(report, "subscribe, ", OURS) {
        let rate = row.median("subscribes/s and core");
        targets.at_least(row.shape.clone(), rate, 10_000.0, "per second and core");
    }
    targets.0
}

/// CPU time per delivery.
fn costs(report: &Report, targets: &mut Targets) {
    for row in rows(report, "fan-out, 1000 ", OURS) {
        let floor = of(report, &row.shape, "floor", "µs/delivery: floor");
        let edge = row.median("µs/delivery: edge");
        targets.at_most(title(row, "edge"), ratio(edge, floor), 1.3, "x floor");
    }
    for server in [OURS, OFF] {
        for row in rows(report, "sharded, ", server) {
            let own = sum(row, &["µs/delivery: edge", "µs/delivery: ingest"]);
            let node = of(report, &row.shape, "Node bridge", "µs/delivery: node");
            targets.at_most(title(row, "ingest + edge"), ratio(own, node), 0.5, "x Node bridge");
        }
    }
    // The whole path, RabbitMQ included.
    for (shape, rate, bound) in [
        ("sharded, ", "5000/s", 1.25),
        ("sharded, ", "20000/s", 1.0),
        ("sharded over three, ", "5000/s", 0.65),
        ("sharded over three, ", "20000/s", 0.6),
    ] {
        for row in rows(report, shape, OURS).filter(|row| row.shape.ends_with(rate)) {
            let node = of(report, &row.shape, "Node bridge", "µs/delivery");
            targets.at_most(
                title(row, "in all"),
                ratio(row.median("µs/delivery"), node),
                bound,
                "x Node bridge",
            );
        }
    }
    for (rate, quantile, bound) in
        [("5000/s", "p50 ms", 1.5), ("5000/s", "p99 ms", 10.0), ("20000/s", "p99 ms", 20.0)]
    {
        for row in rows(report, "sharded, ", OURS).filter(|row| row.shape.ends_with(rate)) {
            targets.at_most(title(row, quantile), row.median(quantile), bound, "ms");
        }
    }
    for server in [OURS, OFF] {
        for row in rows(report, "sharded, ", server) {
            let nats = row.median("µs/delivery: nats-server");
            targets.without_bound(title(row, "nats-server"), nats, "µs per event, no target");
        }
    }
}

/// The highest sustained rates.
fn rates(report: &Report, targets: &mut Targets) {
    let rate = "deliveries/s";
    for (against, bound) in [("NATS WebSocket", 1.0), ("floor, coalescing", 0.7)] {
        for row in rows(report, "most sustained, fan-out", OURS) {
            let other = of(report, &row.shape, against, rate);
            targets.at_least(
                title(row, "rate"),
                ratio(row.median(rate), other),
                bound,
                &format!("x {against}"),
            );
        }
    }
    for (server, bound) in [(OURS, 1.0), (OFF, 1.2)] {
        for row in rows(report, "most sustained, sharded", server) {
            let other = of(report, &row.shape, "Node bridge", rate);
            targets.at_least(title(row, "rate"), ratio(row.median(rate), other), bound, "x Node bridge");
        }
    }
}

/// The largest size compared with the smallest.
fn growth(report: &Report, targets: &mut Targets) {
    let all = |subjects: bool| -> Vec<&Row> {
        rows(report, "growth, ", OURS).filter(|row| row.shape.contains(" subjects") == subjects).collect()
    };
    for subjects in [false, true] {
        let rows = all(subjects);
        let [first, .., last] = rows.as_slice() else { continue };
        let what = |what: &str| format!("{} from {}: {what}", last.shape, first.shape);
        let grown = |figure| ratio(last.median(figure), first.median(figure));
        targets.at_most(what("edge, per delivery"), grown("µs/delivery: edge"), 1.15, "x");
        if subjects {
            targets.at_most(what("each further subject"), per_subject(first, last), 2.0, "KiB");
            // Only the last steps: with fewer subjects, the memory of the session itself dominates.
            let [.., before, _] = rows.as_slice() else { continue };
            let flat = ratio(per_subject(before, last), per_subject(first, before));
            targets.at_most(what("memory of each further subject"), flat, 1.15, "x");
        } else {
            targets.at_most(what("memory per session"), grown("KiB/session"), 1.15, "x");
        }
    }
}

/// Memory in KiB per additional subject of the second row.
fn per_subject(first: &Row, second: &Row) -> Option<f64> {
    let memory = |row: &Row| Some(row.median("KiB/session")? * row.median("sessions")?);
    ratio(
        Some(memory(second)? - memory(first)?),
        Some(second.median("subjects")? - first.median("subjects")?),
    )
}

fn title(row: &Row, what: &str) -> String {
    let history = if row.server == OFF { ", history off" } else { "" };
    format!("{}{history}: {what}", row.shape)
}

/// The targets as a table.
pub(crate) fn table(report: &Report) -> String {
    let targets = all(report);
    if targets.is_empty() {
        return String::new();
    }
    let mut lines = vec![["target", "wanted", "measured", ""].map(str::to_owned).to_vec()];
    lines.extend(targets.iter().map(|target| {
        let met = target.met.map_or("", |met| if met { "met" } else { "NOT MET" });
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
