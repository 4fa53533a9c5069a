//! A plain AMQP consumer: the latency of a delivery without Blackhole, for comparison.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use blackhole_dev::simulator::declare;
use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties, Consumer};

use crate::clients::tally::{ExpectedLane, Ledger, expected_lanes};
use crate::clock;
use crate::control::{Answer, Order, RunConnection, Sink};
use crate::load::{Load, Pattern};
use crate::stamp::Stamp;

const EXCHANGE: &str = "callevt";

/// One session per lane of the published load.
struct State {
    load: Load,
    ledger: Ledger,
    lanes: Vec<Box<[ExpectedLane]>>,
}

/// Executes orders until the run is over.
pub(crate) fn run(mut run: RunConnection) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut state: Option<Arc<Mutex<State>>> = None;
    let mut connection = None;
    while let Some(order) = run.order()? {
        let answer = match (order, &state) {
            (Order::Attach { sink: Sink::Amqp { url, .. }, load }, _) if load.pattern == Pattern::Sharded => {
                let (opened, consumer) = runtime.block_on(attach(&url))?;
                connection = Some(opened);
                let lanes = (0..load.sessions).map(|session| expected_lanes(&load, session, 0)).collect();
                let shared = Arc::new(Mutex::new(State { load, ledger: Ledger::default(), lanes }));
                runtime.spawn(consume(consumer, shared.clone()));
                state = Some(shared);
                Answer::Done
            }
            (Order::Measure { from, to }, Some(state)) => {
                lock(state).ledger.measure(from..to);
                Answer::Done
            }
            (Order::Collect { events, timeout }, Some(state)) => {
                let until = clock::now() + timeout.as_nanos() as u64;
                while lock(state).ledger.delivered < events && clock::now() < until {
                    std::thread::sleep(Duration::from_millis(10));
                }
                let state = lock(state);
                let sessions = state.lanes.iter().map(|lanes| (&**lanes, true));
                Answer::Collected(state.ledger.close(&state.load, events, sessions))
            }
            (other, _) => bail!("a consumer cannot execute {other:?} now"),
        };
        run.answer(&answer)?;
    }
    drop(connection);
    Ok(())
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn attach(url: &str) -> Result<(Connection, Consumer)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await;
    let connection = connection.context("cannot connect to the AMQP broker")?;
    let channel = connection.create_channel().await?;
    declare(&channel, EXCHANGE).await?;
    let own = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
    let queue = channel.queue_declare("".into(), own, FieldTable::default()).await?;
    let (name, options) = (queue.name().clone(), QueueBindOptions::default());
    channel
        .queue_bind(name.clone(), EXCHANGE.into(), "call.#".into(), options, FieldTable::default())
        .await?;
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let consumer = channel.basic_consume(name, "".into(), options, FieldTable::default()).await?;
    Ok((connection, consumer))
}

async fn consume(mut consumer: Consumer, state: Arc<Mutex<State>>) {
    let mut place = 0;
    while let Some(Ok(delivery)) = consumer.next().await {
        let now = clock::now();
        let Some(stamp) = Stamp::find(&delivery.data, &mut place) else { continue };
        let state = &mut *lock(&state);
        if let Some(lanes) = state.lanes.get_mut(stamp.lane as usize) {
            state.ledger.arrived(stamp.lane, lanes, stamp, now);
        }
    }
}
