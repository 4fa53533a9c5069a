//! Reading the stream for a replay.

use std::sync::Arc;

use super::{Catchup, budget::Charge, plan::ReadEnd, replay::ReplayBatch};
use crate::{
    delivery::frame::{builder::EventFrames, event::Event},
    upstream::{
        history::{HistoryReader, ReadOutcome},
        stream_info::{StreamError, StreamInfo},
    },
};

/// Events replayed before the task yields and flushes the outboxes.
const REPLAY_BATCH: usize = 64;

impl Catchup {
    /// Replays everything that an unfiltered reader brings.
    pub(super) async fn read_everything(
        &self,
        batch: &mut ReplayBatch,
        mut reader: HistoryReader,
        charge: &mut Charge<'_>,
    ) -> Result<ReadEnd, StreamError> {
        let mut count = 0;
        loop {
            let position = match reader.next().await? {
                ReadOutcome::Event(event) => {
                    self.deliver(batch, &event, charge);
                    event.sequence()
                }
                ReadOutcome::Trimmed(position) => {
                    batch.close_behind(position);
                    None
                }
                ReadOutcome::End => {
                    charge.settle();
                    return Ok(ReadEnd::Complete);
                }
            };
            count += 1;
            match self.pause(batch, count, charge).await {
                Pause::Continue => {}
                Pause::Unneeded => return Ok(ReadEnd::Unneeded),
                Pause::Exhausted => {
                    if let Some(position) = position {
                        return Ok(ReadEnd::Exhausted(position));
                    }
                }
            }
        }
    }

    /// Replays what one reader for each filter brings, merged in the order of the stream that `info` describes.
    pub(super) async fn read_filtered(
        &self,
        batch: &mut ReplayBatch,
        filters: &[Arc<str>],
        info: &StreamInfo,
        after: u64,
        last: u64,
        charge: &mut Charge<'_>,
    ) -> Result<ReadEnd, StreamError> {
        // Live events may be ahead of a leader that is none any more.
        if info.leader.is_some() && info.last < last {
            return Err(StreamError::new("the leader does not have the newest events"));
        }
        let mut heads = Vec::with_capacity(filters.len());
        for filter in filters {
            let mut reader = self.history.read(info.id, after, last, Some((filter, info))).await?;
            reader.share_fetch(filters.len());
            if let ReadOutcome::Event(event) = reader.next().await? {
                heads.push((event, reader));
            }
        }
        // Before a client goes on after a gap.
        self.check_filtered(batch, info).await?;
        let mut count = 0;
        let mut end = ReadEnd::Complete;
        while let Some(first) = heads.iter().map(|(event, _)| event.sequence()).min() {
            let mut is_new = true;
            for index in (0..heads.len()).rev() {
                let Some((event, reader)) = heads.get_mut(index) else { continue };
                if event.sequence() != first {
                    continue;
                }
                // An event that matches two filters comes from both readers.
                if std::mem::take(&mut is_new) {
                    self.deliver(batch, event, charge);
                }
                match reader.next().await? {
                    ReadOutcome::Event(next) => *event = next,
                    ReadOutcome::Trimmed(_) | ReadOutcome::End => drop(heads.swap_remove(index)),
                }
            }
            count += 1;
            match self.pause(batch, count, charge).await {
                Pause::Continue => {}
                Pause::Unneeded => return Ok(ReadEnd::Unneeded),
                Pause::Exhausted => {
                    end = ReadEnd::Exhausted(first.unwrap_or(after));
                    break;
                }
            }
        }
        charge.settle();
        let reached = if let ReadEnd::Exhausted(position) = end { position } else { last };
        charge.settle_positions(reached.saturating_sub(after));
        self.check_filtered(batch, info).await?;
        Ok(end)
    }

    /// A filtered reader notices neither that events have left the stream nor, in a cluster, that its server has fewer
    /// events than the leader. So it reads at the leader, and here it is checked that this still leads. Sessions that may
    /// lack events are closed.
    async fn check_filtered(&self, batch: &ReplayBatch, before: &StreamInfo) -> Result<(), StreamError> {
        let Some(now) = self.info().await?.filter(|now| now.id == before.id) else {
            batch.close_behind(u64::MAX);
            return Ok(());
        };
        if now.leader != before.leader {
            return Err(StreamError::new("the stream's leader has changed"));
        }
        batch.close_behind(now.first);
        Ok(())
    }

    fn deliver(&self, batch: &mut ReplayBatch, event: &Event, charge: &mut Charge<'_>) {
        charge.add(event);
        self.metrics.events_caught_up.inc();
        let event_root = self.dispatcher.event_root();
        match EventFrames::read(event_root, event) {
            Some(frames) => batch.deliver(event_root, event, &frames, &self.metrics),
            None => drop(self.metrics.events_unreadable.inc()),
        }
    }

    /// After each [`REPLAY_BATCH`] events, flushes and yields. Returns whether the replay goes on.
    async fn pause(&self, batch: &mut ReplayBatch, count: usize, charge: &mut Charge<'_>) -> Pause {
        if !count.is_multiple_of(REPLAY_BATCH) {
            return Pause::Continue;
        }
        self.dispatcher.flush_these(&mut batch.filled);
        if !batch.is_needed() {
            return Pause::Unneeded;
        }
        if charge.settle() {
            return Pause::Exhausted;
        }
        tokio::task::yield_now().await;
        Pause::Continue
    }
}

/// Whether a replay goes on.
enum Pause {
    Continue,
    Unneeded,
    Exhausted,
}
