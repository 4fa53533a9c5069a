//! A child process that others connect to: started, known to be ready, stopped, and started again at the same address.

use std::net::SocketAddr;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::http;
use crate::process::{Process, Spec};

const POLL: Duration = Duration::from_millis(50);
/// A frozen server accepts connections and says nothing.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// The services promise to be gone within 10 s.
const GRACE: Duration = Duration::from_secs(15);
const LOG_LINES: usize = 25;

/// What tells that a server serves.
#[derive(Clone, Debug)]
pub enum Ready {
    /// It accepts connections.
    Port(SocketAddr),
    /// It greets as a NATS server does, which it does only when JetStream is up too.
    Nats(String),
    /// It opens an AMQP connection.
    Amqp(String),
    /// It answers a GET with 200: `host:port` and path.
    Http(String, String),
}

impl Ready {
    /// Whether it is so now.
    pub async fn check(&self) -> Result<()> {
        tokio::time::timeout(ANSWER_WITHIN, self.ask()).await.context("no answer in time")?
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
                let answer = http::get(authority, path).await?;
                if answer.status != 200 {
                    bail!("http://{authority}{path} answers {}: {}", answer.status, answer.body.trim());
                }
            }
        }
        Ok(())
    }
}

/// The server. All methods take `&self`, so that tests may share one and still kill it.
#[derive(Debug)]
pub struct Server {
    name: String,
    spec: Spec,
    ready: Ready,
    within: Duration,
    current: Mutex<Option<Arc<Process>>>,
}

impl Server {
    /// A server that is not started yet; it may take `within` to become ready.
    pub fn new(name: &str, spec: Spec, ready: Ready, within: Duration) -> Self {
        Self { name: name.to_owned(), spec, ready, within, current: Mutex::new(None) }
    }

    /// Starts it and waits until it is ready.
    pub async fn start(name: &str, spec: Spec, ready: Ready, within: Duration) -> Result<Self> {
        let server = Self::new(name, spec, ready, within);
        server.start_again().await?;
        Ok(server)
    }

    /// Its name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The running process, if there is one.
    pub fn process(&self) -> Result<Arc<Process>> {
        self.current().clone().ok_or_else(|| anyhow!("{} is stopped", self.name))
    }

    /// Starts it after [`Server::stop`] or [`Server::kill`], at the same address with the same data.
    pub async fn start_again(&self) -> Result<()> {
        self.start_unready()?;
        self.wait_ready().await
    }

    /// As [`Server::start_again`], without waiting until it is ready.
    pub fn start_unready(&self) -> Result<()> {
        let mut current = self.current();
        if current.as_ref().is_some_and(|process| process.status().is_none()) {
            bail!("{} is running already", self.name);
        }
        *current = Some(Arc::new(Process::start(&self.spec)?));
        Ok(())
    }

    /// Waits until it is ready; if it ends instead, or takes too long, the error shows the end of its log.
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
            () = tokio::time::sleep(self.within) => {
                let last = self.ready.check().await.err().map_or_else(String::new, |error| format!(" ({error:#})"));
                bail!("{} is not ready after {:?}{last}; {}", self.name, self.within, process.log_tail(LOG_LINES))
            }
        }
    }

    /// Whether it is ready now.
    pub async fn is_ready(&self) -> bool {
        self.ready.check().await.is_ok()
    }

    /// Waits for its end, which nobody asked for, and tells it as an error.
    pub async fn died(&self) -> anyhow::Error {
        match self.process() {
            Ok(process) => match process.exited().await {
                Ok(status) => anyhow!("{} ended ({status}); {}", self.name, process.log_tail(LOG_LINES)),
                Err(error) => error,
            },
            Err(error) => error,
        }
    }

    /// Ends it in order: SIGTERM, and SIGKILL after a while.
    pub async fn stop(&self) -> Result<ExitStatus> {
        let process = self.take()?;
        process.stop(GRACE).await.with_context(|| format!("cannot stop {}", self.name))
    }

    /// Kills it (SIGKILL).
    pub async fn kill(&self) -> Result<ExitStatus> {
        let process = self.take()?;
        process.kill().await.with_context(|| format!("cannot kill {}", self.name))
    }

    /// Stops it in order and starts it again.
    pub async fn restart(&self) -> Result<()> {
        self.stop().await?;
        self.start_again().await
    }

    /// Freezes it (SIGSTOP).
    pub fn pause(&self) -> Result<()> {
        self.process()?.pause()
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&self) -> Result<()> {
        self.process()?.resume()
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Option<Arc<Process>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Result<Arc<Process>> {
        self.current().take().ok_or_else(|| anyhow!("{} is stopped", self.name))
    }
}
