//! The outbox of a lagging session: held for a reply, waiting for a replay, in a replay, and live again.

use super::{
    Outbox,
    delivery_state::{DeliveryState, Lag, Stage},
};
use crate::ids::ReplayId;

impl Outbox {
    /// Holds the session until [`Outbox::release`]: it is owed events after position `after`, or what it was owed before
    /// if that is older. Returns the position up to which it had everything: `live`, if it was live; `None` if it had no
    /// subjects.
    pub(crate) fn hold(&self, after: u64, live: u64) -> Option<u64> {
        let mut state = self.state.lock();
        if let DeliveryState::Live { .. } = state.delivery {
            self.metrics.sessions_lagging.inc();
        }
        if state.subjects.is_empty() {
            state.delivery.hold_new(after);
            None
        } else {
            Some(state.delivery.hold(after, live))
        }
    }

    /// A session that is held is owed what it was owed before, or what comes after `end` if that was nothing.
    pub(crate) fn forgo_past(&self, end: u64) {
        if let DeliveryState::Lagging(lag) = &mut self.state.lock().delivery
            && let Stage::Held { had } = lag.stage
        {
            lag.after = had.unwrap_or(end);
        }
    }

    /// The position after which a new subject's events begin, while live sessions are at position `live`: a replay may
    /// have brought this session further.
    ///
    /// A session that lags and has no subjects is owed only what comes from here on: what it had not got is nothing to it
    /// any more, and the stream may have been replaced meanwhile.
    pub(crate) fn begin_after(&self, live: u64) -> u64 {
        let mut state = self.state.lock();
        if state.subjects.is_empty() {
            state.newest = 0;
            if let DeliveryState::Lagging(lag) = &mut state.delivery {
                lag.after = live;
            }
        }
        live.max(state.newest)
    }

    /// The stream was replaced: its positions begin anew.
    pub(crate) fn reset_newest(&self) {
        self.state.lock().newest = 0;
    }

    /// Positions after `position` are given anew.
    pub(crate) fn truncate(&self, position: u64) {
        let mut state = self.state.lock();
        state.newest = state.newest.min(position);
        match &mut state.delivery {
            DeliveryState::Live { caught_up } => *caught_up = (*caught_up).min(position),
            DeliveryState::Lagging(lag) => {
                lag.after = lag.after.min(position);
                if let Stage::Held { had: Some(had) } = &mut lag.stage {
                    *had = (*had).min(position);
                }
            }
            DeliveryState::Ended => {}
        }
    }

    /// Lets a session that is held be brought up to date.
    pub(crate) fn release(&self) {
        if let DeliveryState::Lagging(lag) = &mut self.state.lock().delivery
            && let Stage::Held { .. } = lag.stage
        {
            lag.stage = Stage::Waiting;
        }
    }

    /// Takes a lagging session out of its replay, because what it is owed has changed. Returns whether it needs another
    /// replay now.
    pub(crate) fn restart_replay(&self) -> bool {
        match &mut self.state.lock().delivery {
            DeliveryState::Lagging(lag) if !matches!(lag.stage, Stage::Held { .. }) => {
                lag.stage = Stage::Waiting;
                true
            }
            _ => false,
        }
    }

    /// Where the session stands, if it lags.
    pub(crate) fn lagging(&self) -> Option<Lag> {
        self.state.lock().delivery.lag()
    }

    /// Whether `replay` brings the session up to date.
    pub(crate) fn is_in_replay(&self, replay: ReplayId) -> bool {
        self.lagging().is_some_and(|lag| lag.stage == Stage::Replaying(replay))
    }

    /// Takes the session into `replay`, if it waits for one and its queue is empty. Returns the position up to which it
    /// has had everything.
    pub(crate) fn join_replay(&self, replay: ReplayId) -> Option<u64> {
        let mut state = self.state.lock();
        if !state.queue.is_empty() || state.failed || state.closing.is_some() {
            return None;
        }
        state.delivery.start_replay(replay)
    }

    /// The replay has brought everything up to position `after`.
    pub(crate) fn advance(&self, replay: ReplayId, after: u64) {
        match &mut self.state.lock().delivery {
            DeliveryState::Lagging(lag) if lag.stage == Stage::Replaying(replay) => {
                lag.after = lag.after.max(after);
            }
            _ => {}
        }
    }

    /// The replay ends early. Returns whether the session was still in it, and needs another one.
    pub(crate) fn leave_replay(&self, replay: ReplayId) -> bool {
        self.state.lock().delivery.wait_after(Stage::Replaying(replay))
    }

    /// The replay has brought everything up to `position`: if the session is still in it, it is live again.
    pub(crate) fn go_live(&self, replay: ReplayId, position: u64) {
        let mut state = self.state.lock();
        if state.delivery.lag().is_some_and(|lag| lag.stage == Stage::Replaying(replay)) {
            state.delivery = DeliveryState::Live { caught_up: position };
            self.metrics.sessions_lagging.dec();
        }
    }
}
