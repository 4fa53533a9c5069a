//! A child process that serves connections: it can be started, awaited, stopped, and restarted at the same address.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::http;
use crate::process::{Process, Spec};

const POLL: Duration = Duration::from_millis(50);
/// A frozen server accepts connections but does not answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The services stop within 10 s.
const STOP_GRACE: Duration = Duration::from_secs(15);
const LOG_LINES: usize = 25;

/// How to check that a server is ready.
#[derive(Clone, Debug)]
pub enum Ready {
    /// It accepts connections.
    Port(SocketAddr),
    /// It sends the greeting of a NATS server, which comes only once JetStream is up.
    Nats(String),
    /// It accepts an AMQP connection.
    Amqp(String),
    /// It answers a GET request with status 200: `host:port` and path.
    Http(String, String),
}

impl Ready {
    /// Checks once.
    pub async fn check(&self) -> Result<()> {
        tokio::time::timeout(ANSWER_TIMEOUT, self.ask()).await.context("no answer within the timeout")?
    }

    async fn ask(&self) -> Result<()> {
        match self {
            Self::Port(address) => drop(TcpStream::connect(address).await?),
            Self::Nats(authority) => {
                let mut greeting = [0; 5];
                TcpStream::connect(authority).await?.read_exact(&mut greeting).await?;
                if &greeting != b"INFO " {
                    bail!("{authority} is not a NATS server");
                }
            }
            Self::Amqp(url) => {
                let connection =
                    lapin::Connection::connect(url, lapin::ConnectionProperties::default()).await?;
                connection.close(200, "ready".into()).await?;
            }
            Self::Http(authority, path) => {
                let response = http::get(authority, path).await?;
                if response.status != 200 {
                    bail!("http://{authority}{path} answers {}: {}", response.status, response.body.trim());
                }
            }
        }
        Ok(())
    }
}

/// A server. All methods take `&self`, so that tests can share it and still kill it.
#[derive(Debug)]
pub struct Server {
    name: String,
    spec: Mutex<Spec>,
    ready: Ready,
    ready_timeout: Duration,
    current: Mutex<Option<Arc<Process>>>,
}

impl Server {
    /// A server that is not started yet and has `ready_timeout` to become ready.
    pub fn new(name: &str, spec: Spec, ready: Ready, ready_timeout: Duration) -> Self {
        let spec = Mutex::new(spec);
        Self { name: name.to_owned(), spec, ready, ready_timeout, current: Mutex::new(None) }
    }

    /// Starts it and waits until it is ready.
    pub async fn start(name: &str, spec: Spec, ready: Ready, ready_timeout: Duration) -> Result<Self> {
        let server = Self::new(name, spec, ready, ready_timeout);
        server.start_again().await?;
        Ok(server)
    }

    /// Its name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process; an error while it is stopped.
    pub fn process(&self) -> Result<Arc<Process>> {
        self.current().clone().ok_or_else(|| anyhow!("{} is stopped", self.name))
    }

    /// Starts it after [`Server::stop`] or [`Server::kill`], with the same address and data.
    pub async fn start_again(&self) -> Result<()> {
        self.start_unready()?;
        self.wait_ready().await
    }

    /// As [`Server::start_again`], without waiting for readiness.
    pub fn start_unready(&self) -> Result<()> {
        let mut current = self.current();
        if current.as_ref().is_some_and(|process| process.status().is_none()) {
            bail!("{} is already running", self.name);
        }
        *current = Some(Arc::new(Process::start(&self.spec())?));
        Ok(())
    }

    /// Waits until it is ready. If it ends or takes too long, the error contains the end of its log.
    pub async fn wait_ready(&self) -> Result<()> {
        let process = self.process()?;
        let poll = async {
            loop {
                tokio::time::sleep(POLL).await;
                if self.ready.check().await.is_ok() {
                    return;
                }
            }
        };
        tokio::select! {
            () = poll => Ok(()),
            status = process.exited() => {
                bail!("{} ended before it was ready ({}); {}", self.name, status?, process.log_tail(LOG_LINES))
            }
            () = tokio::time::sleep(self.ready_timeout) => {
                bail!("{} is not ready after {:?}{}", self.name, self.ready_timeout, self.state().await)
            }
        }
    }

    /// Why it is not ready, in brackets, and the end of its log.
    pub async fn state(&self) -> String {
        let reason = self.ready.check().await.err().map_or_else(String::new, |error| format!(" ({error:#})"));
        let log = self.process().map(|process| process.log_tail(LOG_LINES)).unwrap_or_default();
        format!("{reason}; {log}")
    }

    /// Whether it is ready now.
    pub async fn is_ready(&self) -> bool {
        self.ready.check().await.is_ok()
    }

    /// Waits for an unexpected end and returns it as an error.
    pub async fn died(&self) -> anyhow::Error {
        match self.process() {
            Ok(process) => match process.exited().await {
                Ok(status) => anyhow!("{} ended ({status}); {}", self.name, process.log_tail(LOG_LINES)),
                Err(error) => error,
            },
            Err(error) => error,
        }
    }

    /// Stops it gracefully: SIGTERM, then SIGKILL if it takes too long.
    pub async fn stop(&self) -> Result<ExitStatus> {
        let process = self.take()?;
        process.stop(STOP_GRACE).await.with_context(|| format!("cannot stop {}", self.name))
    }

    /// Kills it (SIGKILL).
    pub async fn kill(&self) -> Result<ExitStatus> {
        let process = self.take()?;
        process.kill().await.with_context(|| format!("cannot kill {}", self.name))
    }

    /// Stops it gracefully and starts it again.
    pub async fn restart(&self) -> Result<()> {
        self.stop().await?;
        self.start_again().await
    }

    /// Stops it gracefully and starts another program in its place, with the same settings and address.
    pub async fn replace(&self, program: &Path) -> Result<()> {
        self.stop().await?;
        self.spec().set_program(program);
        self.start_again().await
    }

    /// Freezes it (SIGSTOP).
    pub fn pause(&self) -> Result<()> {
        self.process()?.pause()
    }

    /// Continues it (SIGCONT).
    pub fn resume(&self) -> Result<()> {
        self.process()?.resume()
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Option<Arc<Process>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spec(&self) -> std::sync::MutexGuard<'_, Spec> {
        self.spec.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Result<Arc<Process>> {
        self.current().take().ok_or_else(|| anyhow!("{} is stopped", self.name))
    }
}
