//! KAZOO: events numbered per call, at a steady rate, each again and again until it lies in the durable queue.
//!
//! KAZOO's exchanges do not outlive the broker, and the queue is bound anew after that. A broker confirms what it
//! could route to nobody, so a confirm alone says little: messages are `mandatory`, and one that comes back was not
//! sent. They are persistent, for a queue keeps nothing else over the broker's death.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, bail};
use blackhole_dev::simulator::Publisher;
use lapin::{BasicProperties, Confirmation, options::BasicPublishOptions};
use serde_json::json;
use tokio::task::JoinSet;

use super::world::World;
use crate::{accounts::Account, events};

/// Calls, half of them of one account, half of another.
pub const CALLS: usize = 6;
/// The events of a call; an event's name follows from its number.
pub const NAMES: [&str; 3] = ["CHANNEL_CREATE", "CHANNEL_ANSWER", "CHANNEL_DESTROY"];
/// Between two events of a call.
const EVERY: Duration = Duration::from_millis(30);
/// What a body has besides: with it, events are as large as KAZOO's.
const PADDING: usize = 1000;
/// A confirm that takes longer will not come.
const CONFIRM_WITHIN: Duration = Duration::from_secs(20);
const AGAIN_AFTER: Duration = Duration::from_millis(300);

/// The calls, and how many of their events have been sent.
#[derive(Debug)]
pub struct Source {
    /// Two accounts.
    pub accounts: [Account; 2],
    sent: [AtomicU64; CALLS],
    stopping: AtomicBool,
}

/// A source that sends.
#[derive(Debug)]
pub struct Sending {
    source: Arc<Source>,
    calls: JoinSet<()>,
}

impl Source {
    /// One that sends nothing yet.
    pub fn new(_world: &World) -> Arc<Source> {
        let accounts = [Account::fresh(), Account::fresh()];
        Arc::new(Source { accounts, sent: Default::default(), stopping: AtomicBool::new(false) })
    }

    /// A call's id.
    pub fn call_id(call: usize) -> String {
        format!("call-{call}")
    }

    /// The account of a call.
    pub fn account(&self, call: usize) -> &Account {
        &self.accounts[call % 2]
    }

    /// How many events of a call have been sent: those with lower numbers.
    pub fn sent(&self, call: usize) -> u64 {
        self.sent[call].load(Ordering::SeqCst)
    }

    /// [`Source::sent`] of all calls.
    pub fn counts(&self) -> Vec<u64> {
        (0..CALLS).map(|call| self.sent(call)).collect()
    }

    /// Begins.
    pub fn start(self: &Arc<Self>, world: &Arc<World>) -> Sending {
        let mut calls = JoinSet::new();
        for call in 0..CALLS {
            let (source, world) = (Arc::clone(self), Arc::clone(world));
            calls.spawn(async move { source.send(call, &world).await });
        }
        Sending { source: Arc::clone(self), calls }
    }

    async fn send(&self, call: usize, world: &World) {
        let publisher = loop {
            match Publisher::connect(&world.rabbitmq.url()).await {
                Ok(publisher) => break publisher,
                Err(_) => tokio::time::sleep(AGAIN_AFTER).await,
            }
        };
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for number in 0.. {
            ticks.tick().await;
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            let name = NAMES[usize::try_from(number).unwrap() % NAMES.len()];
            let mut event = events::call(self.account(call), name, &Source::call_id(call));
            event.body["Number"] = json!(number);
            event.body["Padding"] = json!("x".repeat(PADDING));
            let body = event.body.to_string();
            while publish(&publisher, event.exchange, &event.key, body.as_bytes()).await.is_err() {
                tokio::time::sleep(AGAIN_AFTER).await;
            }
            self.sent[call].store(number + 1, Ordering::SeqCst);
        }
    }
}

/// Publishes one message; a success means that a queue has it.
async fn publish(publisher: &Publisher, exchange: &str, key: &str, body: &[u8]) -> Result<()> {
    let published = async {
        let channel = publisher.channel().await?;
        let properties =
            BasicProperties::default().with_content_type("application/json".into()).with_delivery_mode(2);
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let confirm = channel.basic_publish(exchange.into(), key.into(), options, body, properties).await?;
        match confirm.await? {
            Confirmation::Ack(None) => Ok(()),
            _ => bail!("no queue has it"),
        }
    };
    tokio::time::timeout(CONFIRM_WITHIN, published).await?
}

impl Sending {
    /// Ends with the next event of each call.
    pub async fn stop(mut self) {
        self.source.stopping.store(true, Ordering::SeqCst);
        let all = async { while self.calls.join_next().await.is_some() {} };
        tokio::time::timeout(Duration::from_secs(180), all).await.expect("the broker takes no more events");
    }
}
