//! Queueing events, and what happens if the client reads too slowly and the queue is full: the session lags, or is closed.
//! A session that is about to be closed gets none: the client must not go on after a gap before it hears of it.

use super::{
    Outbox, Pushed,
    delivery_state::{DeliveryState, Lag, Stage},
    frame::Frame,
};
use crate::{ids::ReplayId, protocol::close::Close};

impl Outbox {
    /// Queues the frame of a live event at this position of the stream. `frame` is called only if it is needed; where
    /// it returns `None` there is nothing to send.
    ///
    /// If the queue is full, the session lags from here on; without a position there is no history to catch up from, and
    /// it is closed.
    pub(crate) fn push_live(&self, sequence: Option<u64>, frame: impl FnOnce() -> Option<Frame>) -> Pushed {
        let mut state = self.state.lock();
        if state.closing.is_some() {
            return Pushed::Ended;
        }
        match state.delivery {
            DeliveryState::Live { .. } => {}
            DeliveryState::Lagging(_) => return Pushed::Lagging,
            DeliveryState::Ended => return Pushed::Ended,
        }
        let Some(frame) = frame() else { return Pushed::Queued };
        if state.queue.has_room(frame.len(), self.max_bytes) {
            state.newest = sequence.unwrap_or_default();
            return state.push(frame);
        }
        self.metrics.sessions_overrun.inc();
        match sequence {
            Some(sequence) => {
                let lag = Lag { after: sequence.saturating_sub(1), stage: Stage::Waiting };
                state.delivery = DeliveryState::Lagging(lag);
                self.metrics.sessions_lagging.inc();
                Pushed::Lagging
            }
            None => {
                drop(state);
                self.close(Close::TooSlow);
                Pushed::Ended
            }
        }
    }

    /// Queues the frame of an event that was missed while later ones came, for a member that was served up to position
    /// `served`. The replay of a lagging session does not bring an event that is older than its start: if there is no
    /// room for that one now, the session is closed.
    pub(crate) fn push_late(
        &self,
        sequence: u64,
        served: u64,
        frame: impl FnOnce() -> Option<Frame>,
    ) -> Pushed {
        let mut state = self.state.lock();
        if state.closing.is_some() {
            return Pushed::Ended;
        }
        match state.delivery {
            DeliveryState::Live { .. } => {}
            DeliveryState::Lagging(lag) if sequence <= lag.after.max(served) => {}
            DeliveryState::Lagging(_) => return Pushed::Lagging,
            DeliveryState::Ended => return Pushed::Ended,
        }
        let Some(frame) = frame() else { return Pushed::Queued };
        if state.queue.has_room(frame.len(), self.max_bytes) {
            return state.push(frame);
        }
        drop(state);
        self.close(Close::Behind);
        Pushed::Ended
    }

    /// Queues the frame of a past event for a session that `replay` brings up to date.
    ///
    /// [`Pushed::Lagging`] if it does not: the queue is full and the session has to wait for another replay, or the
    /// session has left this one.
    pub(crate) fn push_replayed(
        &self,
        replay: ReplayId,
        sequence: u64,
        frame: impl FnOnce() -> Option<Frame>,
    ) -> Pushed {
        let mut state = self.state.lock();
        if state.closing.is_some() {
            return Pushed::Ended;
        }
        match state.delivery {
            DeliveryState::Lagging(lag) if lag.stage == Stage::Replaying(replay) => {
                let Some(frame) = frame() else { return Pushed::Queued };
                if state.queue.has_room(frame.len(), self.max_bytes) {
                    state.newest = state.newest.max(sequence);
                    return state.push(frame);
                }
                let after = lag.after.max(sequence.saturating_sub(1));
                state.delivery = DeliveryState::Lagging(Lag { after, stage: Stage::Waiting });
                Pushed::Lagging
            }
            DeliveryState::Live { .. } | DeliveryState::Lagging(_) => Pushed::Lagging,
            DeliveryState::Ended => Pushed::Ended,
        }
    }
}
