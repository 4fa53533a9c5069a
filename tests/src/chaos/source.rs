//! KAZOO: events numbered per call, at a steady rate, until each is in the durable queue.
//!
//! KAZOO's exchanges do not survive a restart of the broker, after which the ingest binds its queue again. A broker
//! also confirms messages that it cannot route, so a confirm is not enough: messages are `mandatory`, and a returned
//! one counts as not sent. They are persistent, so that the queue keeps them when the broker dies.
//!
//! A message whose confirm is lost may be in the queue or not. It is not sent again, which would make two events of it:
//! clients may receive it, once, or not.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, bail};
use blackhole_dev::simulator::Publisher;
use lapin::{BasicProperties, Confirmation, options::BasicPublishOptions};
use parking_lot::Mutex;
use serde_json::json;
use tokio::task::JoinSet;

use super::deployment::Deployment;
use crate::{accounts::Account, events};

/// Number of calls: half of them belong to one account, half to another.
pub const CALLS: usize = 6;
/// Event names; the number of an event determines its name.
pub const NAMES: [&str; 3] = ["CHANNEL_CREATE", "CHANNEL_ANSWER", "CHANNEL_DESTROY"];
/// Padding that makes bodies as large as KAZOO's.
const PADDING: usize = 1000;
/// A confirm that takes longer counts as lost.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(20);
const RETRY_INTERVAL: Duration = Duration::from_millis(300);

/// The calls, and the number of events sent for each.
#[derive(Debug)]
pub struct Source {
    /// The two accounts.
    pub accounts: [Account; 2],
    /// Time between two events of a call.
    interval: Duration,
    sent: [AtomicU64; CALLS],
    uncertain: [Mutex<BTreeSet<u64>>; CALLS],
    stopping: AtomicBool,
}

/// A source that is sending.
#[derive(Debug)]
pub struct Sending {
    source: Arc<Source>,
    calls: JoinSet<()>,
}

impl Source {
    /// A source that does not send yet, with this time between two events of a call.
    pub fn new(interval: Duration) -> Arc<Source> {
        let accounts = [Account::fresh(), Account::fresh()];
        Arc::new(Source {
            accounts,
            interval,
            sent: Default::default(),
            uncertain: Default::default(),
            stopping: AtomicBool::new(false),
        })
    }

    /// A call's id.
    pub fn call_id(call: usize) -> String {
        format!("call-{call}")
    }

    /// The account of a call.
    pub fn account(&self, call: usize) -> &Account {
        &self.accounts[call % 2]
    }

    /// The number of events sent for a call: their numbers are lower than this.
    pub fn sent(&self, call: usize) -> u64 {
        self.sent[call].load(Ordering::SeqCst)
    }

    /// Whether this event of a call is in the queue: `false` if its confirm was lost.
    pub fn is_certain(&self, call: usize, number: u64) -> bool {
        !self.uncertain[call].lock().contains(&number)
    }

    /// [`Source::sent`] for all calls.
    pub fn counts(&self) -> Vec<u64> {
        (0..CALLS).map(|call| self.sent(call)).collect()
    }

    /// Starts sending.
    pub fn start(self: &Arc<Self>, deployment: &Arc<Deployment>) -> Sending {
        let mut calls = JoinSet::new();
        for call in 0..CALLS {
            let (source, deployment) = (Arc::clone(self), Arc::clone(deployment));
            calls.spawn(async move { source.send(call, &deployment).await });
        }
        Sending { source: Arc::clone(self), calls }
    }

    async fn send(&self, call: usize, deployment: &Deployment) {
        let publisher = loop {
            match Publisher::connect(&deployment.rabbitmq.url()).await {
                Ok(publisher) => break publisher,
                Err(_) => tokio::time::sleep(RETRY_INTERVAL).await,
            }
        };
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut is_certain = true;
        for number in 0.. {
            ticks.tick().await;
            if is_certain && self.stopping.load(Ordering::SeqCst) {
                return;
            }
            let name = NAMES[usize::try_from(number).unwrap() % NAMES.len()];
            let mut event = events::call(self.account(call), name, &Source::call_id(call));
            event.body["Number"] = json!(number);
            event.body["Padding"] = json!("x".repeat(PADDING));
            let body = event.body.to_string();
            self.uncertain[call].lock().insert(number);
            is_certain = publish(&publisher, event.exchange, &event.key, body.as_bytes()).await.is_ok();
            if is_certain {
                self.uncertain[call].lock().remove(&number);
            } else {
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
            self.sent[call].store(number + 1, Ordering::SeqCst);
        }
    }
}

/// Publishes a message. On success it is in a queue.
async fn publish(publisher: &Publisher, exchange: &str, key: &str, body: &[u8]) -> Result<()> {
    let published = async {
        let channel = publisher.channel().await?;
        let properties =
            BasicProperties::default().with_content_type("application/json".into()).with_delivery_mode(2);
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let confirm = channel.basic_publish(exchange.into(), key.into(), options, body, properties).await?;
        match confirm.await? {
            Confirmation::Ack(None) => Ok(()),
            _ => bail!("the message is in no queue"),
        }
    };
    tokio::time::timeout(CONFIRM_TIMEOUT, published).await?
}

impl Sending {
    /// Stops after the next event of each call.
    pub async fn stop(mut self) {
        self.source.stopping.store(true, Ordering::SeqCst);
        let all = async { while self.calls.join_next().await.is_some() {} };
        tokio::time::timeout(Duration::from_secs(180), all)
            .await
            .expect("the broker does not accept the last events");
    }
}
