//! Publishes to a broker as KAZOO does, and counts the confirms.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind, PublisherConfirm};
use tokio::time::Instant;

use super::plan::Plan;
use super::script::Publication;

/// The exchanges that the plans publish to.
pub(super) const EXCHANGES: [&str; 10] = [
    "callevt",
    "conference",
    "configuration",
    "dialog",
    "faxes",
    "live",
    "notifications",
    "pivot",
    "presence",
    "qubicle",
];

/// Maximum number of outstanding confirms.
const IN_FLIGHT: usize = 256;
const RECONNECT_INTERVAL: Duration = Duration::from_millis(500);

/// Declares a topic exchange exactly as KAZOO does; the broker refuses different declarations.
pub async fn declare(channel: &Channel, exchange: &str) -> Result<()> {
    let options =
        ExchangeDeclareOptions { durable: false, auto_delete: false, internal: false, ..Default::default() };
    let declared =
        channel.exchange_declare(exchange.into(), ExchangeKind::Topic, options, FieldTable::default());
    declared.await.with_context(|| format!("cannot declare the exchange {exchange}"))
}

/// A publisher that uses publisher confirms.
#[derive(Debug)]
pub struct Publisher {
    url: String,
    persistent: bool,
    confirmed: AtomicU64,
    /// Dropping the connection closes it.
    link: tokio::sync::Mutex<Option<(Connection, Channel)>>,
}

impl Publisher {
    /// Connects, and declares the exchanges of the plans.
    pub async fn connect(url: &str) -> Result<Self> {
        let publisher = Self {
            url: url.to_owned(),
            persistent: false,
            confirmed: AtomicU64::new(0),
            link: tokio::sync::Mutex::new(None),
        };
        publisher.channel().await?;
        Ok(publisher)
    }

    /// Makes messages persistent, so that a durable queue keeps them when the broker dies. KAZOO does not do that.
    pub fn persistent(mut self) -> Self {
        self.persistent = true;
        self
    }

    /// How many messages the broker has confirmed.
    pub fn confirmed(&self) -> u64 {
        self.confirmed.load(Ordering::Relaxed)
    }

    /// A channel of the current connection, or of a new one if that is broken.
    pub async fn channel(&self) -> Result<Channel> {
        let mut link = self.link.lock().await;
        if let Some((_, channel)) = link.as_ref().filter(|(_, channel)| channel.status().connected()) {
            return Ok(channel.clone());
        }
        *link = None;
        let name = ConnectionProperties::default().with_connection_name("simulated KAZOO".into());
        let connection =
            Connection::connect(&self.url, name).await.context("cannot connect to the AMQP broker")?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        for exchange in EXCHANGES {
            declare(&channel, exchange).await?;
        }
        *link = Some((connection, channel.clone()));
        Ok(channel)
    }

    /// Sends a message. Await the result for the confirm.
    pub async fn send(&self, exchange: &str, routing_key: &str, body: &[u8]) -> Result<PublisherConfirm> {
        let channel = self.channel().await?;
        let properties = BasicProperties::default().with_content_type("application/json".into());
        let properties = if self.persistent { properties.with_delivery_mode(2) } else { properties };
        let options = BasicPublishOptions::default();
        Ok(channel.basic_publish(exchange.into(), routing_key.into(), options, body, properties).await?)
    }

    /// Publishes one message and waits for the confirm.
    pub async fn publish(&self, exchange: &str, routing_key: &str, body: &[u8]) -> Result<()> {
        let confirm = self.send(exchange, routing_key, body).await?;
        if !confirm.await?.is_ack() {
            bail!("the broker refused a message to {exchange}");
        }
        self.confirmed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// As [`Publisher::publish`], retrying until the message is confirmed, also while the broker is unavailable.
    ///
    /// A message whose confirm was lost arrives twice, with the same `Msg-ID`.
    pub async fn publish_with_retries(&self, publication: &Publication) {
        let Publication { exchange, routing_key, body, .. } = publication;
        while self.publish(exchange, routing_key, body).await.is_err() {
            tokio::time::sleep(RECONNECT_INTERVAL).await;
        }
    }

    /// Publishes the events of a plan when they are due, or as fast as the broker accepts them, until the plan or
    /// `until` ends. Then waits for outstanding confirms.
    pub async fn run(&self, plan: &mut Plan, until: impl Future<Output = ()>) -> Result<()> {
        let started = Instant::now();
        let mut until = pin!(until);
        let mut confirms = FuturesUnordered::new();
        for publication in plan {
            let mut due = pin!(tokio::time::sleep_until(started + publication.at));
            loop {
                tokio::select! {
                    () = &mut until => return self.drain(confirms).await,
                    Some(confirm) = confirms.next() => self.count(confirm)?,
                    () = &mut due, if confirms.len() < IN_FLIGHT => break,
                }
            }
            confirms
                .push(self.send(publication.exchange, &publication.routing_key, &publication.body).await?);
        }
        self.drain(confirms).await
    }

    /// Publishes the events of a plan when they are due, one after the other, each with
    /// [`Publisher::publish_with_retries`].
    pub async fn run_with_retries(&self, plan: &mut Plan, until: impl Future<Output = ()>) {
        let started = Instant::now();
        let mut until = pin!(until);
        for publication in plan {
            tokio::select! {
                () = &mut until => return,
                () = tokio::time::sleep_until(started + publication.at) => {}
            }
            self.publish_with_retries(&publication).await;
        }
    }

    async fn drain(&self, mut confirms: FuturesUnordered<PublisherConfirm>) -> Result<()> {
        while let Some(confirm) = confirms.next().await {
            self.count(confirm)?;
        }
        Ok(())
    }

    fn count(&self, confirm: lapin::Result<lapin::Confirmation>) -> Result<()> {
        if !confirm?.is_ack() {
            bail!("the broker refused a message");
        }
        self.confirmed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Closes the connection.
    pub async fn close(&self) -> Result<()> {
        if let Some((connection, _)) = self.link.lock().await.take() {
            connection.close(200, "done".into()).await?;
        }
        Ok(())
    }
}
