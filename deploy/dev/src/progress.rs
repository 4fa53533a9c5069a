//! What the person in front of the screen sees while something takes its time.
//!
//! It goes to the standard error output (results go to the standard one): one line that counts seconds on a terminal,
//! plain lines elsewhere. Nobody may be reading any more, so failures to write are ignored here.

use std::fmt::Display;
use std::future::Future;
use std::io::{IsTerminal, Write, stderr, stdout};
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::Result;

/// How often a step that goes on is mentioned where lines cannot be rewritten.
const PLAIN_EVERY: u64 = 10;

/// Prints one line.
pub fn say(line: impl Display) {
    let _ = writeln!(stderr(), "{line}");
}

/// Prints one line of what was asked for, on the standard output; its reader may be gone.
pub fn print(line: impl Display) -> std::io::Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Runs `work` while showing what is done and for how long.
pub async fn step<T>(what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let terminal = stderr().is_terminal();
    let started = Instant::now();
    let mut line = Line { terminal, open: false };
    line.show(what, "...");
    let mut work = pin!(work);
    let mut seconds = 0;
    let result = loop {
        match tokio::time::timeout(Duration::from_secs(1), &mut work).await {
            Ok(result) => break result,
            Err(_) => seconds += 1,
        }
        if terminal || seconds % PLAIN_EVERY == 0 {
            line.show(what, &format!("... {seconds} s"));
        }
    };
    let end = if result.is_ok() { "done" } else { "failed" };
    line.show(what, &format!("{end}, {:.1} s", started.elapsed().as_secs_f64()));
    result
}

/// The line being shown; an interrupted step leaves the cursor on a new one.
struct Line {
    terminal: bool,
    open: bool,
}

impl Line {
    fn show(&mut self, what: &str, state: &str) {
        let _ = if self.terminal {
            self.open = true;
            write!(stderr(), "\r{what} {state}\x1b[K")
        } else {
            writeln!(stderr(), "{what} {state}")
        };
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.open {
            let _ = writeln!(stderr());
        }
    }
}
