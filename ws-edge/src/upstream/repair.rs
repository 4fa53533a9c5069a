//! Reading a gap from the stream, for all sessions that are live.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use parking_lot::Mutex;

use super::{
    history::{History, ReadOutcome},
    stream_info::StreamError,
};
use crate::{
    delivery::{dispatcher::Dispatcher, frame::builder::EventFrames},
    metrics::Metrics,
    protocol::{close::Close, cursor::StreamId},
};

/// Events delivered before the outboxes are flushed.
const REPAIR_BATCH: u64 = 64;

/// The positions of recent live events, which show what has not come.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen(VecDeque<u64>);

impl Seen {
    pub(super) fn add(&mut self, position: u64) {
        // An event comes once for each subject that it matches.
        if self.0.back() != Some(&position) {
            self.0.push_back(position);
        }
    }

    /// Everything up to `verified` is known to have come.
    pub(super) fn forget(&mut self, verified: u64) {
        while self.0.front().is_some_and(|position| *position <= verified) {
            self.0.pop_front();
        }
    }
}

/// The positions of late events that unfinished repairs have delivered, so that the next repair does not deliver them
/// again. Watermarks recognise all other events.
#[derive(Clone, Debug, Default)]
pub(super) struct RepairedLate(Arc<Mutex<HashSet<u64>>>);

impl RepairedLate {
    /// A repair is complete.
    pub(super) fn clear(&self) {
        self.0.lock().clear();
    }
}

/// Positions that are to be read from the stream.
#[derive(Debug)]
pub(super) struct Gap {
    pub(super) stream: StreamId,
    /// Everything after this position,
    pub(super) after: u64,
    /// up to this one,
    pub(super) last: u64,
    /// but for what came live, and what an unfinished repair has delivered.
    pub(super) seen: Seen,
    pub(super) repaired: RepairedLate,
}

/// Delivers the events of a gap. Returns how many there were.
///
/// An event that is older than the newest one `seen`, and was not seen, is late: it goes out after later ones.
pub(super) async fn repair(
    history: History,
    dispatcher: Arc<Dispatcher>,
    metrics: Arc<Metrics>,
    gap: Gap,
) -> Result<u64, StreamError> {
    let newest = gap.seen.0.iter().max().copied().unwrap_or_default();
    let seen: HashSet<u64> = gap.seen.0.into_iter().collect();
    let mut reader = history.read(gap.stream, gap.after, gap.last, None).await?;
    let mut count = 0;
    loop {
        match reader.next().await? {
            ReadOutcome::Event(event) => {
                let position = event.sequence().unwrap_or_default();
                if seen.contains(&position) || gap.repaired.0.lock().contains(&position) {
                    continue;
                }
                count += 1;
                metrics.events_repaired.inc();
                let is_late = position < newest;
                match EventFrames::read(dispatcher.event_root(), &event) {
                    Some(frames) => dispatcher.deliver_missed(&event, &frames, is_late),
                    None => drop(metrics.events_unreadable.inc()),
                }
                if is_late {
                    gap.repaired.0.lock().insert(position);
                }
                if count % REPAIR_BATCH == 0 {
                    dispatcher.flush();
                }
            }
            // Never a gap that the client does not hear of.
            ReadOutcome::Trimmed(position) => {
                tracing::warn!(position, "missed events have left the history, closing all sessions");
                dispatcher.close_all(Close::Behind);
            }
            ReadOutcome::End => {
                dispatcher.flush();
                return Ok(count);
            }
        }
    }
}
