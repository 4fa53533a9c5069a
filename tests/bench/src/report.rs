//! The results of a run: figures with their spread, compared with the targets, as tables and as JSON.

mod targets;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use blackhole_dev::bench::Shape;
use blackhole_dev::progress::print;
use serde::Serialize;

use crate::clients::tally::Tally;
use crate::contender::Name;
use crate::run::Plan;

/// Percentages of CPU time above which the machine was too busy with other things for a meaningful measurement.
const MAX_OTHERS_PERCENT: f64 = 10.0;
const MAX_STEAL_PERCENT: f64 = 5.0;

/// The figures of one measurement, in display order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured(Vec<(String, f64)>);

impl Measured {
    /// Adds a figure.
    pub(crate) fn add(&mut self, name: &str, value: f64) {
        self.0.push((name.to_owned(), value));
    }
}

/// All measurements of a shape with a server.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// The shape and its size.
    pub(crate) shape: String,
    /// The server.
    pub(crate) server: &'static str,
    /// The figures, with the values of all repetitions.
    pub(crate) figures: Vec<Figure>,
    /// Expected deliveries, over all repetitions.
    pub(crate) expected: u64,
    /// Deliveries that arrived.
    pub(crate) delivered: u64,
    /// Deliveries that did not arrive.
    pub(crate) lost: u64,
    /// Deliveries that did not arrive because the server closed the session.
    pub(crate) cut_off: u64,
    /// Deliveries that arrived more than once.
    pub(crate) duplicated: u64,
    /// Deliveries that arrived after a newer one.
    pub(crate) out_of_order: u64,
}

/// A figure with the values of all repetitions.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    /// Its name with the unit.
    pub(crate) name: String,
    /// Its values, sorted.
    pub(crate) values: Vec<f64>,
}

impl Figure {
    /// The median.
    pub(crate) fn median(&self) -> f64 {
        let (low, high) = (self.values.len().saturating_sub(1) / 2, self.values.len() / 2);
        (self.values[low] + self.values[high]) / 2.0
    }
}

impl Row {
    /// The median of a figure.
    pub(crate) fn median(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|figure| figure.name == name).map(Figure::median)
    }
}

/// The whole report.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    /// The settings of the run.
    pub(crate) how: BTreeMap<&'static str, String>,
    /// The measurements.
    pub(crate) rows: Vec<Row>,
    /// Notes.
    pub(crate) notes: Vec<String>,
    /// Failures.
    pub(crate) failures: Vec<String>,
}

impl Report {
    /// An empty report.
    pub(crate) fn new(plan: &Plan) -> Self {
        let processors = std::thread::available_parallelism().map_or(0, usize::from);
        let build = if cfg!(debug_assertions) { "debug: the figures are meaningless" } else { "release" };
        let how = BTreeMap::from([
            ("build", build.to_owned()),
            ("processors", processors.to_string()),
            ("repetitions", plan.repeat.to_string()),
            ("seconds", plan.seconds.to_string()),
            ("view", plan.options.view.clone()),
        ]);
        Self { how, ..Self::default() }
    }

    /// Adds a note.
    pub(crate) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// Adds a measurement. It is a failure if Blackhole lost, duplicated or reordered an event.
    pub(crate) fn enter(&mut self, shape: &str, name: Name, measured: Measured, tally: Option<&Tally>) {
        let server = name.text();
        let place = self.rows.iter().position(|row| row.shape == shape && row.server == server);
        let place = place.unwrap_or_else(|| {
            self.rows.push(Row {
                shape: shape.to_owned(),
                server,
                figures: Vec::new(),
                expected: 0,
                delivered: 0,
                lost: 0,
                cut_off: 0,
                duplicated: 0,
                out_of_order: 0,
            });
            self.rows.len() - 1
        });
        let row = &mut self.rows[place];
        for (name, value) in measured.0 {
            match row.figures.iter_mut().find(|figure| figure.name == name) {
                Some(figure) => {
                    let at = figure.values.partition_point(|other| *other < value);
                    figure.values.insert(at, value);
                }
                None => row.figures.push(Figure { name, values: vec![value] }),
            }
        }
        let Some(tally) = tally else { return };
        row.expected += tally.expected;
        row.delivered += tally.delivered;
        row.lost += tally.lost;
        row.cut_off += tally.cut_off;
        row.duplicated += tally.duplicated;
        row.out_of_order += tally.out_of_order;
        let wrong = tally.lost + tally.cut_off + tally.duplicated + tally.out_of_order + tally.unexpected;
        if matches!(name, Name::Ours { .. }) && wrong > 0 {
            self.failures.push(format!(
                "{shape}, {server}: of {} expected, {} lost, {} cut off, {} duplicated, {} out of order; {} unexpected{}",
                tally.expected,
                tally.lost,
                tally.cut_off,
                tally.duplicated,
                tally.out_of_order,
                tally.unexpected,
                tally.reason.as_deref().map_or(String::new(), |reason| format!(" ({reason})")),
            ));
        }
    }

    /// Prints the report.
    pub(crate) fn print(&self) -> std::io::Result<()> {
        let how: Vec<String> = self.how.iter().map(|(name, value)| format!("{name} {value}")).collect();
        print(how.join(", "))?;
        let mut shapes: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !shapes.contains(&row.shape.as_str()) {
                shapes.push(&row.shape);
            }
        }
        for shape in shapes {
            let rows: Vec<&Row> = self.rows.iter().filter(|row| row.shape == shape).collect();
            print(table(shape, &rows))?;
        }
        print(targets::table(self))?;
        for note in &self.notes {
            print(format_args!("note: {note}"))?;
        }
        let disturbed = |row: &&Row| {
            let above = |name: &str, max: f64| row.median(name).is_some_and(|share| share > max);
            above("others %", MAX_OTHERS_PERCENT) || above("steal %", MAX_STEAL_PERCENT)
        };
        match self.rows.iter().filter(disturbed).count() {
            0 => {}
            count => print(format_args!(
                "note: the machine was busy with something else during {count} of {} measurements (steal, others): their ratios are meaningless",
                self.rows.len()
            ))?,
        }
        for failure in &self.failures {
            print(format_args!("FAILED: {failure}"))?;
        }
        Ok(())
    }

    /// Writes the report as JSON.
    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        if let Some(dir) = file.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let mut value = serde_json::to_value(self)?;
        value["targets"] = serde_json::to_value(targets::all(self))?;
        Ok(std::fs::write(file, serde_json::to_string_pretty(&value)?)?)
    }
}

/// The name of a shape in tables.
pub(crate) fn shape_name(shape: Shape) -> &'static str {
    match shape {
        Shape::Fanout => "fan-out",
        Shape::Sharded => "sharded",
        Shape::ShardedEdges => "sharded over three",
        Shape::Idle => "idle",
        Shape::Storm => "storm",
        Shape::Reconnect => "reconnect",
        Shape::Mixed => "mixed",
        Shape::Growth => "growth",
        Shape::MaxFanout => "most sustained, fan-out",
        Shape::MaxSharded => "most sustained, sharded",
        Shape::Subscribe => "subscribe",
        Shape::Latency => "latency",
        Shape::Edges => "edges",
    }
}

/// The table of a shape. Figures by process share a column; all others have their own.
fn table(shape: &str, rows: &[&Row]) -> String {
    let mut columns: Vec<&str> = Vec::new();
    for figure in rows.iter().flat_map(|row| &row.figures).filter(|figure| !figure.name.contains(": ")) {
        if !columns.contains(&figure.name.as_str()) {
            columns.push(&figure.name);
        }
    }
    let mut lines =
        vec![["server"].into_iter().chain(columns.iter().copied()).map(str::to_owned).collect::<Vec<_>>()];
    let counted = rows.iter().any(|row| row.expected > 0);
    if counted {
        lines[0].extend(["expected", "delivered", "lost", "dup."].map(str::to_owned));
    }
    lines[0].push("by process".into());
    for row in rows {
        let mut line = vec![row.server.to_owned()];
        line.extend(columns.iter().map(|column| {
            row.figures.iter().find(|figure| figure.name == *column).map_or(String::new(), spread)
        }));
        if counted {
            let lost = row.lost + row.cut_off;
            line.extend([row.expected, row.delivered, lost, row.duplicated].map(|count| count.to_string()));
        }
        let by_process = row.figures.iter().filter_map(|figure| {
            let (_, process) = figure.name.split_once(": ")?;
            Some(format!("{process} {}", number(figure.median())))
        });
        line.push(by_process.collect::<Vec<_>>().join(", "));
        lines.push(line);
    }
    format!("\n{shape}\n{}", aligned(&lines))
}

/// The median, and with several values minimum and maximum in brackets.
fn spread(figure: &Figure) -> String {
    match figure.values.as_slice() {
        [low, .., high] => format!("{} ({}-{})", number(figure.median()), number(*low), number(*high)),
        _ => number(figure.median()),
    }
}

/// A number with three significant digits.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn aligned(lines: &[Vec<String>]) -> String {
    let count = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().enumerate().map(|(column, cell)| {
            let gap = " ".repeat(widths[column] - cell.chars().count());
            // Names and the last column are left-aligned, numbers right-aligned.
            if column == 0 || column + 1 == count { format!("{cell}{gap}") } else { format!("{gap}{cell}") }
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}
