//! What came of a run: figures with their spread, as a table, as ratios, beside the targets, and as JSON.

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

/// Shares of the processors' time, in percent, above which a measurement is not one of a quiet machine.
const MOST_OTHERS: f64 = 10.0;
const MOST_STOLEN: f64 = 5.0;

/// The figures of one measurement, in the order in which they are shown.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured(Vec<(String, f64)>);

impl Measured {
    /// Adds one.
    pub(crate) fn add(&mut self, name: &str, value: f64) {
        self.0.push((name.to_owned(), value));
    }
}

/// All measurements of one thing.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// The shape and its size.
    pub(crate) shape: String,
    /// The server.
    pub(crate) server: &'static str,
    /// What was measured, each time.
    pub(crate) figures: Vec<Figure>,
    /// Deliveries that were owed, over all repetitions.
    pub(crate) expected: u64,
    /// Those that arrived.
    pub(crate) delivered: u64,
    /// Those that did not.
    pub(crate) lost: u64,
    /// Those that did not because the server closed the session.
    pub(crate) cut_off: u64,
    /// Those that came twice.
    pub(crate) duplicated: u64,
    /// Those that came after something newer.
    pub(crate) out_of_order: u64,
}

/// One figure, each time it was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    /// What it is, with its unit.
    pub(crate) name: String,
    /// Its values, sorted.
    pub(crate) values: Vec<f64>,
}

impl Figure {
    /// The middle one; of two, the mean.
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
    /// How it was run.
    pub(crate) how: BTreeMap<&'static str, String>,
    /// What was measured.
    pub(crate) rows: Vec<Row>,
    /// What has to be said about it.
    pub(crate) notes: Vec<String>,
    /// What must not be.
    pub(crate) failures: Vec<String>,
}

impl Report {
    /// An empty one.
    pub(crate) fn new(plan: &Plan) -> Self {
        let processors = std::thread::available_parallelism().map_or(0, usize::from);
        let build = if cfg!(debug_assertions) { "debug: figures mean nothing" } else { "release" };
        let how = BTreeMap::from([
            ("build", build.to_owned()),
            ("processors", processors.to_string()),
            ("repetitions", plan.repeat.to_string()),
            ("seconds", plan.seconds.to_string()),
            ("view", plan.options.view.clone()),
        ]);
        Self { how, ..Self::default() }
    }

    /// Says something.
    pub(crate) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// Enters a measurement; ours must neither lose nor repeat.
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
        let wrong = tally.lost + tally.cut_off + tally.duplicated + tally.out_of_order + tally.foreign;
        if matches!(name, Name::Ours { .. }) && wrong > 0 {
            self.failures.push(format!(
                "{shape}, {server}: of {} owed, {} lost, {} cut off, {} duplicated, {} out of order, {} not asked for{}",
                tally.expected,
                tally.lost,
                tally.cut_off,
                tally.duplicated,
                tally.out_of_order,
                tally.foreign,
                tally.reason.as_deref().map_or(String::new(), |reason| format!(" ({reason})")),
            ));
        }
    }

    /// Prints it.
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
            let above = |name: &str, most: f64| row.median(name).is_some_and(|share| share > most);
            above("others %", MOST_OTHERS) || above("steal %", MOST_STOLEN)
        };
        match self.rows.iter().filter(disturbed).count() {
            0 => {}
            count => print(format_args!(
                "note: something else ran during {count} of {} measurements (steal, others): ratios mean nothing",
                self.rows.len()
            ))?,
        }
        for failure in &self.failures {
            print(format_args!("FAILED: {failure}"))?;
        }
        Ok(())
    }

    /// Writes all of it as JSON.
    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        if let Some(dir) = file.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let mut value = serde_json::to_value(self)?;
        value["targets"] = serde_json::to_value(targets::all(self))?;
        Ok(std::fs::write(file, serde_json::to_string_pretty(&value)?)?)
    }
}

/// A shape as it is written.
pub(crate) fn shape_name(shape: Shape) -> &'static str {
    match shape {
        Shape::Fanout => "fan-out",
        Shape::Sharded => "sharded",
        Shape::Idle => "idle",
        Shape::Storm => "storm",
        Shape::Mixed => "mixed",
        Shape::Growth => "growth",
        Shape::MaxFanout => "most sustained, fan-out",
        Shape::MaxSharded => "most sustained, sharded",
        Shape::Subscribe => "subscribe",
        Shape::Latency => "latency",
        Shape::Edges => "edges",
    }
}

/// One shape's rows. Figures by process stand in one column; all others have one each.
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

/// The median, and in brackets the lowest and the highest where there are several.
fn spread(figure: &Figure) -> String {
    match figure.values.as_slice() {
        [low, .., high] => format!("{} ({}-{})", number(figure.median()), number(*low), number(*high)),
        _ => number(figure.median()),
    }
}

/// Three digits that count.
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
            // Names and the last column stand at the left, numbers at the right.
            if column == 0 || column + 1 == count { format!("{cell}{gap}") } else { format!("{gap}{cell}") }
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}
