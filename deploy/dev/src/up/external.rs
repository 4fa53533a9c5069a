//! Brokers of the user (`--amqp`, `--nats`), and what this run creates on them.
//!
//! The services use the documented names, unless something with such a name exists: then another Blackhole may be using
//! the broker, whose queue and tokens this run must not share. At the end, everything the services created is removed.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::jetstream::context::{DeleteStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::{self, ErrorCode};
use lapin::options::{ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties, ErrorKind};

use super::Options;
use crate::progress::say;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const QUEUE: &str = "blackhole-ingest";
const DEAD_LETTERS: &str = "blackhole-dead-letter";
const PREFIX: &str = "blackhole.v1";

/// The brokers, and the names to use on them.
#[derive(Default)]
pub(super) struct ExternalBrokers {
    amqp: Option<Amqp>,
    nats: Option<Nats>,
}

struct Amqp {
    url: String,
    queue: String,
    dead_letters: String,
}

struct Nats {
    url: String,
    prefix: String,
}

impl ExternalBrokers {
    /// Connects to the brokers and chooses the names. Fails early if one does not answer.
    pub(super) async fn inspect(options: &Options) -> Result<Self> {
        let tag = format!("dev-{:08x}", rand::random::<u32>());
        let mut brokers = Self::default();
        if let Some(url) = &options.amqp {
            let found = with_timeout(Amqp::inspect(url, &tag)).await;
            brokers.amqp =
                Some(found.with_context(|| format!("cannot use the AMQP broker at {}", shown(url)))?);
        }
        if let Some(url) = &options.nats {
            let found = with_timeout(Nats::inspect(url, &tag)).await;
            brokers.nats =
                Some(found.with_context(|| format!("cannot use the NATS server at {}", shown(url)))?);
        }
        Ok(brokers)
    }

    /// Settings for all services.
    pub(super) fn for_all(&self) -> Vec<(&'static str, String)> {
        self.nats.iter().map(|nats| ("NATS__PREFIX", nats.prefix.clone())).collect()
    }

    /// Further settings for amqp-ingest.
    pub(super) fn for_ingest(&self) -> Vec<(&'static str, String)> {
        let names = |amqp: &Amqp| {
            [("AMQP__QUEUE", amqp.queue.clone()), ("AMQP__DEAD_LETTER_EXCHANGE", amqp.dead_letters.clone())]
        };
        self.amqp.iter().flat_map(names).collect()
    }

    /// Removes what the services created.
    pub(super) async fn clean_up(&self) {
        if let Some(amqp) = &self.amqp
            && let Err(error) = with_timeout(amqp.clean_up()).await
        {
            let Amqp { url, queue, dead_letters } = amqp;
            say(format_args!("cannot remove {queue} and {dead_letters} from {}: {error:#}", shown(url)));
        }
        if let Some(nats) = &self.nats
            && let Err(error) = with_timeout(nats.clean_up()).await
        {
            say(format_args!(
                "cannot remove the stream {} from {}: {error:#}",
                nats.stream(),
                shown(&nats.url)
            ));
        }
    }
}

impl Amqp {
    async fn inspect(url: &str, tag: &str) -> Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let taken = exists(&connection, QUEUE).await? || exists(&connection, DEAD_LETTERS).await?;
        // Its channels are closing already, which lapin may report as an error.
        let _ = connection.close(200, "done".into()).await;
        let name = |name: &str| if taken { format!("{name}-{tag}") } else { name.to_owned() };
        Ok(Self { url: url.to_owned(), queue: name(QUEUE), dead_letters: name(DEAD_LETTERS) })
    }

    async fn clean_up(&self) -> Result<()> {
        let connection = Connection::connect(&self.url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        // The ingest has two more beside its queue: for its progress, and for KAZOO's requests.
        let [progress, queries] = ["progress", "queries"].map(|name| format!("{}-{name}", self.queue));
        for queue in [&self.queue, &progress, &queries, &self.dead_letters] {
            channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await?;
        }
        let exchange = self.dead_letters.as_str().into();
        channel.exchange_delete(exchange, ExchangeDeleteOptions::default()).await?;
        let _ = connection.close(200, "done".into()).await;
        Ok(())
    }
}

/// Whether a queue exists. If not, the broker closes the channel that asked for it.
async fn exists(connection: &Connection, queue: &str) -> Result<bool> {
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let channel = connection.create_channel().await?;
    match channel.queue_declare(queue.into(), passive, FieldTable::default()).await {
        Ok(_) => Ok(true),
        Err(error) => match error.kind() {
            ErrorKind::ProtocolError(refusal) if refusal.get_id() == 404 => Ok(false),
            _ => Err(error.into()),
        },
    }
}

impl Nats {
    async fn inspect(url: &str, tag: &str) -> Result<Self> {
        let mut nats = Self { url: url.to_owned(), prefix: PREFIX.to_owned() };
        match nats.jetstream().await?.get_stream(nats.stream()).await {
            Ok(_) => nats.prefix = format!("blackhole-{tag}.v1"),
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(refusal)
                    if refusal.error_code() == ErrorCode::STREAM_NOT_FOUND => {}
                _ => return Err(error.into()),
            },
        }
        Ok(nats)
    }

    async fn clean_up(&self) -> Result<()> {
        let (jetstream, stream) = (self.jetstream().await?, self.stream());
        let others = ["REALMS", "STOPPED_FAMILIES"].map(|name| format!("KV_{stream}_{name}"));
        for name in [format!("{stream}_STATE"), stream].into_iter().chain(others) {
            match jetstream.delete_stream(name).await {
                Ok(_) => {}
                Err(error) => match error.kind() {
                    DeleteStreamErrorKind::JetStream(refusal)
                        if refusal.error_code() == ErrorCode::STREAM_NOT_FOUND => {}
                    _ => return Err(error.into()),
                },
            }
        }
        Ok(())
    }

    async fn jetstream(&self) -> Result<jetstream::Context> {
        let servers: Vec<&str> = self.url.split(',').map(str::trim).collect();
        Ok(jetstream::new(async_nats::connect(servers).await?))
    }

    /// The stream that amqp-ingest creates.
    fn stream(&self) -> String {
        self.prefix.replace('.', "_").to_ascii_uppercase()
    }
}

async fn with_timeout<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(ANSWER_TIMEOUT, work).await.context("no answer within the timeout")?
}

/// The URL without the password.
fn shown(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_url_has_no_password() {
        assert_eq!(shown("amqp://user:word@host:5672/%2f"), "amqp://host:5672/%2f");
        assert_eq!(shown("nats://host"), "nats://host");
    }
}
