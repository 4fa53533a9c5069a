//! Sends declarations to a broker, many at once: a distant broker answers all of them in one round trip.
//!
//! The broker answers a refused method by closing its channel. Each batch of methods therefore has a channel of its
//! own, and the refusal of one does not affect the others.

use std::{net::SocketAddr, time::Duration};

use blackhole_common::{config::ServerUrl, net::Tcp};
use lapin::{
    protocol::{
        AMQPClass::{self, Channel},
        channel,
    },
    types::ChannelId,
    uri::AMQPUri,
};
use tokio::time::{Instant, sleep_until};

use super::{connection::Connection, parse_uri};
use crate::error::IngestError;

const REPLY_SUCCESS: u16 = 200;

/// A connection for declarations.
pub(crate) struct Declarer {
    connection: Connection,
    uri: AMQPUri,
}

/// Why the broker refused a method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The AMQP reply code.
    pub(crate) code: u16,
    /// The broker's reason.
    pub(crate) reason: String,
    /// Class and method that it refused.
    pub(crate) method: (u16, u16),
}

/// The answers to one batch.
#[derive(Default)]
struct Answers {
    awaited: usize,
    refusal: Option<Refusal>,
}

impl Declarer {
    /// Connects. The broker lists the connection as `name`.
    ///
    /// # Errors
    /// If the broker cannot be reached, stays silent or refuses the connection.
    pub(crate) async fn open(url: &ServerUrl, name: &str) -> Result<Declarer, IngestError> {
        let uri = parse_uri(url)?;
        Ok(Declarer { connection: Connection::open(&Tcp, &uri, name).await?, uri })
    }

    /// The broker's URL, and the address that accepted.
    pub(crate) fn broker(&self) -> (AMQPUri, SocketAddr) {
        (self.uri.clone(), self.connection.peer())
    }

    /// Sends all methods of all batches, and returns for each batch whether the broker accepted all of it. Methods
    /// after a refused one have no effect.
    ///
    /// # Errors
    /// If the connection fails, or the broker is silent.
    pub(super) async fn run(
        &mut self,
        batches: Vec<Vec<AMQPClass>>,
    ) -> Result<Vec<Result<(), Refusal>>, IngestError> {
        let mut results = Vec::with_capacity(batches.len());
        let at_once = usize::from(self.connection.max_channels()).max(1);
        let mut batches = batches.into_iter().peekable();
        while batches.peek().is_some() {
            let answers = self.run_at_once(batches.by_ref().take(at_once)).await?;
            results.extend(answers.into_iter().map(|answers| answers.refusal.map_or(Ok(()), Err)));
        }
        Ok(results)
    }

    async fn run_at_once(
        &mut self,
        batches: impl Iterator<Item = Vec<AMQPClass>>,
    ) -> Result<Vec<Answers>, IngestError> {
        let mut all = Vec::new();
        for (channel, methods) in (1..).zip(batches) {
            all.push(Answers { awaited: 1 + methods.len(), refusal: None });
            self.connection.queue_method(channel, Channel(channel::AMQPMethod::Open(channel::Open {})));
            for method in methods {
                self.connection.queue_method(channel, method);
            }
        }
        self.collect(&mut all).await?;
        for (channel, answers) in (1..).zip(&mut all) {
            if answers.refusal.is_none() {
                answers.awaited = 1;
                let close = channel::Close { reply_code: REPLY_SUCCESS, ..Default::default() };
                self.connection.queue_method(channel, Channel(channel::AMQPMethod::Close(close)));
            }
        }
        self.collect(&mut all).await?;
        Ok(all)
    }

    /// Sends what is queued and waits for all answers.
    async fn collect(&mut self, all: &mut [Answers]) -> Result<(), IngestError> {
        self.connection.flush().await?;
        while all.iter().any(|answers| answers.awaited > 0) {
            let (channel, method) = self.connection.read_any_method().await?;
            let index = usize::from(channel).checked_sub(1);
            let Some(answers) = index.and_then(|index| all.get_mut(index)) else { continue };
            if let Channel(channel::AMQPMethod::Close(close)) = method {
                answers.awaited = 0;
                answers.refusal = Some(Refusal {
                    code: close.reply_code,
                    reason: close.reply_text.to_string(),
                    method: (close.class_id, close.method_id),
                });
                self.close_ok(channel).await?;
            } else {
                answers.awaited = answers.awaited.saturating_sub(1);
            }
        }
        Ok(())
    }

    async fn close_ok(&mut self, channel: ChannelId) -> Result<(), IngestError> {
        self.connection.queue_method(channel, Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {})));
        self.connection.flush().await
    }

    /// Keeps the connection alive for `duration`.
    ///
    /// # Errors
    /// If the connection fails.
    pub(crate) async fn idle(&mut self, duration: Duration) -> Result<(), IngestError> {
        let until = Instant::now() + duration;
        loop {
            self.connection.flush().await?;
            let heartbeat_at = self.connection.next_heartbeat_check().map_or(until, Instant::from_std);
            tokio::select! {
                () = sleep_until(until) => return Ok(()),
                () = sleep_until(heartbeat_at), if heartbeat_at < until => self.connection.check_heartbeat(true)?,
                filled = self.connection.fill() => {
                    filled?;
                    while self.connection.next()?.is_some() {}
                }
            }
        }
    }
}
