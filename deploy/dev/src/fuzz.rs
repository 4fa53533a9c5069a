//! `cargo dev fuzz`: runs the fuzz targets under libFuzzer.
//!
//! libFuzzer needs to see which code an input reaches. LLVM adds that to everything that is compiled, with options that the
//! stable compiler accepts. They have a target directory of their own, since nothing else can use what they build.

mod output;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use self::output::Summary;
use crate::ending::Endings;
use crate::process::{Process, Spec};
use crate::progress::{print, say, step};
use crate::workspace;

const PACKAGE: &str = "blackhole-fuzz";
/// The program's name of the target to run.
const TARGET: &str = "DEV_FUZZ_TARGET";
/// Where the corpora are.
const CORPUS: &str = "tests/fuzz/corpus";
/// Counters at each edge of the code, and what comparisons compare.
const RUSTFLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";
/// With a target named, build scripts and macros are built without [`RUSTFLAGS`].
const TRIPLE: &str =
    if cfg!(target_arch = "aarch64") { "aarch64-unknown-linux-gnu" } else { "x86_64-unknown-linux-gnu" };
/// An input that takes longer is a finding.
const INPUT_TIMEOUT: Duration = Duration::from_secs(10);
/// A target that takes more is one.
const MAX_MEMORY_MIB: u32 = 2048;

/// The options of `cargo dev fuzz`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The targets; all if none is named
    #[arg(value_name = "TARGET")]
    pub targets: Vec<String>,
    /// How long to run each target
    #[arg(long = "for", value_name = "TIME", default_value = "1m", value_parser = humantime::parse_duration)]
    pub time: Duration,
    /// End a target after this many executions, if that is earlier
    #[arg(long, value_name = "N")]
    pub runs: Option<u64>,
    /// Add what was found to the corpora in the repository: the smallest inputs that reach new code
    #[arg(long)]
    pub keep: bool,
    /// List the targets and what they read
    #[arg(long)]
    pub list: bool,
}

/// Where a run reads and writes.
struct Fuzzer {
    root: PathBuf,
    /// Below the target directory: the grown corpora, inputs that were findings, logs.
    dir: PathBuf,
    program: PathBuf,
}

/// Builds the targets and runs them one after the other. Fails if one has a finding.
pub async fn run(options: Options) -> Result<ExitCode> {
    let mut endings = Endings::listen()?;
    tokio::select! {
        code = fuzz(&options) => code,
        ending = endings.next() => Ok(ending.exit_code()),
    }
}

async fn fuzz(options: &Options) -> Result<ExitCode> {
    let root = workspace::root()?;
    let dir = workspace::target_dir()?.join("fuzz");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let fuzzer = Fuzzer { program: build(&root, &dir).await?, root, dir };
    let all = list(&fuzzer.program)?;
    if options.list {
        for (name, reads) in &all {
            print(format_args!("{name:<18}{reads}"))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    if let Some(unknown) = options.targets.iter().find(|target| !names.contains(&target.as_str())) {
        bail!("there is no target {unknown}; there are {}", names.join(", "));
    }
    let is_chosen =
        |name: &&&str| options.targets.is_empty() || options.targets.iter().any(|own| own == **name);
    let chosen = names.iter().filter(is_chosen);
    let (mut rows, mut findings, mut executions) = (Vec::new(), 0, 0);
    for target in chosen {
        let started = Instant::now();
        let summary = fuzzer.target(target, options).await?;
        rows.push(summary.row(target, started.elapsed()));
        executions += summary.executions;
        if let Some(input) = &summary.finding {
            findings += 1;
            say(format_args!("{target}: {}", summary.reason.as_deref().unwrap_or("a finding")));
            say(format_args!("  the input: {}", input.display()));
            say(format_args!("  again: {TARGET}={target} {} {}", fuzzer.program.display(), input.display()));
            say(format_args!(
                "  copied to {CORPUS}/{target}: `cargo test -p {PACKAGE}` fails until it is mended"
            ));
        }
    }
    print(output::HEADER)?;
    for row in rows {
        print(row)?;
    }
    print(format_args!("{executions} executions, {findings} findings"))?;
    Ok(if findings == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The targets' names, and what they read.
fn list(program: &Path) -> Result<Vec<(String, String)>> {
    let output = Command::new(program).env_remove(TARGET).output();
    let output = output.with_context(|| format!("cannot start {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().filter_map(|line| line.split_once('\t'));
    Ok(lines.map(|(name, reads)| (name.to_owned(), reads.to_owned())).collect())
}

/// Builds the program, and returns its path.
async fn build(root: &Path, dir: &Path) -> Result<PathBuf> {
    let log = dir.join("build.log");
    let _ = fs::remove_file(&log);
    let spec = Spec::new(workspace::cargo())
        .args(["build", "--locked", "--profile", "fuzz", "--package", PACKAGE, "--features", "libfuzzer"])
        .args(["--target", TRIPLE, "--target-dir"])
        .arg(dir)
        .env("RUSTFLAGS", RUSTFLAGS)
        .dir(root)
        .log(&log);
    let build = async {
        let status = Process::start(&spec)?.exited().await?;
        if !status.success() {
            say(crate::process::tail(&log, 40)?);
            bail!("the build failed; see {}", log.display());
        }
        Ok(())
    };
    step("building the fuzz targets, which takes some minutes the first time", build).await?;
    Ok(dir.join(TRIPLE).join("fuzz").join(PACKAGE))
}

impl Fuzzer {
    fn corpus(&self, target: &str) -> PathBuf {
        self.root.join(CORPUS).join(target)
    }

    /// Runs one target.
    async fn target(&self, target: &str, options: &Options) -> Result<Summary> {
        let (grown, findings) =
            (self.dir.join("corpus").join(target), self.dir.join("findings").join(target));
        for dir in [&grown, &findings] {
            fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        let log = self.dir.join(format!("{target}.log"));
        let _ = fs::remove_file(&log);
        let spec = Spec::new(&self.program)
            .arg(format!("-max_total_time={}", options.time.as_secs().max(1)))
            .args(options.runs.map(|runs| format!("-runs={runs}")))
            .arg(format!("-timeout={}", INPUT_TIMEOUT.as_secs()))
            .arg(format!("-rss_limit_mb={MAX_MEMORY_MIB}"))
            .arg("-print_final_stats=1")
            .arg(format!("-artifact_prefix={}/", findings.display()))
            .args([&grown, &self.corpus(target)])
            .env(TARGET, target)
            .dir(&self.root)
            .log(&log);
        let run = async { Process::start(&spec)?.exited().await };
        let status = step(target, run).await?;
        let text = fs::read(&log).with_context(|| format!("cannot read {}", log.display()))?;
        let summary = Summary::read(&String::from_utf8_lossy(&text));
        match (&summary.finding, status.success()) {
            (None, false) => bail!("{target} ended with {status}; see {}", log.display()),
            (Some(input), _) => {
                let name = input.file_name().context("a finding without a name")?;
                fs::copy(input, self.corpus(target).join(name)).context("cannot copy the finding")?;
            }
            (None, true) if options.keep => self.merge(target, &grown).await?,
            (None, true) => {}
        }
        Ok(summary)
    }

    /// Adds to the corpus in the repository what reaches new code.
    async fn merge(&self, target: &str, grown: &Path) -> Result<()> {
        let log = self.dir.join(format!("{target}.merge.log"));
        let _ = fs::remove_file(&log);
        let spec = Spec::new(&self.program)
            // Not how often code is reached: that would be thousands of inputs.
            .args(["-set_cover_merge=1", "-use_counters=0"])
            .args([&self.corpus(target), grown])
            .env(TARGET, target)
            .dir(&self.root)
            .log(&log);
        let status = Process::start(&spec)?.exited().await?;
        if !status.success() {
            bail!("the corpus of {target} cannot be merged ({status}); see {}", log.display());
        }
        Ok(())
    }
}
