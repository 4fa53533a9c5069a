//! Reading the stream for a replay.

use std::sync::Arc;

use super::{Catchup, replay::ReplayBatch};
use crate::{
    delivery::frame::{builder::EventFrames, event::Event},
    protocol::cursor::StreamId,
    upstream::{
        history::{HistoryReader, ReadOutcome},
        stream_info::StreamError,
    },
};

/// Events replayed before the task yields and flushes the outboxes.
const REPLAY_BATCH: usize = 64;

impl Catchup {
    /// Replays everything that `reader` brings.
    pub(super) async fn read_unfiltered(
        &self,
        batch: &mut ReplayBatch,
        mut reader: HistoryReader,
    ) -> Result<(), StreamError> {
        let mut count = 0;
        loop {
            match reader.next().await? {
                ReadOutcome::Event(event) => self.deliver(batch, &event),
                ReadOutcome::Trimmed(position) => batch.close_behind(position),
                ReadOutcome::End => return Ok(()),
            }
            count += 1;
            if !self.pause(batch, count).await {
                return Ok(());
            }
        }
    }

    /// Replays what one reader for each subject brings, merged in the order of the stream.
    pub(super) async fn read_filtered(
        &self,
        batch: &mut ReplayBatch,
        subjects: &[Arc<str>],
        stream: StreamId,
        after: u64,
        last: u64,
    ) -> Result<(), StreamError> {
        let mut heads = Vec::with_capacity(subjects.len());
        for subject in subjects {
            let mut reader = self.history.read(stream, after, last, Some(subject)).await?;
            if let ReadOutcome::Event(event) = reader.next().await? {
                heads.push((event, reader));
            }
        }
        let mut count = 0;
        while let Some(first) = heads.iter().map(|(event, _)| event.sequence()).min() {
            let mut is_new = true;
            for index in (0..heads.len()).rev() {
                let Some((event, reader)) = heads.get_mut(index) else { continue };
                if event.sequence() != first {
                    continue;
                }
                // An event that matches two subjects comes from both readers.
                if std::mem::take(&mut is_new) {
                    self.deliver(batch, event);
                }
                match reader.next().await? {
                    ReadOutcome::Event(next) => *event = next,
                    ReadOutcome::Trimmed(_) | ReadOutcome::End => drop(heads.swap_remove(index)),
                }
            }
            count += 1;
            if !self.pause(batch, count).await {
                return Ok(());
            }
        }
        Ok(())
    }

    fn deliver(&self, batch: &mut ReplayBatch, event: &Event) {
        self.metrics.events_caught_up.inc();
        match EventFrames::read(self.dispatcher.event_root(), event) {
            Some(frames) => batch.deliver(event, &frames, &self.metrics),
            None => drop(self.metrics.events_unreadable.inc()),
        }
    }

    /// After each [`REPLAY_BATCH`] events, flushes and yields. Returns whether the replay is still needed.
    async fn pause(&self, batch: &mut ReplayBatch, count: usize) -> bool {
        if !count.is_multiple_of(REPLAY_BATCH) {
            return true;
        }
        self.dispatcher.flush_these(&mut batch.filled);
        if !batch.is_needed() {
            return false;
        }
        tokio::task::yield_now().await;
        true
    }
}
