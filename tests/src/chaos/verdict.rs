//! The verdict: lost, duplicate and out-of-order events, by number.

use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
};

/// The events of one call that a client received for one binding, compared with the expected ones.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Expected, but not received.
    pub lost: Vec<u64>,
    /// Received more than once.
    pub duplicate: Vec<u64>,
    /// Received after a later one.
    pub out_of_order: Vec<u64>,
}

impl Findings {
    /// Compares the received numbers with the expected ones.
    pub fn of(received: &[u64], expected: impl Iterator<Item = u64>) -> Findings {
        let mut findings = Findings::default();
        let (mut seen, mut highest) = (BTreeSet::new(), None);
        for number in received {
            if !seen.insert(*number) {
                findings.duplicate.push(*number);
            } else if highest > Some(*number) {
                findings.out_of_order.push(*number);
            }
            highest = highest.max(Some(*number));
        }
        findings.lost = expected.filter(|number| !seen.contains(number)).collect();
        findings
    }

    /// Adds the findings about another connection.
    pub fn add(&mut self, other: Findings) {
        self.lost.extend(other.lost);
        self.duplicate.extend(other.duplicate);
        self.out_of_order.extend(other.out_of_order);
    }

    fn is_clean(&self, may_be_late: bool) -> bool {
        self.lost.is_empty() && self.duplicate.is_empty() && (may_be_late || self.out_of_order.is_empty())
    }
}

/// The findings about one client: a line of the table.
#[derive(Clone, Debug)]
pub struct ClientVerdict {
    /// The kind and number of the client.
    pub name: String,
    /// Number of events received.
    pub received: usize,
    /// Number of connections.
    pub connections: usize,
    /// The findings by binding and call.
    pub findings: Vec<(String, Findings)>,
    /// Replies to resumes that did not recover the history.
    pub unrecovered: Vec<String>,
    /// Error replies.
    pub refused: Vec<String>,
    /// Why connections ended.
    pub ends: Vec<String>,
}

/// The result of a run.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// One for each client.
    pub clients: Vec<ClientVerdict>,
    /// How often the queue of a session overflowed. Counts of killed edges are incomplete.
    pub overruns: u64,
}

impl Verdict {
    /// The error replies that clients have received.
    pub fn refused(&self) -> Vec<&str> {
        self.clients.iter().flat_map(|client| &client.refused).map(String::as_str).collect()
    }

    /// Whether every client received what was expected. `may_be_late`: events that a dying leader of a NATS cluster had
    /// not sent yet may arrive after later ones.
    pub fn is_clean(&self, may_be_late: bool) -> bool {
        self.clients.iter().all(|client| {
            client.unrecovered.is_empty()
                && client.findings.iter().all(|(_, findings)| findings.is_clean(may_be_late))
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<12} {:>9} {:>11} {:>6} {:>9} {:>12} {:>11} {:>7}",
            "client",
            "received",
            "connections",
            "lost",
            "duplicate",
            "out of order",
            "unrecovered",
            "refused"
        )?;
        let mut numbers = String::new();
        for client in &self.clients {
            let count = |of: fn(&Findings) -> &Vec<u64>| -> usize {
                client.findings.iter().map(|(_, findings)| of(findings).len()).sum()
            };
            writeln!(
                f,
                "{:<12} {:>9} {:>11} {:>6} {:>9} {:>12} {:>11} {:>7}",
                client.name,
                client.received,
                client.connections,
                count(|findings| &findings.lost),
                count(|findings| &findings.duplicate),
                count(|findings| &findings.out_of_order),
                client.unrecovered.len(),
                client.refused.len(),
            )?;
            for (what, findings) in &client.findings {
                let kinds = [
                    ("lost", &findings.lost),
                    ("duplicate", &findings.duplicate),
                    ("out of order", &findings.out_of_order),
                ];
                for (kind, list) in kinds.iter().filter(|(_, list)| !list.is_empty()) {
                    writeln!(numbers, "{}: {what}: {kind}: {}", client.name, ranges(list))?;
                }
            }
            for reply in &client.unrecovered {
                writeln!(numbers, "{}: not recovered: {reply}", client.name)?;
            }
            let has_findings =
                !client.unrecovered.is_empty() || client.findings.iter().any(|(_, one)| !one.is_clean(false));
            if has_findings {
                writeln!(numbers, "{}: connections: {}", client.name, client.ends.join("; "))?;
            }
        }
        write!(f, "queues overflowed {} times\n{numbers}", self.overruns)
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
