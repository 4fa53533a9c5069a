//! The connection to NATS.
//!
//! | module | idea |
//! |---|---|
//! | here | async-nats, as everything but events uses it |
//! | [`link`] | a connection that keeps the order, for events |
//! | [`protocol`] | what a server sends, taken apart where it lies |

pub mod link;
pub mod protocol;

use std::{sync::Arc, time::Duration};

use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use thiserror::Error;

use crate::{backoff::Backoff, config::NatsConfig, readiness::Latch};

/// A server that is there has answered within this.
const NOT_THERE_YET: Duration = Duration::from_secs(1);

/// A server that leaves two of our pings unanswered is taken for dead: within 9 s, where async-nats would take three
/// minutes. Nobody tells of a network that swallows everything.
const PING_EVERY: Duration = Duration::from_secs(3);

/// Why there is no connection, and never will be without a change of configuration.
#[derive(Debug, Error)]
pub enum NatsError {
    /// The credentials file cannot be used.
    #[error("nats.credentials = {file}: {reason}")]
    Credentials {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: std::io::Error,
    },
    /// The client refused its own options.
    #[error("nats.url = {url}: {reason}")]
    Connect {
        /// The servers, without passwords.
        url: String,
        /// What is wrong.
        reason: async_nats::ConnectError,
    },
}

/// The configured servers.
pub fn servers(config: &NatsConfig) -> Vec<ServerAddr> {
    // The configuration was checked: each of them parses.
    config.url.reveal().split(',').filter_map(|server| server.trim().parse().ok()).collect()
}

/// Options for a client called `name`, with credentials.
///
/// # Errors
/// When the credentials file cannot be read.
pub async fn options(config: &NatsConfig, name: &str) -> Result<ConnectOptions, NatsError> {
    let mut options = ConnectOptions::new().name(name).ping_interval(PING_EVERY);
    // async-nats takes them from its options only, and has one pair for all servers.
    let with_user = servers(config).into_iter().find(ServerAddr::has_user_pass);
    if let Some(server) = with_user {
        let (user, password) = (server.username().unwrap_or_default(), server.password().unwrap_or_default());
        options = options.user_and_password(user.to_owned(), password.to_owned());
    }
    match &config.credentials {
        None => Ok(options),
        Some(file) => options
            .credentials_file(file)
            .await
            .map_err(|reason| NatsError::Credentials { file: file.display().to_string(), reason }),
    }
}

/// Connects, now or as soon as a server is there, and connects again whenever the connection is lost. `latch`
/// says whether there is a connection at the moment; a change is logged once.
///
/// # Errors
/// Only what waiting does not mend.
pub async fn connect(config: &NatsConfig, name: &str, latch: Latch) -> Result<Client, NatsError> {
    connect_with(config, options(config, name).await?, latch, |_| {}).await
}

/// [`connect`] with options of one's own and a call for each event of the connection.
///
/// # Errors
/// Only what waiting does not mend.
pub async fn connect_with(
    config: &NatsConfig,
    options: ConnectOptions,
    latch: Latch,
    on_event: impl Fn(&Event) + Send + Sync + 'static,
) -> Result<Client, NatsError> {
    let url = config.url.clone();
    let state = latch.clone();
    let on_event = Arc::new(on_event);
    let client = options
        .retry_on_initial_connect()
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(move |event| {
            match &event {
                Event::Connected => {
                    if state.set(true) {
                        tracing::info!(%url, "connected to nats");
                    }
                }
                // Closed by ourselves.
                Event::Closed => drop(state.set(false)),
                Event::Disconnected => {
                    if state.set(false) {
                        tracing::warn!(%url, "lost the connection to nats, trying again until it is back");
                    }
                }
                // The one is counted where the subscription is, the other is another attempt that failed.
                Event::SlowConsumer(_) | Event::ClientError(_) => {}
                other => tracing::warn!(event = %other, "nats"),
            }
            on_event(&event);
            async {}
        })
        .connect(servers(config))
        .await
        .map_err(|reason| NatsError::Connect { url: config.url.to_string(), reason })?;
    let url = config.url.clone();
    tokio::spawn(async move {
        tokio::time::sleep(NOT_THERE_YET).await;
        if !latch.is_ready() {
            tracing::warn!(%url, "nats is not there yet, trying until it is");
        }
    });
    Ok(client)
}

/// How long to wait before attempt number `attempt` to connect: [`Backoff::for_brokers`], stateless.
fn reconnect_delay(attempt: usize) -> Duration {
    let mut backoff = Backoff::for_brokers();
    (0..attempt.min(10)).map(|_| backoff.next_wait()).last().unwrap_or_default()
}
