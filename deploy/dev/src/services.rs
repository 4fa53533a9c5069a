//! The three services: built by cargo, and started as children with their configuration in the environment.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::process::{Process, Spec, tail};
use crate::server::{Ready, Server};
use crate::{http, ports, workspace};

const READY_WITHIN: Duration = Duration::from_secs(60);

/// Where the services' programs are.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// `amqp-ingest`.
    pub amqp_ingest: PathBuf,
    /// `auth-svc`.
    pub auth_svc: PathBuf,
    /// `ws-edge`.
    pub ws_edge: PathBuf,
}

/// What cargo tells about each thing that it built; only that of programs matters.
#[derive(Deserialize)]
struct Artifact {
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

impl Binaries {
    /// Builds them in the profile that this program was built in, with cargo's own progress on the terminal.
    ///
    /// `dir` is for cargo's list of what it built.
    pub async fn build(dir: &Path) -> Result<Self> {
        let list = build(dir, &SERVICES, !cfg!(debug_assertions)).await?;
        let built = |name: &str| executable(&list, name).with_context(|| format!("cargo built no {name}"));
        Ok(Self {
            amqp_ingest: built("amqp-ingest")?,
            auth_svc: built("auth-svc")?,
            ws_edge: built("ws-edge")?,
        })
    }

    /// Builds them and one more of our programs, beside each other; returns where that one is.
    pub async fn build_with(dir: &Path, program: &str, release: bool) -> Result<PathBuf> {
        let list = build(dir, &[&SERVICES[..], &[program]].concat(), release).await?;
        executable(&list, program).with_context(|| format!("cargo built no {program}"))
    }

    /// Those that lie in a directory, as cargo leaves them.
    pub fn in_dir(dir: &Path) -> Result<Self> {
        let program = |name: &str| {
            let file = dir.join(name);
            if !file.is_file() {
                bail!("{} is not there: run this by `cargo dev`", file.display());
            }
            Ok(file)
        };
        Ok(Self {
            amqp_ingest: program("amqp-ingest")?,
            auth_svc: program("auth-svc")?,
            ws_edge: program("ws-edge")?,
        })
    }
}

const SERVICES: [&str; 3] = ["amqp-ingest", "auth-svc", "ws-edge"];

/// Has cargo build programs; returns its list of what it built.
async fn build(dir: &Path, programs: &[&str], release: bool) -> Result<String> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let list = dir.join("artifacts.json");
    let _ = std::fs::remove_file(&list);
    // Chosen as programs of the whole workspace and not as packages, so that libraries are built with the features
    // that the tests build them with, and not once more.
    let spec = Spec::new(workspace::cargo())
        .args(["build", "--message-format=json-render-diagnostics"])
        .args(programs.iter().flat_map(|program| ["--bin", program]))
        .args(release.then_some("--release"))
        .dir(workspace::root()?)
        .stdout(&list);
    let status = Process::start(&spec)?.exited().await?;
    if !status.success() {
        bail!("cargo could not build {} ({status})", programs.join(", "));
    }
    std::fs::read_to_string(&list).context("cargo told nothing")
}

fn executable(artifacts: &str, name: &str) -> Option<PathBuf> {
    let all = artifacts.lines().filter_map(|line| serde_json::from_str::<Artifact>(line).ok());
    let mut ours = all.filter(|artifact| artifact.target.as_ref().is_some_and(|target| target.name == name));
    ours.find_map(|artifact| artifact.executable)
}

/// A running service.
#[derive(Debug)]
pub struct Service {
    server: Server,
    admin: String,
}

impl Service {
    /// Starts `program` and waits until it says that it is ready.
    ///
    /// `env` holds the part of variable names after `BLACKHOLE_`, as `NATS__URL`. The admin port is chosen here; the
    /// log goes to `dir`, named after `name`.
    pub async fn start(name: &str, program: &Path, dir: &Path, env: &[(&str, String)]) -> Result<Self> {
        let service = Self::start_unready(name, program, dir, env).await?;
        service.server.wait_ready().await?;
        Ok(service)
    }

    /// As [`Service::start`], without waiting: what it needs may not be there yet.
    pub async fn start_unready(
        name: &str,
        program: &Path,
        dir: &Path,
        env: &[(&str, String)],
    ) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let admin = format!("127.0.0.1:{}", ports::free()?);
        let spec = environment(Spec::new(program), env)
            .env("BLACKHOLE_ADMIN__LISTEN", &admin)
            .log(dir.join(format!("{name}.log")));
        let ready = Ready::Http(admin.clone(), "/health/ready".into());
        let server = Server::new(name, spec, ready, READY_WITHIN);
        server.start_unready()?;
        Ok(Self { server, admin })
    }

    /// The process, to kill, freeze, stop and start.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// `host:port` of its health checks and metrics.
    pub fn admin(&self) -> &str {
        &self.admin
    }

    /// Its metrics, as text.
    pub async fn metrics(&self) -> Result<String> {
        Ok(http::get(&self.admin, "/metrics").await?.body)
    }
}

/// Runs one of the services' other commands, as `auth-svc token`, and returns what it printed.
pub async fn run_command(
    program: &Path,
    args: &[&str],
    dir: &Path,
    env: &[(&str, String)],
) -> Result<String> {
    let file = dir.join("command.out");
    let _ = std::fs::remove_file(&file);
    let process = Process::start(&environment(Spec::new(program), env).args(args).stdout(&file))?;
    let status = process.exited().await?;
    if !status.success() {
        bail!("{} {} failed ({status}): {}", process.name(), args.join(" "), tail(&file, 10)?);
    }
    let text = std::fs::read_to_string(&file)?;
    std::fs::remove_file(&file)?;
    Ok(text.trim().to_owned())
}

fn environment(spec: Spec, env: &[(&str, String)]) -> Spec {
    env.iter().fold(spec, |spec, (name, value)| spec.env(format!("BLACKHOLE_{name}"), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_what_cargo_tells() {
        let text = "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"ws-edge\"},\"executable\":null}\n\
                    no json\n\
                    {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"ws-edge\"},\"executable\":\"/t/ws-edge\"}\n\
                    {\"reason\":\"build-finished\",\"success\":true}\n";
        assert_eq!(executable(text, "ws-edge").as_deref(), Some(Path::new("/t/ws-edge")));
        assert_eq!(executable(text, "auth-svc"), None);
    }
}
