//! The three services: built by cargo, and started as child processes with their configuration in the environment.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::process::{Process, Spec, tail};
use crate::server::{Ready, Server};
use crate::{http, ports, workspace};

const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// The paths of the services' programs.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// `amqp-ingest`.
    pub amqp_ingest: PathBuf,
    /// `auth-svc`.
    pub auth_svc: PathBuf,
    /// `ws-edge`.
    pub ws_edge: PathBuf,
}

/// A line of cargo's JSON output. Only the lines about programs matter.
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
    /// Builds them in the profile of this program, showing cargo's progress on the terminal.
    ///
    /// cargo's JSON output goes to a file in `dir`.
    pub async fn build(dir: &Path) -> Result<Self> {
        Self::of_list(&build(&workspace::root()?, None, dir, &SERVICES, !cfg!(debug_assertions)).await?)
    }

    /// As [`Binaries::build`], of another work tree of the repository, with a target directory of its own.
    pub async fn build_tree(tree: &Path, dir: &Path) -> Result<Self> {
        let target = tree.join("target");
        Self::of_list(&build(tree, Some(&target), dir, &SERVICES, !cfg!(debug_assertions)).await?)
    }

    fn of_list(list: &str) -> Result<Self> {
        let built = |name: &str| executable(list, name).with_context(|| format!("cargo built no {name}"));
        Ok(Self {
            amqp_ingest: built("amqp-ingest")?,
            auth_svc: built("auth-svc")?,
            ws_edge: built("ws-edge")?,
        })
    }

    /// Builds them and another program of the workspace into the same directory. Returns the path of that program.
    pub async fn build_with(dir: &Path, program: &str, release: bool) -> Result<PathBuf> {
        let list =
            build(&workspace::root()?, None, dir, &[&SERVICES[..], &[program]].concat(), release).await?;
        executable(&list, program).with_context(|| format!("cargo built no {program}"))
    }

    /// The program of a service.
    pub fn program(&self, service: &str) -> Result<&Path> {
        match service {
            "amqp-ingest" => Ok(&self.amqp_ingest),
            "auth-svc" => Ok(&self.auth_svc),
            "ws-edge" => Ok(&self.ws_edge),
            _ => bail!("there is no service {service}"),
        }
    }

    /// The programs in a directory, as cargo builds them.
    pub fn in_dir(dir: &Path) -> Result<Self> {
        let program = |name: &str| {
            let file = dir.join(name);
            if !file.is_file() {
                bail!("{} is missing: start this with `cargo dev`", file.display());
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

/// Builds programs of a work tree with cargo, and returns its JSON output.
async fn build(
    tree: &Path,
    target: Option<&Path>,
    dir: &Path,
    programs: &[&str],
    release: bool,
) -> Result<String> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let list = dir.join("artifacts.json");
    let _ = std::fs::remove_file(&list);
    // Selecting programs instead of packages builds libraries with the same features as the tests do, so they are not
    // built twice.
    let spec = Spec::new(workspace::cargo())
        .args(["build", "--message-format=json-render-diagnostics"])
        .args(programs.iter().flat_map(|program| ["--bin", program]))
        .args(release.then_some("--release"))
        .dir(tree)
        .stdout(&list);
    let spec = target.into_iter().fold(spec, |spec, target| spec.env("CARGO_TARGET_DIR", target));
    let status = Process::start(&spec)?.exited().await?;
    if !status.success() {
        bail!("cargo could not build {} ({status})", programs.join(", "));
    }
    std::fs::read_to_string(&list).context("cargo wrote no list of programs")
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
    /// Starts `program` and waits until it reports that it is ready.
    ///
    /// `env` has variable names without `BLACKHOLE_`, such as `NATS__URL`. A free admin port is chosen. The log is
    /// `<name>.log` in `dir`.
    pub async fn start(name: &str, program: &Path, dir: &Path, env: &[(&str, String)]) -> Result<Self> {
        let service = Self::start_unready(name, program, dir, env).await?;
        service.server.wait_ready().await?;
        Ok(service)
    }

    /// As [`Service::start`], without waiting for readiness: the brokers may not run yet.
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
        let server = Server::new(name, spec, ready, READY_TIMEOUT);
        server.start_unready()?;
        Ok(Self { server, admin })
    }

    /// The process, to be killed, frozen, stopped and started.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// `host:port` of its admin port: health checks and metrics.
    pub fn admin(&self) -> &str {
        &self.admin
    }

    /// Its metrics, as text.
    pub async fn metrics(&self) -> Result<String> {
        Ok(http::get(&self.admin, "/metrics").await?.body)
    }
}

/// Runs a subcommand of a service, such as `auth-svc token`, and returns its output.
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
    fn the_path_of_a_program_is_found_in_cargos_output() {
        let text = "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"ws-edge\"},\"executable\":null}\n\
                    no json\n\
                    {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"ws-edge\"},\"executable\":\"/t/ws-edge\"}\n\
                    {\"reason\":\"build-finished\",\"success\":true}\n";
        assert_eq!(executable(text, "ws-edge").as_deref(), Some(Path::new("/t/ws-edge")));
        assert_eq!(executable(text, "auth-svc"), None);
    }
}
