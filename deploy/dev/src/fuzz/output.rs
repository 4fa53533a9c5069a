//! What libFuzzer prints.

use std::path::PathBuf;
use std::time::Duration;

/// Above the rows.
pub(super) const HEADER: &str = "target              executions   per second   coverage   corpus   result";

/// The result of one target.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    /// How often the target was run.
    pub(super) executions: u64,
    /// Edges of the code that were reached.
    pub(super) coverage: u64,
    /// Inputs in the grown corpus.
    pub(super) corpus: u64,
    /// The input of a finding.
    pub(super) finding: Option<PathBuf>,
    /// The first line about it.
    pub(super) reason: Option<String>,
}

impl Summary {
    /// Reads a log.
    pub(super) fn read(log: &str) -> Summary {
        let mut summary = Summary::default();
        for line in log.lines() {
            if let Some(number) = line.strip_prefix("stat::number_of_executed_units:") {
                summary.executions = number.trim().parse().unwrap_or_default();
            } else if let Some((_, path)) = line.split_once("Test unit written to ") {
                summary.finding = Some(path.trim().into());
            } else if line.contains(" panicked at ") || line.starts_with("==") && line.contains("ERROR:") {
                summary.reason = summary.reason.or_else(|| Some(line.to_owned()));
            } else if line.starts_with('#') {
                // `#65536  NEW  cov: 1864 ft: 4100 corp: 99/12Kb …`
                let after = |name: &str| line.split_once(name).and_then(|(_, rest)| number(rest));
                summary.coverage = after(" cov: ").unwrap_or(summary.coverage);
                summary.corpus = after(" corp: ").unwrap_or(summary.corpus);
            }
        }
        summary
    }

    /// The row in the table.
    pub(super) fn row(&self, target: &str, took: Duration) -> String {
        let Summary { executions, coverage, corpus, .. } = self;
        let rate = *executions as f64 / took.as_secs_f64().max(0.001);
        let result = if self.finding.is_some() { "BROKEN" } else { "ok" };
        format!("{target:<18}{executions:>12}{rate:>13.0}{coverage:>11}{corpus:>9}   {result}")
    }
}

fn number(text: &str) -> Option<u64> {
    text.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_without_findings_has_its_numbers() {
        let log = "INFO: Seed: 1\n#25\tINITED cov: 1765 ft: 3000 corp: 25/2Kb exec/s: 0 rss: 32Mb\n\
                   #900\tNEW    cov: 1800 ft: 3100 corp: 30/3Kb lim: 4 exec/s: 900 rss: 32Mb L: 1/4 MS: 1 A-\n\
                   #1000\tDONE   cov: 1800 ft: 3100 corp: 30/3Kb lim: 4 exec/s: 900 rss: 32Mb\n\
                   stat::number_of_executed_units: 1000\n";
        let summary = Summary::read(log);
        let expected = Summary { executions: 1000, coverage: 1800, corpus: 30, ..Summary::default() };
        assert_eq!(summary, expected);
        let row = summary.row("subject", Duration::from_secs(2));
        let words: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(words, ["subject", "1000", "500", "1800", "30", "ok"]);
    }

    #[test]
    fn a_finding_has_its_input_and_its_reason() {
        let log = "thread '<unnamed>' (7) panicked at tests/fuzz/src/subject.rs:9:5:\nassertion failed\n\
                   ==754== ERROR: libFuzzer: deadly signal\n\
                   artifact_prefix='/t/'; Test unit written to /t/crash-3e\nBase64: LTd5\n\
                   stat::number_of_executed_units: 214\n";
        let summary = Summary::read(log);
        assert_eq!(summary.finding, Some("/t/crash-3e".into()));
        assert!(summary.reason.unwrap().ends_with("subject.rs:9:5:"));
        assert_eq!(summary.executions, 214);
    }
}
