//! `cargo dev chart`: renders the Helm chart for each of its example values, and checks what comes out.
//!
//! There is no Kubernetes here. The objects are held against the schemas of its API, of the oldest release that the chart
//! supports and of the newest; the services themselves check their configuration.

mod configuration;
#[cfg(test)]
mod tests;
mod tools;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::ending::Endings;
use crate::process::{Process, Spec};
use crate::progress::{say, step};
use crate::services::Binaries;
use crate::{install, workspace};
use tools::Tools;

/// The releases of Kubernetes whose schemas are used.
const RELEASES: [&str; 2] = ["1.29", "1.37"];
/// The chart.
const CHART: &str = "deploy/helm/blackhole";
/// Findings of checkov that are accepted, each with its reason.
const ACCEPTED: &str = "deploy/helm/checkov.yaml";

/// The options of `cargo dev chart`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Do not build the services, which check the configuration that the chart makes
    #[arg(long)]
    pub without_services: bool,
}

/// Renders and checks. Stops at the first step that fails.
pub async fn run(options: Options) -> Result<ExitCode> {
    let mut endings = Endings::listen()?;
    tokio::select! {
        done = checks(&options) => done.map(|()| ExitCode::SUCCESS),
        ending = endings.next() => Ok(ending.exit_code()),
    }
}

async fn checks(options: &Options) -> Result<()> {
    let root = workspace::root()?;
    let dir = workspace::target_dir()?.join("chart");
    let rendered = dir.join("rendered");
    let _ = std::fs::remove_dir_all(&rendered);
    std::fs::create_dir_all(&rendered).with_context(|| format!("cannot create {}", rendered.display()))?;
    let tools = Tools::install(&dir).await?;
    let log = dir.join("step.log");
    let spec = |program: &Path| Spec::new(program).log(&log);
    let examples = examples(&root)?;
    let objects = |name: &str| rendered.join(format!("{name}.yaml"));

    let render = async {
        for (name, values) in &examples {
            let lint = spec(&tools.helm).args(["lint", "--strict", CHART, "--values"]).arg(values).dir(&root);
            succeeds(lint, name, &log).await?;
            let template = ["template", name, CHART, "--namespace", "voice", "--values"];
            let template = spec(&tools.helm).args(template).arg(values).dir(&root).stdout(objects(name));
            succeeds(template, name, &log).await?;
        }
        Ok(())
    };
    step(&format!("helm, for {} files of values", examples.len()), render).await?;
    for release in RELEASES {
        let validate = spec(&tools.kubernetes_validate).args(["--strict", "-k", release]);
        let validate = validate.args(examples.iter().map(|(name, _)| objects(name)));
        step(&format!("schemas of Kubernetes {release}"), succeeds(validate, release, &log)).await?;
    }
    let checkov = spec(&tools.checkov)
        .args(["--framework", "kubernetes", "--quiet", "--compact", "--skip-download", "--config-file"])
        .arg(root.join(ACCEPTED))
        .arg("--directory")
        .arg(&rendered);
    step("checkov", succeeds(checkov, ACCEPTED, &log)).await?;
    if !options.without_services {
        let binaries = Binaries::build(&dir).await?;
        install::ensure(&[install::OPENSSL], &dir).await?;
        let check = async {
            let files = configuration::files(&dir.join("etc"), &log).await?;
            for (name, _) in &examples {
                for (service, toml) in configuration::of(&std::fs::read_to_string(objects(name))?) {
                    let program = binaries.program(&service)?;
                    let file = rendered.join(format!("{name}-{service}.toml"));
                    std::fs::write(&file, toml.replace("/etc/blackhole", &files.display().to_string()))?;
                    let check = spec(program).args(["--check-config", "--config"]).arg(&file);
                    succeeds(check, name, &log).await?;
                }
            }
            Ok(())
        };
        step("configuration of the services", check).await?;
    }
    say(format_args!("all is well; the objects are in {}", rendered.display()));
    Ok(())
}

/// The example values, by name.
fn examples(root: &Path) -> Result<Vec<(String, PathBuf)>> {
    let dir = root.join(CHART).join("ci");
    let entries = std::fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut examples = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_stem().and_then(|stem| stem.to_str()).context("a name that is not UTF-8")?;
        examples.push((name.to_owned(), path.clone()));
    }
    examples.sort();
    Ok(examples)
}

/// Runs a program that writes to `log`, about `what`. The log is shown if it fails.
async fn succeeds(spec: Spec, what: &str, log: &Path) -> Result<()> {
    let _ = std::fs::remove_file(log);
    let status = Process::start(&spec)?.exited().await?;
    if !status.success() {
        say(std::fs::read_to_string(log).unwrap_or_default().trim_end());
        bail!("{}, {what}: {status}", spec.name());
    }
    Ok(())
}
