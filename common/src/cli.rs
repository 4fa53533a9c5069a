//! Command line flags shared by the services.

use std::{
    fmt::Display,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use thiserror::Error;

use crate::config::{self, ConfigError, Configuration, Loaded, UnknownKeys};

/// A service that does not answer in this time is not ready.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);

/// `--config`, `--check-config`, `--print-config`, `--check-health`.
#[derive(Clone, Debug, Args)]
pub struct ConfigArgs {
    /// TOML file with the configuration; variables such as BLACKHOLE_LOG__FILTER override it
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Check the configuration and exit; unlike at a start, unknown keys are errors
    #[arg(long)]
    pub check_config: bool,
    /// Print the effective configuration, without secrets, and exit
    #[arg(long, conflicts_with = "check_config")]
    pub print_config: bool,
    /// Ask the service running at admin.listen whether it is ready; exit code 0 if so
    #[arg(long, conflicts_with_all = ["check_config", "print_config"])]
    pub check_health: bool,
}

/// Why a program exits early.
#[derive(Debug, Error)]
pub enum CliError {
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The service is not ready or not running.
    #[error("not ready: {0}")]
    NotReady(String),
}

/// Ends a program. An error is printed to standard error on one line, with its causes, and the exit code is 1.
pub fn finish(program: &str, result: Result<ExitCode, impl Display>) -> ExitCode {
    result.unwrap_or_else(|error| {
        // With anyhow, `{:#}` prints the chain of causes on one line.
        let _ = writeln!(std::io::stderr(), "{program}: {error:#}");
        ExitCode::FAILURE
    })
}

impl ConfigArgs {
    /// The effective configuration, or `None` if a flag asked only to check or print and the program should exit.
    ///
    /// # Errors
    /// The first configuration mistake, on one line; with `--check-health`, what the service waits for.
    pub fn load<C: Configuration>(&self) -> Result<Option<Loaded<C>>, CliError> {
        let mut out = std::io::stdout();
        if self.check_health {
            let config: C = config::read(self.file().as_deref())?;
            let listen = config.admin().ok_or_else(|| CliError::NotReady("no admin server".to_owned()))?;
            let answer = ready(listen).map_err(|error| CliError::NotReady(error.to_string()))?;
            let _ = writeln!(out, "{answer}");
            return if answer == "ready" { Ok(None) } else { Err(CliError::NotReady(answer)) };
        }
        let unknown = if self.check_config { UnknownKeys::Refuse } else { UnknownKeys::Ignore };
        let loaded: Loaded<C> = config::load(self.file().as_deref(), unknown)?;
        if self.check_config || self.print_config {
            for ignored in &loaded.ignored {
                let _ = writeln!(std::io::stderr(), "{ignored}");
            }
        }
        if self.check_config {
            let _ = writeln!(out, "the configuration is good");
            return Ok(None);
        }
        if self.print_config {
            let _ = write!(out, "{}", toml::to_string(&loaded.config).unwrap_or_default());
            return Ok(None);
        }
        Ok(Some(loaded))
    }

    /// The effective configuration, for a command that does one thing and exits.
    ///
    /// # Errors
    /// The first mistake, on one line.
    pub fn read<C: Configuration>(&self) -> Result<C, ConfigError> {
        config::load(self.file().as_deref(), UnknownKeys::Ignore).map(|loaded| loaded.config)
    }

    fn file(&self) -> Option<PathBuf> {
        self.config.clone().or_else(|| std::env::var_os("BLACKHOLE_CONFIG").map(PathBuf::from))
    }
}

/// The last line of `/health/ready`. Container images have no other HTTP client.
fn ready(listen: SocketAddr) -> std::io::Result<String> {
    // A wildcard address is reachable on localhost, and takes IPv4 in any case.
    let host = if listen.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { listen.ip() };
    let address = SocketAddr::from((host, listen.port()));
    let mut stream = TcpStream::connect_timeout(&address, HEALTH_TIMEOUT)?;
    stream.set_read_timeout(Some(HEALTH_TIMEOUT))?;
    stream.write_all(b"GET /health/ready HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(4096).read_to_string(&mut answer)?;
    Ok(answer.lines().last().unwrap_or_default().to_owned())
}
