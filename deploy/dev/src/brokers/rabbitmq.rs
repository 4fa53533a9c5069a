//! A RabbitMQ broker with its own epmd.
//!
//! Erlang starts its port mapper, epmd, as a machine-wide daemon that outlives the broker. Here epmd is a child process
//! on a private port, and Erlang is configured not to start one.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::process::Spec;
use crate::server::{Ready, Server};
use crate::{install, ports};

/// Starting takes 3 to 8 seconds on two idle cores.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
const CTL_TIMEOUT: Duration = Duration::from_secs(60);

/// Two schedulers and few threads, to leave the machine to the tests. A shell splits this text, so it must not contain
/// wildcards.
const ERLANG: &str = "+S 2:2 +SDio 4 -kernel inet_dist_use_interface {127,0,0,1}";

/// For rabbitmqctl: no listener, and one core at most.
const CTL_ERLANG: &str = "+S 1:1 -dist_listen false";

const CONFIG: &str = "vm_memory_high_watermark.absolute = 1GB\n\
                      disk_free_limit.absolute = 50MB\n\
                      log.console.level = warning\n";

/// A RabbitMQ broker. It keeps its port and data when [`RabbitMq::server`] is stopped, killed or restarted.
#[derive(Debug)]
pub struct RabbitMq {
    // Dropped before epmd, which it needs.
    server: Server,
    epmd: Server,
    port: u16,
    ctl: PathBuf,
    env: Vec<(&'static str, String)>,
}

impl RabbitMq {
    /// Starts a broker with its configuration, data and logs below `dir`, and waits until it is ready.
    pub async fn start(dir: &Path) -> Result<Self> {
        Self::with_config(dir, "").await
    }

    /// As [`RabbitMq::start`], with additional lines in its configuration file.
    pub async fn with_config(dir: &Path, more: &str) -> Result<Self> {
        Self::with_plugins(dir, &[], more).await
    }

    /// As [`RabbitMq::with_config`], with these plugins enabled.
    pub async fn with_plugins(dir: &Path, plugins: &[&str], more: &str) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let program = install::find(install::RABBITMQ_SERVER)?;
        let (port, epmd_port) = (ports::free()?, ports::free()?);
        let config = format!("listeners.tcp.1 = 127.0.0.1:{port}\n{CONFIG}{more}\n");
        write_files(dir, &config, plugins).with_context(|| format!("cannot write to {}", dir.display()))?;
        let env = environment(dir, port, epmd_port)?;

        let spec = Spec::new(install::find(install::EPMD)?).log(dir.join("epmd.log"));
        let spec = env.iter().fold(spec, |spec, (name, value)| spec.env(name, value));
        let ready = Ready::Port(([127, 0, 0, 1], epmd_port).into());
        let epmd = Server::start("epmd", spec, ready, Duration::from_secs(10)).await?;

        let spec = Spec::new(&program).dir(dir).log(dir.join("rabbitmq.log"));
        let spec = env.iter().fold(spec, |spec, (name, value)| spec.env(name, value));
        let server = Server::start("rabbitmq-server", spec, Ready::Amqp(url(port)), READY_TIMEOUT).await?;
        Ok(Self { server, epmd, port, ctl: program.with_file_name("rabbitmqctl"), env })
    }

    /// The broker's process, to be killed, frozen, stopped and started.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Stops the broker gracefully, then its epmd.
    pub async fn stop(&self) -> Result<()> {
        let stopped = self.server.stop().await;
        self.epmd.kill().await?;
        stopped?;
        Ok(())
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        url(self.port)
    }

    /// The port of [`RabbitMq::url`].
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs `rabbitmqctl` and returns its output.
    pub async fn ctl(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.ctl);
        command.arg("--quiet").args(args).envs(self.env.iter().map(|(name, value)| (name, value)));
        let output = tokio::time::timeout(CTL_TIMEOUT, command.kill_on_drop(true).output());
        let output = output.await.context("rabbitmqctl timed out")?.context("cannot run rabbitmqctl")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("rabbitmqctl {} failed: {text}{}", args.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(text)
    }

    /// Makes the broker close all client connections.
    pub async fn close_all_connections(&self) -> Result<()> {
        self.ctl(&["close_all_connections", "test"]).await.map(drop)
    }

    /// The number of messages in each queue, unacknowledged ones included.
    pub async fn queues(&self) -> Result<Vec<(String, u64)>> {
        let text = self.ctl(&["list_queues", "--no-table-headers", "name", "messages"]).await?;
        let rows = text.lines().filter_map(|line| line.rsplit_once('\t'));
        rows.map(|(name, messages)| Ok((name.to_owned(), messages.trim().parse()?))).collect()
    }
}

fn url(port: u16) -> String {
    format!("amqp://guest:guest@127.0.0.1:{port}/%2f")
}

fn write_files(dir: &Path, config: &str, plugins: &[&str]) -> Result<()> {
    std::fs::write(dir.join("rabbitmq.conf"), config)?;
    // Empty, so that RabbitMQ does not read the machine's own files of these names.
    std::fs::write(dir.join("rabbitmq-env.conf"), "")?;
    std::fs::write(dir.join("advanced.config"), "[].\n")?;
    std::fs::write(dir.join("enabled_plugins"), format!("[{}].\n", plugins.join(",")))?;
    let cookie = dir.join(".erlang.cookie");
    if !cookie.exists() {
        let letters: String = (0..32).map(|_| char::from(rand::random_range(b'A'..=b'Z'))).collect();
        std::fs::write(&cookie, letters)?;
        std::fs::set_permissions(&cookie, Permissions::from_mode(0o400))?;
    }
    Ok(())
}

fn environment(dir: &Path, port: u16, epmd_port: u16) -> Result<Vec<(&'static str, String)>> {
    let below = |name: &str| dir.join(name).to_string_lossy().into_owned();
    Ok(vec![
        ("HOME", below("")),
        ("RABBITMQ_CONF_ENV_FILE", below("rabbitmq-env.conf")),
        ("RABBITMQ_CONFIG_FILE", below("rabbitmq.conf")),
        ("RABBITMQ_ADVANCED_CONFIG_FILE", below("advanced.config")),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", below("enabled_plugins")),
        ("RABBITMQ_MNESIA_BASE", below("data")),
        ("RABBITMQ_LOG_BASE", below("log")),
        ("RABBITMQ_LOGS", "-".into()),
        ("RABBITMQ_NODENAME", format!("blackhole-{port}@localhost")),
        ("RABBITMQ_DIST_PORT", ports::free()?.to_string()),
        ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", ERLANG.into()),
        ("RABBITMQ_CTL_ERL_ARGS", CTL_ERLANG.into()),
        ("ERL_EPMD_PORT", epmd_port.to_string()),
        ("ERL_EPMD_ADDRESS", "127.0.0.1".into()),
        ("ERL_FLAGS", "-start_epmd false".into()),
        ("ERL_CRASH_DUMP", below("erl_crash.dump")),
        // Makes the start script exec the broker, instead of staying its parent, which a signal would not reach.
        ("RUNNING_UNDER_SYSTEMD", "true".into()),
    ])
}
