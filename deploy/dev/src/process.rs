//! A supervised child process: its output goes to a log file, and it never outlives this process.
//!
//! - It runs under `setpriv --pdeathsig KILL`: the kernel kills it when this process ends, even by `kill -9`. The death
//!   signal is tied to the *thread* that forked, so one thread that lives as long as the process forks all children.
//! - It leads its own process group. A Ctrl-C in a terminal goes to the foreground group and would otherwise end the
//!   brokers before the services that still need them.
//! - When it ends, the rest of its group is killed before it is reaped, while nobody else can have its process id.

mod spec;

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
pub use nix::sys::signal::Signal;
use nix::sys::signal::{kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
pub use spec::Spec;
use tokio::sync::watch;

/// How much of the end of a log is read for an error message.
const TAIL_BYTES: u64 = 16 * 1024;

/// A running child. Dropping it kills the child and its process group.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    log: Option<PathBuf>,
    life: Arc<Life>,
}

/// State shared by a [`Process`] and the thread that waits for the child.
#[derive(Debug)]
struct Life {
    /// True until the child is reaped. Locked while signalling, so that no signal goes to a reused process id.
    unreaped: Mutex<bool>,
    ended: watch::Sender<Option<ExitStatus>>,
}

impl Process {
    /// Starts it.
    pub fn start(spec: &Spec) -> Result<Self> {
        let name = spec.name();
        let child = spawn(spec.command()?)
            .with_context(|| format!("cannot start {name} (this needs setpriv from util-linux)"))?;
        let pid = Pid::from_raw(i32::try_from(child.id()).context("a process id that does not fit i32")?);
        let life = Arc::new(Life { unreaped: Mutex::new(true), ended: watch::Sender::new(None) });
        let theirs = life.clone();
        std::thread::Builder::new()
            .name(format!("wait {name}"))
            .spawn(move || reap(pid, child, &theirs))
            .context("cannot start a thread")?;
        Ok(Self { name, pid, log: spec.log_file(), life })
    }

    /// Its process id.
    pub fn id(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Its program's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its exit status; none while it runs.
    pub fn status(&self) -> Option<ExitStatus> {
        *self.life.ended.borrow()
    }

    /// Waits until it has ended.
    pub async fn exited(&self) -> Result<ExitStatus> {
        let mut ended = self.life.ended.subscribe();
        let status = ended.wait_for(Option::is_some).await.map(|status| *status);
        status.ok().flatten().ok_or_else(|| anyhow!("the exit status of {} is unknown", self.name))
    }

    /// Sends a signal to the child, not to its group. Does nothing if the child has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let unreaped = lock(&self.life.unreaped);
        if *unreaped {
            kill(self.pid, signal).with_context(|| format!("cannot signal {}", self.name))?;
        }
        Ok(())
    }

    /// Freezes it (SIGSTOP): it keeps its ports and connections, but does not answer.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Continues it after [`Process::pause`].
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Kills it and its group (SIGKILL) and waits for its end.
    pub async fn kill(&self) -> Result<ExitStatus> {
        self.kill_group();
        self.exited().await
    }

    /// Asks it to end (SIGTERM), kills it after `grace`, and waits for its end.
    pub async fn stop(&self, grace: Duration) -> Result<ExitStatus> {
        self.end_by(Signal::SIGTERM, grace).await
    }

    /// As [`Process::stop`], with another signal than SIGTERM.
    pub async fn end_by(&self, signal: Signal, grace: Duration) -> Result<ExitStatus> {
        self.signal(signal)?;
        self.resume()?;
        match tokio::time::timeout(grace, self.exited()).await {
            Ok(status) => status,
            Err(_) => self.kill().await,
        }
    }

    /// The last lines of its log, for an error message.
    pub fn log_tail(&self, lines: usize) -> String {
        let Some(path) = &self.log else { return String::new() };
        let tail = tail(path, lines).unwrap_or_default();
        format!("the end of {}:\n{tail}", path.display())
    }

    fn kill_group(&self) {
        let unreaped = lock(&self.life.unreaped);
        if *unreaped {
            // The group exists since the fork, so this always reaches the child.
            let _ = killpg(self.pid, Signal::SIGKILL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_group();
        // Its ports and data directories are free only after its end, which takes milliseconds.
        let until = Instant::now() + Duration::from_secs(2);
        while *lock(&self.life.unreaped) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn lock(unreaped: &Mutex<bool>) -> MutexGuard<'_, bool> {
    unreaped.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for the child's end without reaping it, so that its group id stays valid while the rest is killed.
fn reap(pid: Pid, mut child: Child, life: &Life) {
    while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
    let mut unreaped = lock(&life.unreaped);
    let _ = killpg(pid, Signal::SIGKILL);
    let status = child.wait().ok();
    *unreaped = false;
    drop(unreaped);
    life.ended.send_replace(status);
}

type Order = (Command, SyncSender<std::io::Result<Child>>);

/// Forks on the thread that lives as long as this process.
fn spawn(command: Command) -> Result<Child> {
    static SPAWNER: OnceLock<std::io::Result<SyncSender<Order>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, orders) = sync_channel::<Order>(0);
        let work = move || {
            for (mut command, reply) in orders {
                let _ = reply.send(command.spawn());
            }
        };
        std::thread::Builder::new().name("spawner".into()).spawn(work)?;
        Ok(sender)
    });
    let spawner = spawner.as_ref().map_err(|error| anyhow!("cannot start a thread: {error}"))?;
    let (reply, child) = sync_channel(1);
    spawner.send((command, reply)).map_err(|_| anyhow!("the spawning thread has ended"))?;
    Ok(child.recv().context("the spawning thread has ended")??)
}

/// The last `lines` lines of a file.
pub fn tail(path: &Path, lines: usize) -> Result<String> {
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut last: Vec<&str> = text.lines().rev().take(lines).collect();
    last.reverse();
    Ok(last.join("\n"))
}

#[cfg(test)]
mod tests;
