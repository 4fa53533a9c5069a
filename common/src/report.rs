//! What a command has found: a line for each thing that it looked at.

use std::fmt;

/// The lines, in the order in which they were found.
#[derive(Debug, Default)]
pub struct Report(Vec<Line>);

#[derive(Debug)]
struct Line {
    what: String,
    result: Result<String, String>,
}

impl Report {
    /// Adds what was looked at, and what is right or wrong with it.
    pub fn add(&mut self, what: impl Into<String>, result: Result<String, String>) {
        self.0.push(Line { what: what.into(), result });
    }

    /// Whether nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.0.iter().all(|line| line.result.is_ok())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Line { what, result } in &self.0 {
            match result {
                Ok(text) => writeln!(f, "ok      {what}: {text}")?,
                Err(text) => writeln!(f, "FAILED  {what}: {text}")?,
            }
        }
        Ok(())
    }
}
