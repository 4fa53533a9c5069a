//! What replays use of the dispatcher.

use std::{collections::HashSet, sync::Arc};

use super::Dispatcher;
use crate::{
    delivery::{frame::event::Event, index::Index, live_buffer::LiveBuffer},
    ids::{ReplayId, SubjectNumber},
    outbox::Outbox,
};

impl Dispatcher {
    /// The first words of all subjects.
    pub(crate) fn event_root(&self) -> &str {
        &self.event_root
    }

    /// The part of the index that is for the sessions that `is_wanted`, which have these subjects; and the position up to
    /// which nothing is late any more.
    pub(crate) fn subset(
        &self,
        subjects: HashSet<SubjectNumber>,
        is_wanted: impl Fn(&Outbox) -> bool,
    ) -> (Index, u64) {
        let table = self.table.lock();
        (table.index.subset(&self.event_root, subjects, is_wanted), table.verified)
    }

    /// Keeps live events of these subjects for a replay from now on. Returns the position up to which live sessions have
    /// been served.
    pub(crate) fn start_buffer(&self, replay: ReplayId, subjects: HashSet<SubjectNumber>) -> u64 {
        let mut table = self.table.lock();
        table.live_buffers.retain(|buffer| buffer.replay() != replay);
        table.live_buffers.push(LiveBuffer::new(replay, subjects));
        table.position
    }

    /// Ends a replay's buffer. Hands its events to `finish`, during which no live event comes. Returns whether there was
    /// a complete buffer.
    pub(crate) fn end_buffer(&self, replay: ReplayId, finish: impl FnOnce(Vec<Event>)) -> bool {
        let mut table = self.table.lock();
        let Some(index) = table.live_buffers.iter().position(|buffer| buffer.replay() == replay) else {
            return false;
        };
        let Some(events) = table.live_buffers.swap_remove(index).into_events() else { return false };
        finish(events);
        true
    }

    /// Drops a replay's buffer.
    pub(crate) fn drop_buffer(&self, replay: ReplayId) {
        self.table.lock().live_buffers.retain(|buffer| buffer.replay() != replay);
    }

    /// Flushes these outboxes.
    pub(crate) fn flush_these(&self, filled: &mut Vec<Arc<Outbox>>) {
        self.flusher.flush(filled);
    }
}
