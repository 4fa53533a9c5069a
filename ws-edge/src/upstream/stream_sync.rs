//! Whether live events are complete. It decides and does nothing itself: positions, answers about the stream and the
//! outcome of repairs go in; what to do comes out.
//!
//! One connection to one NATS server brings everything in order, but a lost connection leaves a gap, and in a cluster a
//! leader that dies may take events with it that it had stored and not sent. So live events are delivered only while it
//! is known that nothing is missing. Otherwise they are held back until the gap has been read from the stream.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{
    contradiction::{Contradictions, STALE_TIMEOUT},
    repair::{Gap, RepairedLate, Seen},
    stream_info::{StreamError, StreamInfo},
};
use crate::protocol::cursor::StreamId;

/// How often the stream is asked for its state.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Pause after an answer that could not be used.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// Whether live events are delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SyncState {
    /// Yes: nothing is missing.
    InSync,
    /// No: something may be missing. The stream is being asked.
    Unsure,
    /// No: what is missing up to this position is being read.
    Repairing(u64),
}

/// What the event reader has to do.
#[derive(Debug)]
pub(super) enum Effect {
    /// The stream was replaced: forget all positions.
    ResetPositions,
    /// The stream has come back shorter: forget everything after this position.
    Truncate(u64),
    /// Live sessions have been served up to this position, and nothing before it is late.
    Verified(u64),
    /// Nothing is missing: deliver what was held back.
    Release,
    /// Read this gap from the stream.
    Repair(Gap),
}

/// Whether live events are complete, and up to where.
#[derive(Debug)]
pub(super) struct StreamSync {
    state: SyncState,
    /// The stream's last known state; `None` if there is no stream.
    known: Option<StreamInfo>,
    /// Whether the stream was ever asked successfully. Before that no session was told of a subscription.
    is_informed: bool,
    /// The server is part of a cluster.
    is_clustered: bool,
    /// The stream that is gone, and up to where it had come.
    lost: Option<(StreamId, u64)>,
    /// The newest event that was delivered: its position and its subject.
    position: u64,
    subject: Bytes,
    /// A live event at or below this position was read from the stream already, or is known to be late.
    settled: u64,
    /// Everything up to this position has come: it was the stream's end one check ago.
    verified: u64,
    /// When the stream was last checked in sync, and where it ended then. The next check verifies that.
    checked: (Instant, u64),
    /// What has come live since, if a leader may take events with it.
    seen: Seen,
    /// Late events that unfinished repairs have delivered.
    repaired: RepairedLate,
    /// Since when events come with positions, although the server says that there is no stream, and the oldest of these.
    denied: Option<(Instant, u64)>,
    contradictions: Contradictions,
    /// The running repair is not enough: a message was dropped, or the leader has changed once more.
    repair_again: bool,
    /// When the stream is to be asked next,
    next_check: Instant,
    /// and before when it is not, because the last answer could not be used.
    not_before: Instant,
}

impl StreamSync {
    /// Before anything is known.
    pub(super) fn new(now: Instant) -> StreamSync {
        StreamSync {
            state: SyncState::Unsure,
            known: None,
            is_informed: false,
            is_clustered: false,
            lost: None,
            position: 0,
            subject: Bytes::new(),
            settled: 0,
            verified: 0,
            checked: (now, 0),
            seen: Seen::default(),
            repaired: RepairedLate::default(),
            denied: None,
            contradictions: Contradictions::default(),
            repair_again: false,
            next_check: now,
            not_before: now,
        }
    }

    /// Whether live events are delivered.
    pub(super) fn is_in_sync(&self) -> bool {
        self.state == SyncState::InSync
    }

    /// Whether there is no stream: it was deleted, so that the positions of its last events mean nothing, or the server
    /// says so for long.
    pub(super) fn has_no_stream(&self, now: Instant) -> bool {
        let is_denied = self.denied.is_some_and(|(since, _)| now - since >= STALE_TIMEOUT);
        self.known.is_none() && (self.lost.is_some() || is_denied)
    }

    /// Whether the stream has a leader among several servers, which may take events with it.
    pub(super) fn is_replicated(&self) -> bool {
        self.known.as_ref().is_some_and(|known| known.leader.is_some())
    }

    /// The server that leads the stream among several.
    pub(super) fn leader(&self) -> Option<&str> {
        self.known.as_ref()?.leader.as_deref()
    }

    /// The position that has come: the stream's leader has at least that.
    pub(super) fn position(&self) -> u64 {
        self.position.max(self.verified)
    }

    /// The stream has at least this position: it has come, or was reported.
    pub(super) fn expected(&self) -> u64 {
        self.known.as_ref().map_or(0, |known| known.last).max(self.position())
    }

    /// When the stream is to be asked for its state.
    pub(super) fn next_check(&self) -> Instant {
        self.next_check.max(self.not_before)
    }

    /// Whether the stream may be asked now.
    pub(super) fn may_check(&self, now: Instant) -> bool {
        now >= self.not_before
    }

    /// The stream was asked.
    pub(super) fn asked(&mut self, now: Instant) {
        self.next_check = now + CHECK_INTERVAL;
    }

    /// A connection begins, to a server of a cluster or to a single one.
    pub(super) fn connected(&mut self, is_clustered: bool, now: Instant) {
        self.is_clustered = is_clustered;
        self.disconnected(now);
    }

    /// A connection ends: something may be missing.
    pub(super) fn disconnected(&mut self, now: Instant) {
        self.state = SyncState::Unsure;
        self.next_check = now;
    }

    /// Something may be missing, perhaps with the leader that sent it.
    pub(super) fn doubt(&mut self, now: Instant) {
        if self.is_in_sync() {
            self.state = SyncState::Unsure;
            self.next_check = now;
        }
    }

    /// The stream has a leader, perhaps another one. The last one may have stored events without sending them.
    pub(super) fn elected(&mut self, now: Instant) {
        self.repair_again = true;
        self.doubt(now);
    }

    /// A message could not be held back: the next repair is to bring it.
    pub(super) fn dropped(&mut self) {
        self.repair_again = true;
    }

    /// A live event has come. Returns the stream that it is from; `None` if that is in doubt.
    pub(super) fn accept(&mut self, sequence: u64, subject: &Bytes, now: Instant) -> Option<StreamId> {
        if self.known.is_none() && self.lost.is_none() {
            let (_, oldest) = self.denied.get_or_insert((now, sequence));
            *oldest = sequence.min(*oldest);
        }
        let known = self.known.as_ref().filter(|_| !self.goes_back(sequence, subject))?;
        let (stream, is_replicated) = (known.id, known.leader.is_some());
        if sequence >= self.position {
            self.position = sequence;
            self.subject = subject.clone();
        }
        if is_replicated {
            self.seen.add(sequence);
        }
        Some(stream)
    }

    /// On one connection and in one stream, positions only grow. An event that matches several subjects comes several
    /// times.
    fn goes_back(&self, sequence: u64, subject: &Bytes) -> bool {
        let is_back = sequence < self.position || (sequence == self.position && *subject != self.subject);
        is_back && sequence > self.settled
    }

    /// Returns an answer about the stream, unless it contradicts what is known, or is the first of a cluster and denies that
    /// there is one. That is believed only when it has come again and again. The stream had `position` when the question was sent ([`StreamSync::expected`]).
    pub(super) fn believe(
        &mut self,
        info: Option<StreamInfo>,
        position: u64,
        now: Instant,
    ) -> Result<Option<StreamInfo>, StreamError> {
        let is_denied = info.is_none() && self.is_clustered && !self.is_informed;
        let is_contradicted = |known: &StreamInfo| known.is_contradicted(info.as_ref(), position);
        let is_doubtful = is_denied || self.known.as_ref().is_some_and(is_contradicted);
        if self.contradictions.is_believed(is_doubtful, now) {
            Ok(info)
        } else {
            Err(StreamError::new("another server of the cluster may know better"))
        }
    }

    /// An answer could not be used.
    pub(super) fn unusable(&mut self, now: Instant) {
        self.not_before = now + RETRY_INTERVAL;
        self.next_check = self.not_before;
    }

    /// Compares the stream's state with the one before. It had `position` when it was asked for ([`StreamSync::expected`]).
    pub(super) fn informed(&mut self, info: Option<StreamInfo>, position: u64, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        let before = std::mem::replace(&mut self.known, info.clone());
        let is_first = !std::mem::replace(&mut self.is_informed, true);
        let Some(info) = info else {
            if let Some(before) = before {
                tracing::warn!("the stream is gone, events have no history");
                self.lost = Some((before.id, self.position()));
                effects.push(self.reset());
            }
            // A leader of the cluster that has just been elected does not know the stream yet.
            if self.denied.is_some_and(|(since, _)| now - since < STALE_TIMEOUT) {
                self.unusable(now);
            } else if !self.is_in_sync() {
                effects.push(self.release());
            }
            return effects;
        };
        let denied = self.denied.take();
        match before {
            Some(before) if before.id != info.id => {
                tracing::warn!("the stream was replaced, its positions begin anew");
                effects.push(self.reset());
                self.doubt(now);
            }
            // After a power loss, or from a backup. What is stored from here on gets positions that were others' before.
            Some(_) if info.last < position => {
                tracing::warn!(
                    last = info.last,
                    position,
                    "the stream has come back shorter, its newest events are lost"
                );
                effects.push(self.truncate(info.last, now));
            }
            Some(before) if before.leader != info.leader => {
                tracing::info!(leader = info.leader, "the stream has another leader");
                self.elected(now);
            }
            Some(_) => {}
            // No session was told of a subscription yet: nobody is owed what was stored before.
            None if is_first => {
                self.position = info.last;
                self.verified = info.last;
                effects.push(Effect::Verified(info.last));
            }
            // There was none when sessions were told of their subscriptions: they are owed all that it has.
            None => {
                match self.lost.take() {
                    Some((id, position)) if id == info.id => {
                        self.position = position;
                        self.verified = position;
                    }
                    _ => {
                        // It may be an old one that a single server did not know yet.
                        if let Some((_, oldest)) = denied.filter(|_| info.leader.is_none()) {
                            self.position = oldest.saturating_sub(1);
                            self.verified = self.position;
                        }
                        tracing::info!("there is a new stream, its events have a history");
                    }
                }
                self.doubt(now);
            }
        }
        match self.state {
            SyncState::InSync => effects.extend(self.verify(&info, now)),
            SyncState::Unsure => effects.push(self.repair(&info)),
            SyncState::Repairing(_) => {}
        }
        effects
    }

    /// What the stream had one check ago has come by now.
    fn verify(&mut self, info: &StreamInfo, now: Instant) -> Option<Effect> {
        let (at, last) = self.checked;
        if now - at < CHECK_INTERVAL {
            return None;
        }
        self.checked = (now, info.last);
        self.verified = last;
        self.seen.forget(last);
        Some(Effect::Verified(last))
    }

    fn repair(&mut self, info: &StreamInfo) -> Effect {
        let is_replicated = info.leader.is_some();
        // One server sent everything in order. A leader that is gone may not have sent all it had.
        let after = if is_replicated { self.verified } else { self.position() };
        self.repair_again = false;
        if info.last <= after {
            return self.release();
        }
        self.state = SyncState::Repairing(info.last);
        Effect::Repair(Gap {
            stream: info.id,
            after,
            last: info.last,
            seen: if is_replicated { self.seen.clone() } else { Seen::default() },
            repaired: self.repaired.clone(),
        })
    }

    /// A repair is complete, or has failed.
    pub(super) fn repaired(&mut self, is_complete: bool, now: Instant) -> Vec<Effect> {
        let SyncState::Repairing(last) = std::mem::replace(&mut self.state, SyncState::Unsure) else {
            return Vec::new();
        };
        if !is_complete {
            self.next_check = now + RETRY_INTERVAL;
            return Vec::new();
        }
        self.position = self.position.max(last);
        self.verified = last;
        self.checked = (now, last);
        self.seen = Seen::default();
        self.repaired.clear();
        let mut effects = vec![Effect::Verified(last)];
        if self.repair_again {
            self.next_check = now;
        } else {
            effects.push(self.release());
        }
        effects
    }

    fn release(&mut self) -> Effect {
        self.state = SyncState::InSync;
        self.settled = self.settled.max(self.position);
        Effect::Release
    }

    fn truncate(&mut self, last: u64, now: Instant) -> Effect {
        // What was reported and has not come yet is still owed.
        let (position, verified) = (self.position.min(last), self.verified.min(last));
        self.reset();
        self.position = position;
        self.settled = position;
        self.verified = verified;
        self.checked = (now, last);
        self.doubt(now);
        Effect::Truncate(last)
    }

    fn reset(&mut self) -> Effect {
        self.position = 0;
        self.subject = Bytes::new();
        self.settled = 0;
        self.verified = 0;
        self.checked.1 = 0;
        self.seen = Seen::default();
        self.repaired.clear();
        // A running repair would bring the other stream's events.
        if let SyncState::Repairing(_) = self.state {
            self.state = SyncState::Unsure;
        }
        Effect::ResetPositions
    }
}

#[cfg(test)]
mod tests;
