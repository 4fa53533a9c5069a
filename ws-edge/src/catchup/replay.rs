//! A replay: past events for some lagging sessions, with an index of its own, so that it looks at nobody else.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{
    delivery::{
        deliver::{Mode, deliver},
        dispatcher::Dispatcher,
        frame::{builder::EventFrames, event::Event},
        index::Index,
    },
    ids::{ReplayId, SessionNumber, SubjectNumber},
    metrics::Metrics,
    outbox::Outbox,
    protocol::close::Close,
};

/// Sessions that are replayed to together.
#[derive(Debug)]
pub(crate) struct ReplayBatch {
    id: ReplayId,
    /// With the position up to which each has had everything.
    sessions: HashMap<SessionNumber, (Arc<Outbox>, u64)>,
    index: Index,
    /// Outboxes that have to be flushed.
    pub(crate) filled: Vec<Arc<Outbox>>,
}

impl ReplayBatch {
    /// Takes those of `sessions` that wait for a replay.
    ///
    /// If the stream has a leader among several servers (`is_replicated`), a session that may still be owed late events
    /// from before the replay's start is left out, and returned beside it.
    pub(crate) fn new(
        id: ReplayId,
        sessions: Vec<Arc<Outbox>>,
        dispatcher: &Dispatcher,
        is_replicated: bool,
    ) -> (ReplayBatch, Vec<Arc<Outbox>>) {
        let sessions: HashMap<SessionNumber, (Arc<Outbox>, u64)> = sessions
            .into_iter()
            .filter_map(|outbox| {
                let after = outbox.join_replay(id)?;
                Some((outbox.number, (outbox, after)))
            })
            .collect();
        let subjects = sessions.values().flat_map(|(outbox, _)| outbox.subjects()).collect();
        let (index, verified) = dispatcher.subset(subjects, |outbox| sessions.contains_key(&outbox.number));
        let mut batch = ReplayBatch { id, sessions, index, filled: Vec::new() };
        let unverified = batch.begin_at(if is_replicated { verified } else { u64::MAX });
        (batch, unverified)
    }

    /// Raises all watermarks to where the replay begins. Removes and returns the sessions that may be owed something late
    /// from after `verified` and before that: what a replay brings must follow on what is known to have come.
    fn begin_at(&mut self, verified: u64) -> Vec<Arc<Outbox>> {
        let mut unverified = HashSet::new();
        for member in self.index.members() {
            let Some((_, after)) = self.sessions.get(&member.outbox.number) else { continue };
            member.watermark.raise(*after);
            let begin = member.watermark.served();
            if begin > verified && !member.watermark.is_complete(begin) {
                unverified.insert(member.outbox.number);
            }
        }
        self.index.remove_sessions(|outbox| unverified.contains(&outbox.number));
        for member in self.index.members() {
            member.watermark.complete(member.watermark.served());
        }
        let removed = unverified.iter().filter_map(|number| self.sessions.remove(number));
        removed.map(|(outbox, _)| outbox).filter(|outbox| outbox.leave_replay(self.id)).collect()
    }

    /// The replay's id.
    pub(crate) fn id(&self) -> ReplayId {
        self.id
    }

    /// The numbers of its subjects.
    pub(crate) fn subject_numbers(&self) -> HashSet<SubjectNumber> {
        self.index.subjects().map(|(number, _)| number).collect()
    }

    /// Its subjects.
    pub(crate) fn subjects(&self) -> Vec<Arc<str>> {
        self.index.subjects().map(|(_, subject)| Arc::clone(&subject.text)).collect()
    }

    /// The position after which the first session is owed events.
    pub(crate) fn start(&self) -> u64 {
        self.sessions.values().map(|(_, after)| *after).min().unwrap_or_default()
    }

    /// Whether some session is still in it.
    pub(crate) fn is_needed(&self) -> bool {
        self.outboxes().any(|outbox| outbox.is_in_replay(self.id))
    }

    /// Delivers a past event to all sessions that are owed it.
    pub(crate) fn deliver(
        &mut self,
        event_root: &str,
        event: &Event,
        frames: &EventFrames<'_>,
        metrics: &Metrics,
    ) {
        let numbers = self.index.matching(event_root, &event.subject);
        let mode = Mode::Replayed(self.id);
        deliver(&self.index, &numbers, event, frames, mode, &mut self.filled, metrics);
    }

    /// Everything up to `position` has been replayed.
    pub(crate) fn advance(&mut self, position: u64) {
        for (outbox, after) in self.sessions.values_mut() {
            outbox.advance(self.id, position);
            *after = (*after).max(position);
        }
    }

    /// Everything up to `position` has been replayed, and `events` have come live since: the sessions are live.
    pub(crate) fn finish(
        &mut self,
        event_root: &str,
        position: u64,
        mut events: Vec<Event>,
        metrics: &Metrics,
    ) {
        // A late one came after later ones. None of them was delivered yet.
        events.sort_by_key(Event::sequence);
        for event in events.iter().filter(|event| event.sequence() > Some(position)) {
            if let Some(frames) = EventFrames::read(event_root, event) {
                self.deliver(event_root, event, &frames, metrics);
            }
        }
        for member in self.index.members().filter(|member| member.outbox.is_in_replay(self.id)) {
            member.watermark.complete(position);
        }
        self.outboxes().for_each(|outbox| outbox.go_live(self.id, position));
    }

    /// Events before `position` have left the history: closes the sessions that were owed some of them.
    pub(crate) fn close_behind(&self, position: u64) {
        for (outbox, after) in self.sessions.values() {
            if outbox.is_in_replay(self.id) && after.saturating_add(1) < position {
                outbox.close(Close::Behind);
            }
        }
    }

    /// Ends the replay early. Returns the sessions that need another one.
    pub(crate) fn abort(self) -> Vec<Arc<Outbox>> {
        let sessions = self.sessions.into_values().map(|(outbox, _)| outbox);
        sessions.filter(|outbox| outbox.leave_replay(self.id)).collect()
    }

    fn outboxes(&self) -> impl Iterator<Item = &Arc<Outbox>> {
        self.sessions.values().map(|(outbox, _)| outbox)
    }
}

#[cfg(test)]
mod tests;
