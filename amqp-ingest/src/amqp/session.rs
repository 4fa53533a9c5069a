//! One channel, from the first delivery to the loss or the shutdown: takes deliveries, hands events to the publisher,
//! and acknowledges what the stream has.
//!
//! The broker sends no more than `amqp.prefetch` deliveries ahead of the acknowledgements, which bounds everything
//! here. Acknowledgements go out together, because each costs the broker and us about as much as an event: all that
//! has been settled without a gap, a moment after the first of it or when a part of the prefetch is used up.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::{
    Channel, Consumer, ErrorKind,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions},
    types::FieldTable,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Broker,
    delivery::{Fate, decide},
    topology::short,
    window::{State, Window},
};
use crate::{
    body::Rejection,
    error::IngestError,
    publish::{Outcome, Outgoing, Receipt, Settled},
    seldom::Seldom,
};

/// After the shutdown, what is on its way to the stream gets this long to arrive. What does not is given back.
const FINISH_WITHIN: Duration = Duration::from_secs(3);

/// A settled delivery is acknowledged after this at the latest. The broker keeps it so long.
const ACK_WITHIN: Duration = Duration::from_millis(10);

/// When one in so many of the prefetch is settled, that is acknowledged at once: the broker must not run dry.
const ACK_PART: usize = 4;

/// How many settlements are read at once, at most.
const SETTLED_AT_ONCE: usize = 256;

/// A consuming channel.
pub(super) struct Session<'s> {
    broker: &'s Broker,
    channel: Channel,
    consumer: Consumer,
    window: Window,
    settle: mpsc::Sender<Settled>,
    settled: mpsc::Receiver<Settled>,
    /// Up to which delivery the broker is to be told that all is done, and when.
    done: Option<(u64, Instant)>,
    /// How many deliveries have been settled in a row since it was told.
    done_count: usize,
    rejection_log: Seldom,
}

impl<'s> Session<'s> {
    /// Begins to consume.
    pub(super) async fn open(channel: Channel, broker: &'s Broker) -> Result<Session<'s>, IngestError> {
        let prefetch = broker.config.prefetch;
        channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions::default();
        let queue = short(&broker.config.queue)?;
        let consumer =
            channel.basic_consume(queue, "amqp-ingest".into(), options, FieldTable::default()).await?;
        // Room for every delivery that can be under way, so that the publisher never waits for a channel.
        let (settle, settled) = mpsc::channel(usize::from(prefetch));
        Ok(Session {
            broker,
            channel,
            consumer,
            window: Window::new(),
            settle,
            settled,
            done: None,
            done_count: 0,
            rejection_log: Seldom::new(),
        })
    }

    /// Carries events until the shutdown, or until the channel is lost.
    pub(super) async fn carry(&mut self, shutdown: &CancellationToken) -> Result<(), IngestError> {
        match self.carry_on(shutdown).await {
            // The channel was found closed when it was to be used: the consumer knows why.
            Err(IngestError::Amqp(error)) if matches!(error.kind(), ErrorKind::InvalidChannelState(..)) => {
                Err(self.reason().await.unwrap_or(error).into())
            }
            result => result,
        }
    }

    async fn reason(&mut self) -> Option<lapin::Error> {
        let reason = async {
            while let Some(delivery) = self.consumer.next().await {
                if let Err(error) = delivery {
                    return Some(error);
                }
            }
            None
        };
        timeout(Duration::from_secs(1), reason).await.ok().flatten()
    }

    async fn carry_on(&mut self, shutdown: &CancellationToken) -> Result<(), IngestError> {
        let mut news = Vec::with_capacity(SETTLED_AT_ONCE);
        loop {
            let ack_at = self.done.map_or_else(Instant::now, |(_, at)| at);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return self.finish().await,
                _ = self.settled.recv_many(&mut news, SETTLED_AT_ONCE) => self.settle(&mut news).await?,
                () = sleep_until(ack_at), if self.done.is_some() => self.acknowledge().await?,
                delivery = self.consumer.next() => match delivery {
                    Some(Ok(delivery)) => self.take(delivery, shutdown).await?,
                    Some(Err(error)) => return Err(error.into()),
                    None => return Err(IngestError::ConsumerCancelled(self.broker.config.queue.clone())),
                },
            }
        }
    }

    async fn take(
        &mut self,
        mut delivery: Delivery,
        shutdown: &CancellationToken,
    ) -> Result<(), IngestError> {
        let Broker { outgoing, .. } = self.broker;
        let tag = delivery.delivery_tag;
        let bytes = delivery.data.len();
        match decide(&mut delivery, self.broker) {
            Fate::Publish(message) => {
                self.push(tag, State::InFlight)?;
                let receipt = Receipt { tag, settle: self.settle.clone() };
                tokio::select! {
                    // The publisher ends only after its sources.
                    _ = outgoing.send(Outgoing { message, receipt }) => {}
                    () = shutdown.cancelled() => {}
                }
            }
            Fate::Reject(reason) => {
                self.push(tag, State::Rejected)?;
                self.log_rejection(reason, &delivery, bytes);
                self.reject(tag, reason).await?;
                self.advance().await?;
            }
            Fate::Forget => {
                self.push(tag, State::Done)?;
                self.advance().await?;
            }
        }
        Ok(())
    }

    fn push(&mut self, tag: u64, state: State) -> Result<(), IngestError> {
        self.broker.counters.in_flight.inc();
        if self.window.push(tag, state) { Ok(()) } else { Err(IngestError::DeliveryTag(tag)) }
    }

    async fn settle(&mut self, news: &mut Vec<Settled>) -> Result<(), IngestError> {
        for Settled { tag, outcome } in news.drain(..) {
            match outcome {
                Outcome::Stored => self.window.settle(tag, State::Done),
                Outcome::Refused(reason) => {
                    self.window.settle(tag, State::Rejected);
                    self.reject(tag, reason).await?;
                }
            }
        }
        self.advance().await
    }

    /// Notes what has been settled without a gap; acknowledges it if that is much.
    async fn advance(&mut self) -> Result<(), IngestError> {
        let before = self.window.len();
        let done = self.window.advance();
        let settled = before - self.window.len();
        self.broker.counters.in_flight.dec_by(settled as i64);
        self.done_count += settled;
        if let Some(tag) = done {
            let at = self.done.map_or_else(|| Instant::now() + ACK_WITHIN, |(_, at)| at);
            self.done = Some((tag, at));
        }
        if self.done_count * ACK_PART >= usize::from(self.broker.config.prefetch) {
            self.acknowledge().await?;
        }
        Ok(())
    }

    async fn acknowledge(&mut self) -> Result<(), IngestError> {
        self.done_count = 0;
        if let Some((tag, _)) = self.done.take() {
            self.channel.basic_ack(tag, BasicAckOptions { multiple: true }).await?;
        }
        Ok(())
    }

    /// To the dead-letter exchange.
    async fn reject(&self, tag: u64, reason: Rejection) -> Result<(), IngestError> {
        self.broker.metrics.rejected(reason).inc();
        self.channel.basic_reject(tag, BasicRejectOptions { requeue: false }).await?;
        Ok(())
    }

    fn log_rejection(&mut self, reason: Rejection, delivery: &Delivery, bytes: usize) {
        if let Some(left_out) = self.rejection_log.pass() {
            tracing::warn!(
                reason = reason.label(),
                exchange = delivery.exchange.as_str(),
                routing_key = delivery.routing_key.as_str(),
                bytes,
                left_out,
                "rejected an event to the dead-letter exchange"
            );
        }
    }

    /// Waits for what is on its way to the stream; the rest goes back to the broker with the channel.
    async fn finish(&mut self) -> Result<(), IngestError> {
        let deadline = Instant::now() + FINISH_WITHIN;
        let mut news = Vec::new();
        while self.window.len() > 0 {
            tokio::select! {
                () = sleep_until(deadline) => {
                    tracing::warn!(events = self.window.len(), "gives events back to the broker");
                    return self.acknowledge().await;
                }
                _ = self.settled.recv_many(&mut news, SETTLED_AT_ONCE) => self.settle(&mut news).await?,
            }
        }
        self.acknowledge().await
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.broker.counters.in_flight.dec_by(self.window.len() as i64);
    }
}
