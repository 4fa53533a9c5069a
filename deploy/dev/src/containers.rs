//! `cargo dev containers`: builds the images, starts deploy/compose.yaml, and tests it from outside.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::process::{Process, Spec};
use crate::progress::say;
use crate::workspace::RunDir;
use crate::{test, workspace};

/// The compose project, apart from the one that an operator runs.
const PROJECT: &str = "blackhole-test";

const TEST: &str = "containers::containers_are_scaled_and_replaced_without_a_lost_event";

/// What compose.yaml needs of `deploy/`.
const FILES: [&str; 7] = [
    "compose.yaml",
    "prepare.sh",
    ".env.example",
    "dev/accounts.toml",
    "haproxy/haproxy.cfg",
    "nats/nats.conf",
    "nats/permissions.conf",
];

/// The options of `cargo dev containers`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Use the images that are there, instead of building them
    #[arg(long)]
    pub no_build: bool,
    /// The version of the images
    #[arg(long, value_name = "VERSION", default_value = env!("CARGO_PKG_VERSION"))]
    pub version: String,
    /// Leave the containers running
    #[arg(long)]
    pub keep: bool,
}

/// Runs it. The exit code is that of the test.
pub async fn run(options: Options) -> Result<ExitCode> {
    let run = RunDir::create("containers")?;
    let dir = prepared(&run).await?;
    let compose = Compose { dir: dir.clone(), version: options.version.clone() };
    if !options.no_build {
        say("building the images");
        // The context is the directory above compose.yaml.
        let own = workspace::root()?.join("deploy/compose.yaml");
        compose.run(&own, &["build"]).await?;
    }
    let file = dir.join("compose.yaml");
    say("starting the containers");
    let tested = async {
        compose.run(&file, &["up", "-d", "--no-build", "--wait"]).await?;
        let env = vec![
            ("CONTAINERS_DIR", dir.display().to_string()),
            ("CONTAINERS_VERSION", options.version.clone()),
        ];
        let args =
            ["-p", "blackhole-tests", "--test", "it", "--", "--exact", TEST, "--ignored", "--nocapture"];
        test::run_with(args.map(str::to_owned).to_vec(), env).await
    };
    let code = tested.await;
    if options.keep {
        say(format_args!("left running: docker compose -f {} down -v", file.display()));
        return code;
    }
    if !matches!(code, Ok(code) if code == ExitCode::SUCCESS) {
        compose.run(&file, &["logs", "--tail", "40"]).await?;
    }
    compose.run(&file, &["down", "-v", "--timeout", "5"]).await?;
    run.remove()?;
    code
}

/// A copy of `deploy/` with secrets and a certificate of its own.
async fn prepared(run: &RunDir) -> Result<PathBuf> {
    let (from, to) = (workspace::root()?.join("deploy"), run.subdir("deploy")?);
    for file in FILES {
        let (from, to) = (from.join(file), to.join(file));
        std::fs::create_dir_all(to.parent().context("a file without a directory")?)?;
        std::fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    let status = Process::start(&Spec::new(to.join("prepare.sh")))?.exited().await?;
    if !status.success() {
        bail!("prepare.sh failed ({status})");
    }
    Ok(to)
}

/// The compose project of a copy of `deploy/`.
struct Compose {
    dir: PathBuf,
    version: String,
}

impl Compose {
    async fn run(&self, file: &Path, args: &[&str]) -> Result<()> {
        let spec = Spec::new("docker")
            .args(["compose", "--env-file"])
            .arg(self.dir.join(".env"))
            .arg("-f")
            .arg(file)
            .args(args)
            .env("COMPOSE_PROJECT_NAME", PROJECT)
            .env("VERSION", &self.version);
        let status = Process::start(&spec)?.exited().await?;
        if !status.success() {
            bail!("docker compose {} failed ({status})", args.join(" "));
        }
        Ok(())
    }
}
