//! Bringing what was missed live from the stream to all sessions that are live.

use std::{
    collections::{HashSet, VecDeque},
    ops::Range,
    sync::Arc,
};

use parking_lot::Mutex;

use super::stream::Unreadable;
use crate::{
    close::Close,
    cursor::Identity,
    fanout::Fanout,
    frame::EventFrames,
    history::{Found, History},
    metrics::Metrics,
};

/// After so many events the queues are flushed.
const AT_ONCE: u64 = 64;

/// The positions of what has come live of late, so that what has not can be told from it.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    positions: VecDeque<u64>,
}

impl Seen {
    pub(super) fn add(&mut self, position: u64) {
        // An event comes once for each subject that it matches.
        if self.positions.back() != Some(&position) {
            self.positions.push_back(position);
        }
    }

    /// Everything up to here is known to have come.
    pub(super) fn forget(&mut self, verified: u64) {
        while self.positions.front().is_some_and(|position| *position <= verified) {
            self.positions.pop_front();
        }
    }
}

/// The positions that repairs have brought which were broken off, so that the next one does not bring them again.
#[derive(Clone, Debug, Default)]
pub(super) struct Brought(Arc<Mutex<HashSet<u64>>>);

impl Brought {
    /// A repair came to its end.
    pub(super) fn forget(&self) {
        self.0.lock().clear();
    }
}

/// Brings the events behind `gap.start` up to `gap.end`. Returns how many there were.
///
/// What is older than the newest that was `seen`, and was not seen, is late: it goes out after what came before.
pub(super) async fn bring(
    history: History,
    fanout: Arc<Fanout>,
    metrics: Arc<Metrics>,
    identity: Identity,
    gap: Range<u64>,
    seen: Seen,
    before: Brought,
) -> Result<u64, Unreadable> {
    let newest = seen.positions.iter().max().copied().unwrap_or_default();
    let seen: HashSet<u64> = seen.positions.into_iter().collect();
    let mut reader = history.read(identity, gap.start, gap.end, None).await?;
    let mut brought = 0;
    loop {
        match reader.next().await? {
            Found::Event(event) => {
                let position = event.place.map_or(0, |place| place.sequence);
                if seen.contains(&position) || before.0.lock().contains(&position) {
                    continue;
                }
                brought += 1;
                metrics.events_repaired.inc();
                let is_late = position < newest;
                match EventFrames::read(fanout.event_root(), &event) {
                    Some(frames) => fanout.deliver_missed(&event, &frames, is_late),
                    None => drop(metrics.events_unreadable.inc()),
                }
                // Of any other, each member's mark tells.
                if is_late {
                    before.0.lock().insert(position);
                }
                if brought % AT_ONCE == 0 {
                    fanout.flush();
                }
            }
            // Never a hole without a word.
            Found::Gone(position) => {
                tracing::warn!(position, "what was missed has left the history, sessions are closed");
                fanout.close_all(Close::Behind);
            }
            Found::End => {
                fanout.flush();
                return Ok(brought);
            }
        }
    }
}
