//! What a child runs: program, arguments, environment, and where its output goes.

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

/// Runs once the death signal is set. If the parent ended before that, the child must not continue.
const GUARD: &str = r#"test "$PPID" = "$0" && exec "$@""#;

/// Prefixes of environment variables that a child does not inherit. Services read their configuration from the
/// environment and must see only what the [`Spec`] sets. Variables that describe our own package would make a child
/// cargo rebuild some libraries (ring).
const WITHHELD_VARIABLES: [&str; 6] = [
    "BLACKHOLE_",
    "CARGO_MANIFEST_",
    "CARGO_PKG_",
    "CARGO_BIN_",
    "CARGO_CRATE_NAME",
    "CARGO_PRIMARY_PACKAGE",
];

/// What to run, and where its output goes.
#[derive(Clone, Debug)]
pub struct Spec {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    dir: Option<PathBuf>,
    stdout: Option<PathBuf>,
    stderr: Option<PathBuf>,
    death_signal: &'static str,
}

impl Spec {
    /// Runs `program`. Its output goes where ours goes, unless [`Spec::log`] is set.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            dir: None,
            stdout: None,
            stderr: None,
            death_signal: "KILL",
        }
    }

    /// Runs another program with the same arguments and environment.
    pub fn set_program(&mut self, program: impl Into<PathBuf>) {
        self.program = program.into();
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Sets the working directory.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Appends standard output and standard error to this file.
    pub fn log(mut self, file: impl Into<PathBuf>) -> Self {
        let file = file.into();
        self.stdout = Some(file.clone());
        self.stderr = Some(file);
        self
    }

    /// Appends the standard output to this file.
    pub fn stdout(mut self, file: impl Into<PathBuf>) -> Self {
        self.stdout = Some(file.into());
        self
    }

    /// Sends SIGINT instead of SIGKILL when this process ends: for programs that must not be interrupted halfway.
    pub fn interrupt_on_parent_death(mut self) -> Self {
        self.death_signal = "INT";
        self
    }

    /// The program's file name, for messages.
    pub fn name(&self) -> String {
        self.program.file_name().unwrap_or(self.program.as_os_str()).to_string_lossy().into_owned()
    }

    /// The file that gets its standard error, or else its standard output.
    pub(super) fn log_file(&self) -> Option<PathBuf> {
        self.stderr.clone().or_else(|| self.stdout.clone())
    }

    /// The command, wrapped so that it does not outlive this process.
    pub(super) fn command(&self) -> Result<Command> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", self.death_signal, "--", "sh", "-c", GUARD]);
        command.arg(std::process::id().to_string()).arg(&self.program).args(&self.args);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if WITHHELD_VARIABLES.iter().any(|prefix| text.starts_with(prefix)) {
                command.env_remove(&name);
            }
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command.stdin(Stdio::null());
        if let Some(file) = &self.stdout {
            command.stdout(append(file)?);
        }
        if let Some(file) = &self.stderr {
            command.stderr(append(file)?);
        }
        command.process_group(0);
        Ok(command)
    }
}

fn append(file: &Path) -> Result<Stdio> {
    let opened = OpenOptions::new().create(true).append(true).open(file);
    Ok(opened.with_context(|| format!("cannot open the log file {}", file.display()))?.into())
}
