//! The flags that every binary has.

use std::{fmt::Display, io::Write, path::PathBuf, process::ExitCode};

use clap::Args;

use crate::config::{self, ConfigError, Configuration};

/// `--config`, `--check-config`, `--print-config`.
#[derive(Clone, Debug, Args)]
pub struct ConfigArgs {
    /// TOML file with the configuration; BLACKHOLE_<TABLE>__<KEY> variables override it
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Check the configuration and exit
    #[arg(long)]
    pub check_config: bool,
    /// Print the configuration in force, without secrets, and exit
    #[arg(long, conflicts_with = "check_config")]
    pub print_config: bool,
}

/// How a program ends: a failure is one line on standard error, the causes included, and exit code 1.
pub fn finish(program: &str, done: Result<ExitCode, impl Display>) -> ExitCode {
    done.unwrap_or_else(|error| {
        // `{:#}`: with anyhow, the whole chain in one line.
        let _ = writeln!(std::io::stderr(), "{program}: {error:#}");
        ExitCode::FAILURE
    })
}

impl ConfigArgs {
    /// The configuration in force; `None` when `--check-config` or `--print-config` was all that was asked for.
    ///
    /// # Errors
    /// The first mistake, in one line.
    pub fn load<C: Configuration>(&self) -> Result<Option<C>, ConfigError> {
        let config: C = self.read()?;
        let mut out = std::io::stdout();
        if self.check_config {
            let _ = writeln!(out, "the configuration is good");
            return Ok(None);
        }
        if self.print_config {
            let _ = write!(out, "{}", toml::to_string(&config).unwrap_or_default());
            return Ok(None);
        }
        Ok(Some(config))
    }

    /// The configuration in force.
    ///
    /// # Errors
    /// The first mistake, in one line.
    pub fn read<C: Configuration>(&self) -> Result<C, ConfigError> {
        let file = self.config.clone().or_else(|| std::env::var_os("BLACKHOLE_CONFIG").map(PathBuf::from));
        config::load(file.as_deref())
    }
}
