//! Finds the programs that this crate starts, and installs the Debian packages of missing ones.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::{Process, Signal, Spec, tail};
use crate::progress::{say, step};

mod units;

/// A program and the Debian package that contains it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tool {
    /// The program's file name.
    pub program: &'static str,
    /// The Debian package.
    pub package: &'static str,
    /// Directories to search before those of `PATH`.
    dirs: &'static [&'static str],
    /// systemd units that installing the package would start.
    units: &'static [&'static str],
}

const SBIN: &[&str] = &["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// The NATS server.
pub const NATS_SERVER: Tool =
    Tool { program: "nats-server", package: "nats-server", dirs: SBIN, units: &["nats-server.service"] };

/// The RabbitMQ server. The script of the same name in `/usr/sbin` would switch the user.
pub const RABBITMQ_SERVER: Tool = Tool {
    program: "rabbitmq-server",
    package: "rabbitmq-server",
    dirs: &["/usr/lib/rabbitmq/bin"],
    units: &["rabbitmq-server.service", "epmd.service", "epmd.socket"],
};

/// Erlang's port mapper, which RabbitMQ needs.
pub const EPMD: Tool =
    Tool { program: "epmd", package: "erlang-base", dirs: &[], units: &["epmd.service", "epmd.socket"] };

/// The browser for the tests.
pub const CHROMIUM: Tool = Tool { program: "chromium", package: "chromium", dirs: &[], units: &[] };

/// Chromium's WebDriver.
pub const CHROMEDRIVER: Tool =
    Tool { program: "chromedriver", package: "chromium-driver", dirs: &[], units: &[] };

/// The proxy for the tests.
pub const HAPROXY: Tool =
    Tool { program: "haproxy", package: "haproxy", dirs: SBIN, units: &["haproxy.service"] };

/// Creates certificates for the tests.
pub const OPENSSL: Tool = Tool { program: "openssl", package: "openssl", dirs: &[], units: &[] };

/// For the commands of the documentation that use it.
pub const JQ: Tool = Tool { program: "jq", package: "jq", dirs: &[], units: &[] };

/// Another proxy.
pub const CADDY: Tool = Tool { program: "caddy", package: "caddy", dirs: &[], units: &["caddy.service"] };

/// nginx, for the tests and the benchmarks.
pub const NGINX: Tool = Tool { program: "nginx", package: "nginx", dirs: SBIN, units: &["nginx.service"] };

/// nchan, a module of nginx.
pub const NCHAN: Tool = Tool {
    program: "ngx_nchan_module.so",
    package: "libnginx-mod-nchan",
    dirs: &["/usr/lib/nginx/modules"],
    units: &["nginx.service"],
};

/// Runs the Node bridge of the benchmarks, and the JavaScript client in its tests.
pub const NODE: Tool = Tool { program: "node", package: "nodejs", dirs: &[], units: &[] };

/// Installs the libraries of the Node bridge and of the tests of the JavaScript client. Node from elsewhere than Debian usually includes npm.
pub const NPM: Tool = Tool { program: "npm", package: "npm", dirs: &[], units: &[] };

/// Runs the Python client in its tests.
pub const PYTHON: Tool = Tool { program: "python3", package: "python3", dirs: &[], units: &[] };

/// Installs what that needs.
pub const PIP: Tool = Tool { program: "pip3", package: "python3-pip", dirs: &[], units: &[] };

/// Checks alerts. The package has the Prometheus server, too.
pub const PROMTOOL: Tool =
    Tool { program: "promtool", package: "prometheus", dirs: &[], units: &["prometheus.service"] };

/// Looks at metrics, and fires alerts.
pub const PROMETHEUS: Tool = Tool { program: "prometheus", ..PROMTOOL };

/// Counts the instructions of the hot functions.
pub const VALGRIND: Tool = Tool { program: "valgrind", package: "valgrind", dirs: &[], units: &[] };

/// What `cargo dev bench` needs for other servers. It skips those that cannot be installed.
pub const FOR_RIVALS: &[Tool] = &[NGINX, NCHAN, NODE, NPM];

/// What `cargo dev bench --instructions` needs.
pub const FOR_INSTRUCTIONS: &[Tool] = &[VALGRIND];

/// What `cargo dev up` needs.
pub const FOR_UP: &[Tool] = &[NATS_SERVER, RABBITMQ_SERVER, EPMD];

/// What the tests need.
pub const FOR_TESTS: &[Tool] = &[
    NATS_SERVER,
    RABBITMQ_SERVER,
    EPMD,
    CHROMIUM,
    CHROMEDRIVER,
    HAPROXY,
    NGINX,
    CADDY,
    OPENSSL,
    JQ,
    NODE,
    NPM,
    PYTHON,
    PIP,
    PROMETHEUS,
];

/// The path of a program. If it is missing, the error says what to install.
pub fn find(tool: Tool) -> Result<PathBuf> {
    locate(tool).with_context(|| format!("{} is missing; {}", tool.program, advice(&[tool])))
}

/// `DEV_NATS_SERVER`, for instance, names another nats-server than the installed one.
fn locate(tool: Tool) -> Option<PathBuf> {
    let variable = format!("DEV_{}", tool.program.to_uppercase().replace('-', "_"));
    if let Some(file) = std::env::var_os(variable) {
        return Some(file.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = tool.dirs.iter().map(PathBuf::from);
    own.chain(std::env::split_paths(&path)).map(|dir| dir.join(tool.program)).find(|file| file.is_file())
}

fn packages(tools: &[Tool]) -> Vec<&'static str> {
    let mut packages: Vec<_> = tools.iter().map(|tool| tool.package).collect();
    packages.dedup();
    packages
}

fn advice(tools: &[Tool]) -> String {
    format!("on Debian: apt-get install {}", packages(tools).join(" "))
}

/// Installs the missing ones, as root or with a passwordless sudo. The output of apt goes to `log_dir`.
pub async fn ensure(tools: &[Tool], log_dir: &Path) -> Result<()> {
    let missing: Vec<Tool> = tools.iter().copied().filter(|tool| locate(*tool).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|tool| tool.program).collect();
    say(format_args!("missing: {}", names.join(", ")));
    let Some(apt) = Apt::new(log_dir) else {
        bail!(
            "cannot install {} (needs apt-get, and root or passwordless sudo); {}",
            names.join(", "),
            advice(&missing)
        );
    };
    apt.install(&missing)
        .await
        .with_context(|| format!("cannot install {}; {}", names.join(", "), advice(&missing)))?;
    for tool in missing {
        find(tool)?;
    }
    Ok(())
}

/// apt-get, run as root or through sudo.
struct Apt {
    sudo: bool,
    log: PathBuf,
}

impl Apt {
    fn new(log_dir: &Path) -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).find(|dir| dir.join("apt-get").is_file())?;
        let root = nix::unistd::geteuid().is_root();
        let log = log_dir.join("apt.log");
        (root || succeeds("sudo", &["-n", "true"])).then_some(Self { sudo: !root, log })
    }

    async fn install(&self, tools: &[Tool]) -> Result<()> {
        let units: Vec<_> = tools.iter().flat_map(|tool| tool.units).copied().collect();
        let masked = units::MaskedUnits::new(&units, self.sudo);
        let result = self.install_packages(&packages(tools)).await;
        masked.release(result.is_ok());
        result
    }

    async fn install_packages(&self, packages: &[&str]) -> Result<()> {
        let install = ["install", "--yes", "--no-install-recommends", "--quiet"];
        let args: Vec<&str> = install.iter().chain(packages).copied().collect();
        let known = packages.iter().all(|package| has_candidate(package));
        let what = format!("installing {}", packages.join(", "));
        // Outdated package lists may name files that no longer exist, so retry a failed install after an update.
        if known && step(&what, self.run(&args)).await.is_ok() {
            return Ok(());
        }
        step("updating the package lists", self.run(&["update", "--quiet"])).await?;
        step(&what, self.run(&args)).await
    }

    async fn run(&self, args: &[&str]) -> Result<()> {
        let settings =
            ["DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get", "-o", "DPkg::Lock::Timeout=300"];
        let spec = if self.sudo { Spec::new("sudo").args(["-n", "env"]) } else { Spec::new("env") };
        let spec = spec.args(settings).args(args).log(&self.log).interrupt_on_parent_death();
        let apt = RunningApt(Process::start(&spec)?);
        let status = apt.0.exited().await?;
        if !status.success() {
            bail!("apt-get {} failed ({status}):\n{}", args.join(" "), tail(&self.log, 15)?);
        }
        Ok(())
    }
}

/// apt-get while it runs. Killing it would leave packages half configured: dropping this interrupts it and waits until
/// it has finished the current package.
struct RunningApt(Process);

impl Drop for RunningApt {
    fn drop(&mut self) {
        if self.0.status().is_some() {
            return;
        }
        // Under sudo the signal may not be permitted; wait all the same.
        let _ = self.0.signal(Signal::SIGINT);
        say("waiting for apt-get to finish");
        while self.0.status().is_none() {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn has_candidate(package: &str) -> bool {
    let policy = Command::new("apt-cache").args(["policy", package]).env("LC_ALL", "C").output();
    policy.is_ok_and(|output| names_candidate(&String::from_utf8_lossy(&output.stdout)))
}

/// Whether the output of `apt-cache policy` has a version to install.
fn names_candidate(policy: &str) -> bool {
    policy.contains("Candidate:") && !policy.contains("Candidate: (none)")
}

fn succeeds(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABSENT: Tool =
        Tool { program: "no-such-program", package: "no-such-package", dirs: SBIN, units: &[] };

    #[test]
    fn a_program_is_found_outside_of_path() {
        let setpriv = Tool { program: "setpriv", package: "util-linux", dirs: &["/usr/bin"], units: &[] };
        assert_eq!(find(setpriv).unwrap(), Path::new("/usr/bin/setpriv"));
    }

    #[test]
    fn the_error_for_a_missing_program_names_its_package() {
        let error = find(ABSENT).unwrap_err();
        let text = "no-such-program is missing; on Debian: apt-get install no-such-package";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn only_a_package_with_a_candidate_can_be_installed() {
        assert!(names_candidate("jq:\n  Installed: (none)\n  Candidate: 1.6-2.1\n  Version table:\n"));
        assert!(!names_candidate("rabbitmq:\n  Installed: (none)\n  Candidate: (none)\n  Version table:\n"));
        assert!(!names_candidate(""));
    }
}
