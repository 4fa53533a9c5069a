//! Progress messages for the user, on standard error; results go to standard output.
//!
//! On a terminal, a step is one line that counts seconds; elsewhere it prints plain lines. Write errors are ignored:
//! the reader may have gone.

use std::fmt::Display;
use std::future::Future;
use std::io::{IsTerminal, Write, stderr, stdout};
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::Result;

/// Seconds between two lines about a running step where lines cannot be rewritten.
const PLAIN_INTERVAL: u64 = 10;

/// Prints a line of progress.
pub fn say(line: impl Display) {
    let _ = writeln!(stderr(), "{line}");
}

/// Prints a line of the result on standard output; an error means that nobody reads it any more.
pub fn print(line: impl Display) -> std::io::Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Runs `work` while showing `what` it does and for how long.
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
        if terminal || seconds % PLAIN_INTERVAL == 0 {
            line.show(what, &format!("... {seconds} s"));
        }
    };
    let end = if result.is_ok() { "done" } else { "failed" };
    line.show(what, &format!("{end}, {:.1} s", started.elapsed().as_secs_f64()));
    result
}

/// The line of the running step. When it is dropped, the cursor moves to a new line.
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
