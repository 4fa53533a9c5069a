//! The verdict: what is missing, doubled or out of order, by number.

use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
};

/// What one client got of one call by one binding, against what it was owed.
#[derive(Clone, Debug, Default)]
pub struct Judgement {
    /// Owed and never came.
    pub lost: Vec<u64>,
    /// Came more than once.
    pub duplicate: Vec<u64>,
    /// Came after a later one.
    pub out_of_order: Vec<u64>,
}

impl Judgement {
    /// Compares the numbers that came with those that were owed.
    pub fn of(came: &[u64], owed: impl Iterator<Item = u64>) -> Judgement {
        let mut judgement = Judgement::default();
        let (mut seen, mut highest) = (BTreeSet::new(), None);
        for number in came {
            if !seen.insert(*number) {
                judgement.duplicate.push(*number);
            } else if highest > Some(*number) {
                judgement.out_of_order.push(*number);
            }
            highest = highest.max(Some(*number));
        }
        judgement.lost = owed.filter(|number| !seen.contains(number)).collect();
        judgement
    }

    /// Adds another part of the same.
    pub fn add(&mut self, other: Judgement) {
        self.lost.extend(other.lost);
        self.duplicate.extend(other.duplicate);
        self.out_of_order.extend(other.out_of_order);
    }

    fn is_clean(&self, may_be_late: bool) -> bool {
        self.lost.is_empty() && self.duplicate.is_empty() && (may_be_late || self.out_of_order.is_empty())
    }
}

/// A client's line of the table.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its kind and number.
    pub client: String,
    /// Events that came.
    pub received: usize,
    /// Connections that it had.
    pub connections: usize,
    /// Its findings, each with binding and call.
    pub findings: Vec<(String, Judgement)>,
    /// Resumes that were not recovered, with the reply.
    pub unrecovered: Vec<String>,
    /// With which words connections ended.
    pub ends: Vec<String>,
}

/// The whole table.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// A line for each client.
    pub lines: Vec<Line>,
    /// How often sessions overran their queues, as far as edges lived to tell.
    pub overruns: u64,
}

impl Verdict {
    /// Whether every client got what it was owed. `may_be_late`: events that a dying leader of a cluster kept to
    /// itself may come after later ones.
    pub fn is_clean(&self, may_be_late: bool) -> bool {
        self.lines.iter().all(|line| {
            line.unrecovered.is_empty()
                && line.findings.iter().all(|(_, judgement)| judgement.is_clean(may_be_late))
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<12} {:>9} {:>11} {:>6} {:>9} {:>12} {:>11}",
            "client", "received", "connections", "lost", "duplicate", "out of order", "unrecovered"
        )?;
        let mut numbers = String::new();
        for line in &self.lines {
            let count = |of: fn(&Judgement) -> &Vec<u64>| -> usize {
                line.findings.iter().map(|(_, judgement)| of(judgement).len()).sum()
            };
            writeln!(
                f,
                "{:<12} {:>9} {:>11} {:>6} {:>9} {:>12} {:>11}",
                line.client,
                line.received,
                line.connections,
                count(|judgement| &judgement.lost),
                count(|judgement| &judgement.duplicate),
                count(|judgement| &judgement.out_of_order),
                line.unrecovered.len(),
            )?;
            for (what, judgement) in &line.findings {
                let kinds = [
                    ("lost", &judgement.lost),
                    ("duplicate", &judgement.duplicate),
                    ("out of order", &judgement.out_of_order),
                ];
                for (kind, list) in kinds.iter().filter(|(_, list)| !list.is_empty()) {
                    writeln!(numbers, "{}: {what}: {kind}: {}", line.client, ranges(list))?;
                }
            }
            for reply in &line.unrecovered {
                writeln!(numbers, "{}: not recovered: {reply}", line.client)?;
            }
            let has_findings =
                !line.unrecovered.is_empty() || line.findings.iter().any(|(_, one)| !one.is_clean(false));
            if has_findings {
                writeln!(numbers, "{}: connections: {}", line.client, line.ends.join("; "))?;
            }
        }
        write!(f, "queues overran {} times\n{numbers}", self.overruns)
    }
}

/// `1, 4..7` for 1, 4, 5, 6 and 7.
fn ranges(numbers: &[u64]) -> String {
    let mut parts: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => parts.push((*number, *number)),
        }
    }
    let text = |(first, last): &(u64, u64)| {
        if first == last { first.to_string() } else { format!("{first}..{last}") }
    };
    parts.iter().map(text).collect::<Vec<_>>().join(", ")
}
