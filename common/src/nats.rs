//! Connections to NATS.
//!
//! | module | contents |
//! |---|---|
//! | this one | setup of async-nats, for everything except events |
//! | [`bucket`] | key-value buckets |
//! | `permissions` | subscriptions and messages that the server refuses |
//! | [`requests`] | requests and their replies |
//! | [`link`] | a connection that preserves order, for events |
//! | [`protocol`] | zero-copy parser of the client protocol |

pub mod bucket;
pub mod link;
mod permissions;
pub mod protocol;
pub mod requests;

use std::{io, path::Path, sync::Arc, time::Duration};

use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use nkeys::KeyPair;
use percent_encoding::percent_decode_str;
use thiserror::Error;
use tokio::sync::Notify;

use self::permissions::{Refused, RefusedSubscriptions, forget_refused_messages};
use crate::{
    backoff::Backoff,
    config::NatsConfig,
    net,
    readiness::{Latch, Readiness},
};

/// Log a warning if there is no connection after this time.
const CONNECT_WARNING_DELAY: Duration = Duration::from_secs(1);

/// async-nats gives up a connection after two unanswered pings. With this interval a network that silently
/// drops packets is detected within 9 s; the default takes three minutes.
const PING_INTERVAL: Duration = Duration::from_secs(3);

/// A permanent failure to connect, which only a change of configuration fixes.
#[derive(Debug, Error)]
pub enum NatsError {
    /// A file with credentials cannot be used.
    #[error("{key} = {file}: {reason}")]
    Credentials {
        /// The configuration key.
        key: &'static str,
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: io::Error,
    },
    /// async-nats rejected its options.
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
    // Validation has ensured that each of them parses.
    config.url.reveal().split(',').filter_map(|server| server.trim().parse().ok()).collect()
}

/// User and password: those of the first URL that has them, for all servers. Reserved characters are percent-encoded in a
/// URL.
pub(crate) fn user_and_password(config: &NatsConfig) -> Option<(String, String)> {
    let server = servers(config).into_iter().find(ServerAddr::has_user_pass)?;
    let decode =
        |text: Option<&str>| percent_decode_str(text.unwrap_or_default()).decode_utf8_lossy().into_owned();
    Some((decode(server.username()), decode(server.password())))
}

/// Options for a client called `name`, with credentials.
///
/// # Errors
/// If a file with credentials cannot be used.
pub async fn options(config: &NatsConfig, name: &str) -> Result<ConnectOptions, NatsError> {
    let mut options = ConnectOptions::new().name(name).ping_interval(PING_INTERVAL);
    // async-nats ignores the user in a URL.
    if let Some((user, password)) = user_and_password(config) {
        options = options.user_and_password(user, password);
    }
    let unusable = |key, file: &Path| {
        let file = file.display().to_string();
        move |reason| NatsError::Credentials { key, file, reason }
    };
    // The configuration check has ensured that there are both or none.
    if let Ok(Some((cert, key))) = config.client_certificate() {
        // async-nats reads them with each connection, and reports nothing.
        net::Identity::read(cert, key).map_err(unusable("nats.client_cert", cert))?;
        options = options.add_client_certificate(cert.to_owned(), key.to_owned());
    }
    if let Some(file) = &config.nkey {
        options = options.nkey(seed(file).await.map_err(unusable("nats.nkey", file))?);
    }
    match &config.credentials {
        None => Ok(options),
        Some(file) => options.credentials_file(file).await.map_err(unusable("nats.credentials", file)),
    }
}

/// The seed in an nkey's file: its first line that is no comment.
pub(crate) async fn seed(file: &Path) -> io::Result<String> {
    let text = tokio::fs::read_to_string(file).await?;
    let seed = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with(['#', '-']));
    let seed = seed.filter(|seed| KeyPair::from_seed(seed).is_ok());
    seed.map(str::to_owned).ok_or_else(|| net::invalid("there is no seed of an nkey in it"))
}

/// What is ready of a connection.
#[derive(Clone, Debug)]
pub struct Latches {
    /// Ready while connected, unless the server refuses a subscription.
    pub connection: Latch,
    /// Ready unless the server has refused to publish a message within the last minute.
    pub permissions: Latch,
}

impl Latches {
    /// `connection`, and an optional latch for permissions.
    pub fn new(readiness: &Readiness, connection: Latch) -> Latches {
        Latches { connection, permissions: readiness.optional("nats permissions") }
    }
}

/// Connects as soon as a server is available, and reconnects whenever the connection is lost. Each change is logged once.
///
/// # Errors
/// Only failures that retrying cannot fix.
pub async fn connect(config: &NatsConfig, name: &str, latches: Latches) -> Result<Client, NatsError> {
    connect_with(config, options(config, name).await?, latches, |_| {}).await
}

/// Like [`connect`], with custom options and a callback for connection events.
///
/// # Errors
/// Only failures that retrying cannot fix.
pub async fn connect_with(
    config: &NatsConfig,
    options: ConnectOptions,
    latches: Latches,
    on_event: impl Fn(&Event) + Send + Sync + 'static,
) -> Result<Client, NatsError> {
    let url = config.url.clone();
    let Latches { connection: latch, permissions } = latches;
    let state = latch.clone();
    let refused_message = Arc::new(Notify::new());
    tokio::spawn(forget_refused_messages(Arc::clone(&refused_message), permissions.clone()));
    let on_event = Arc::new(on_event);
    let refused = Arc::new(RefusedSubscriptions::default());
    let new_refused = Arc::clone(&refused);
    let client = options
        .retry_on_initial_connect()
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(move |event| {
            match &event {
                Event::Connected => {
                    if new_refused.is_empty() && state.set(true) {
                        tracing::info!(%url, "connected to nats");
                    }
                }
                // We closed it ourselves.
                Event::Closed => drop(state.set(false)),
                Event::Disconnected => {
                    if state.set(false) {
                        tracing::warn!(%url, "lost the connection to nats, reconnecting");
                    }
                }
                Event::ServerError(error) if Refused::by(error) == Some(Refused::Subscription) => {
                    new_refused.add();
                    if state.set(false) {
                        tracing::error!(%error, %url, "nats refuses a subscription, retrying: does its user have all permissions?");
                    }
                }
                Event::ServerError(error) if Refused::by(error) == Some(Refused::Message) => {
                    refused_message.notify_one();
                    if permissions.set(false) {
                        tracing::error!(%error, %url, "nats refuses to publish: does its user have all permissions?");
                    }
                }
                // Slow consumers are counted by `on_event`; a client error is just another failed attempt.
                Event::SlowConsumer(_) | Event::ClientError(_) => {}
                other => tracing::warn!(event = %other, "nats"),
            }
            on_event(&event);
            async {}
        })
        .connect(servers(config))
        .await
        .map_err(|reason| NatsError::Connect { url: config.url.to_string(), reason })?;
    let (own, state) = (client.clone(), latch.clone());
    tokio::spawn(async move { refused.retry(own, state).await });
    let url = config.url.clone();
    tokio::spawn(async move {
        tokio::time::sleep(CONNECT_WARNING_DELAY).await;
        if !latch.is_ready() {
            tracing::warn!(%url, "nats is not available yet, retrying");
        }
    });
    Ok(client)
}

/// The delay before connection attempt number `attempt`: [`Backoff::for_brokers`], without state.
fn reconnect_delay(attempt: usize) -> Duration {
    let mut backoff = Backoff::for_brokers();
    (0..attempt.min(10)).map(|_| backoff.next_wait()).last().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ServerUrl;

    #[test]
    fn user_and_password_are_decoded() {
        let url = ServerUrl::new("nats://one:4222,nats://us%3Aer:p%40s%2Fs%25@two:4222");
        let config = NatsConfig { url, ..NatsConfig::default() };
        assert_eq!(user_and_password(&config), Some(("us:er".to_owned(), "p@s/s%".to_owned())));
        assert_eq!(user_and_password(&NatsConfig::default()), None);
    }
}
