//! Counts the instructions of the hot functions under valgrind and compares them with the counts recorded in
//! `counts.toml`. Counts do not include the effects of caches and system calls, but they hardly depend on the machine
//! and not at all on its load. `cargo dev bench --instructions` builds and runs this.

mod hot;

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde::{Deserialize, Serialize};

/// Calls in each of two runs. Their difference excludes the instructions before and after the calls.
const TIMES: [u64; 2] = [100, 600];
/// The relative growth above which a count is an error. Another compiler or C library also changes counts.
const TOLERANCE: f64 = 0.10;

/// Counts the instructions of the hot functions; run by `cargo dev bench --instructions`
#[derive(Parser)]
struct Arguments {
    /// Record the new counts
    #[arg(long)]
    record: bool,
    /// Run a function this many times (used internally, under valgrind)
    #[arg(long, num_args = 2, value_names = ["FUNCTION", "TIMES"], hide = true)]
    run: Vec<String>,
}

/// Instructions per call, by function.
#[derive(Default, Serialize, Deserialize)]
struct Counts(BTreeMap<String, u64>);

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if let [function, times] = &*arguments.run {
        let (_, run) =
            hot::FUNCTIONS.iter().find(|(name, ..)| name == function).context("no such function")?;
        run(times.parse()?);
        return Ok(ExitCode::SUCCESS);
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("counts.toml");
    let kept: Counts = match fs::read_to_string(&file) {
        Ok(text) => toml::from_str(&text).with_context(|| format!("{} cannot be read", file.display()))?,
        Err(_) => Counts::default(),
    };
    let mut counts = Counts::default();
    let mut slower = Vec::new();
    println!("{:<42}{:>12}{:>12}{:>9}", "instructions", "recorded", "now", "change");
    for (name, _) in hot::FUNCTIONS {
        let now = count(name)?;
        match kept.0.get(*name) {
            Some(&was) => {
                let change = now as f64 / was as f64 - 1.0;
                println!("{name:<42}{was:>12}{now:>12}{:>+8.1}%", change * 100.0);
                if change > TOLERANCE {
                    slower.push(*name);
                }
            }
            None => println!("{name:<42}{:>12}{now:>12}", "-"),
        }
        counts.0.insert((*name).to_owned(), now);
    }
    if arguments.record {
        fs::write(&file, toml::to_string(&counts)?)?;
        println!("recorded in {}", file.display());
        return Ok(ExitCode::SUCCESS);
    }
    if kept.0.keys().ne(counts.0.keys()) {
        bail!("{} does not contain exactly the counted functions: run with --record", file.display());
    }
    if slower.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "more than {:.0} % slower: {}; if that is intended, run with --record",
        TOLERANCE * 100.0,
        slower.join(", ")
    );
    Ok(ExitCode::FAILURE)
}

/// The instructions of one call.
fn count(function: &str) -> Result<u64> {
    let [few, many] = TIMES.map(|times| instructions(function, times));
    Ok((many?.saturating_sub(few?)) / (TIMES[1] - TIMES[0]))
}

fn instructions(function: &str, times: u64) -> Result<u64> {
    let log: PathBuf = env::temp_dir().join(format!("blackhole-instructions-{}", std::process::id()));
    let status = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe()?)
        .args(["--run", function, &times.to_string()])
        .stdout(Stdio::null())
        .stderr(File::create(&log)?)
        .status()
        .context("cannot run valgrind")?;
    let output = fs::read_to_string(&log)?;
    fs::remove_file(&log)?;
    let collected = output.lines().find_map(|line| line.split_once("Collected :"));
    match collected {
        Some((_, count)) if status.success() => Ok(count.trim().parse()?),
        _ => bail!("valgrind could not count {function}: {output}"),
    }
}
