//! Publishes to an AMQP broker as KAZOO does: to topic exchanges, not persistent.

use anyhow::{Context, Result, bail};
use blackhole_dev::simulator::declare;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, PublisherConfirm};
use tokio::runtime::Runtime;

use crate::event::Message;

/// The exchanges of the events.
const EXCHANGES: [&str; 2] = ["callevt", "faxes"];

/// A connection with one channel.
pub(crate) struct Publisher {
    runtime: Runtime,
    _connection: Connection,
    channel: Channel,
    confirms: Option<Vec<PublisherConfirm>>,
    properties: BasicProperties,
}

impl Publisher {
    /// Connects and declares the exchanges.
    pub(crate) fn connect(url: &str, confirms: bool) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (connection, channel) = runtime.block_on(async {
            let connection = Connection::connect(url, ConnectionProperties::default()).await;
            let connection = connection.context("cannot connect to the AMQP broker")?;
            let channel = connection.create_channel().await?;
            if confirms {
                channel.confirm_select(ConfirmSelectOptions::default()).await?;
            }
            for exchange in EXCHANGES {
                declare(&channel, exchange).await?;
            }
            anyhow::Ok((connection, channel))
        })?;
        let properties = BasicProperties::default().with_content_type("application/json".into());
        Ok(Self { runtime, _connection: connection, channel, confirms: confirms.then(Vec::new), properties })
    }

    /// Sends a message to the broker.
    pub(crate) fn publish(&mut self, message: &Message) -> Result<()> {
        let options = BasicPublishOptions::default();
        let (exchange, key) = (message.exchange.into(), message.key.as_str().into());
        let publish =
            self.channel.basic_publish(exchange, key, options, &message.body, self.properties.clone());
        let confirm = self.runtime.block_on(publish)?;
        if let Some(confirms) = &mut self.confirms {
            confirms.push(confirm);
        }
        Ok(())
    }

    /// Waits for the confirms; without confirms, for an answer on the same channel, which comes after everything
    /// before.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.runtime.block_on(async {
            for confirm in self.confirms.iter_mut().flat_map(|confirms| confirms.drain(..)) {
                if !confirm.await?.is_ack() {
                    bail!("the broker refused a message");
                }
            }
            declare(&self.channel, EXCHANGES[0]).await
        })
    }
}
