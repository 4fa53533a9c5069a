//! KAZOO's exchanges, the queue and the dead letters of each broker.

use blackhole_common::{catalogue::Catalogue, config::ServerUrl, report::Report};
use lapin::{
    Connection, ExchangeKind, Queue,
    options::{ExchangeDeclareOptions, QueueDeclareOptions},
    types::FieldTable,
};
use tokio::time::{Instant, timeout};

use super::{CLIENT_NAME, TIMEOUT};
use crate::{
    amqp::{self, Declarer, short_string},
    config::{AmqpConfig, IngestConfig},
    error::IngestError,
};

pub(super) async fn examine(report: &mut Report, config: &IngestConfig, catalogue: &Catalogue) {
    for broker in config.amqp.brokers() {
        let began = Instant::now();
        let connection = match connect(&broker.url).await {
            Ok(connection) => connection,
            Err(error) => {
                report.add(broker.to_string(), Err(error.to_string()));
                continue;
            }
        };
        report.add(broker.to_string(), Ok(format!("connected in {:.1?}", began.elapsed())));
        report.add(format!("{broker} queue"), queue(&connection, &config.amqp).await);
        report.add(format!("{broker} dead letters"), dead_letters(&connection, &config.amqp).await);
        report.add(format!("{broker} exchanges"), exchanges(&connection, catalogue).await);
        let _ = timeout(TIMEOUT, connection.close(0, "".into())).await;
    }
}

/// Connects as the ingest does.
pub(super) async fn connect(url: &ServerUrl) -> Result<Connection, IngestError> {
    let broker = Declarer::open(url, CLIENT_NAME).await?.broker();
    amqp::connect(broker, CLIENT_NAME).await
}

/// Asks about a queue.
async fn ask(connection: &Connection, name: &str) -> Result<Queue, IngestError> {
    // The broker closes the channel if there is no such queue.
    let channel = connection.create_channel().await?;
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    Ok(channel.queue_declare(short_string(name)?, options, FieldTable::default()).await?)
}

async fn queue(connection: &Connection, config: &AmqpConfig) -> Result<String, String> {
    let name = &config.queue;
    let queue = ask(connection, name).await.map_err(|error| {
        format!("{name} cannot be looked at ({error}): an ingest declares it when it has connected")
    })?;
    let (waiting, ingests) = (queue.message_count(), queue.consumer_count());
    match ingests {
        0 => Err(format!("no ingest consumes {name}; {waiting} events wait in it")),
        1 => Ok(format!("{name}: {waiting} events wait, one ingest consumes")),
        more => Ok(format!("{name}: {waiting} events wait, one ingest consumes, {} stand by", more - 1)),
    }
}

async fn dead_letters(connection: &Connection, config: &AmqpConfig) -> Result<String, String> {
    let name = &config.dead_letter_exchange;
    let queue =
        ask(connection, name).await.map_err(|error| format!("{name} cannot be looked at: {error}"))?;
    match queue.message_count() {
        0 => Ok(format!("{name} is empty")),
        count => Err(format!("{count} events are in {name}: their header x-death says why")),
    }
}

async fn exchanges(connection: &Connection, catalogue: &Catalogue) -> Result<String, String> {
    let wanted = catalogue.exchanges();
    let (mut missing, mut reason) = (Vec::new(), None);
    for (name, _) in &wanted {
        let asked = async {
            let channel = connection.create_channel().await?;
            let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
            channel
                .exchange_declare(short_string(name)?, ExchangeKind::Topic, options, FieldTable::default())
                .await?;
            Ok::<_, IngestError>(())
        };
        if let Err(error) = asked.await {
            missing.push(name.to_owned());
            reason.get_or_insert(error);
        }
    }
    match reason {
        None => Ok(format!("all {} exist", wanted.len())),
        Some(reason) => Err(format!(
            "{} of {} are missing: {} ({reason})",
            missing.len(),
            wanted.len(),
            missing.join(", ")
        )),
    }
}
