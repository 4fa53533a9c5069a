//! Whether a session gets live events, or lags and is brought up to date by a replay.

use crate::ids::ReplayId;

/// Whether a session gets live events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeliveryState {
    /// It does. The last replay brought it everything up to this position of the stream.
    Live { caught_up: u64 },
    /// It does not: it needs past events first.
    Lagging(Lag),
    /// It gets nothing more.
    Ended,
}

/// Where a lagging session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// The session has had everything up to this position of the stream.
    pub after: u64,
    /// What brings it up to date.
    pub stage: Stage,
}

/// What brings a lagging session up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nothing yet.
    Waiting,
    /// Nothing before `Outbox::release`: the reply to its request goes out first.
    Held {
        /// It had everything up to this position before the request; `None` if it had no subjects.
        had: Option<u64>,
    },
    /// This replay.
    Replaying(ReplayId),
}

impl DeliveryState {
    /// Where the session stands, if it lags.
    pub(super) fn lag(&self) -> Option<Lag> {
        match self {
            DeliveryState::Lagging(lag) => Some(*lag),
            _ => None,
        }
    }

    /// Holds the session: it is owed events after position `after`, or what it was owed before if that is older. `live`
    /// is the position up to which live sessions have had everything. Returns the position up to which this session had.
    pub(super) fn hold(&mut self, after: u64, live: u64) -> u64 {
        let had = match self {
            DeliveryState::Live { .. } => live,
            DeliveryState::Lagging(lag) => lag.after,
            DeliveryState::Ended => return live,
        };
        *self = DeliveryState::Lagging(Lag { after: after.min(had), stage: Stage::Held { had: Some(had) } });
        had
    }

    /// Holds a session that was owed nothing before: it is owed events after position `after`, wherever live sessions
    /// are. The edge may not know yet where the stream is, or may be behind itself.
    pub(super) fn hold_new(&mut self, after: u64) {
        if *self != DeliveryState::Ended {
            *self = DeliveryState::Lagging(Lag { after, stage: Stage::Held { had: None } });
        }
    }

    /// Starts a replay for a session that waits for one. Returns the position up to which it has had everything.
    pub(super) fn start_replay(&mut self, replay: ReplayId) -> Option<u64> {
        let DeliveryState::Lagging(lag) = self else { return None };
        (lag.stage == Stage::Waiting).then(|| {
            lag.stage = Stage::Replaying(replay);
            lag.after
        })
    }

    /// Lets the session wait for a replay again, if it is in `stage`. Returns whether it is.
    pub(super) fn wait_after(&mut self, stage: Stage) -> bool {
        match self {
            DeliveryState::Lagging(lag) if lag.stage == stage => {
                lag.stage = Stage::Waiting;
                true
            }
            _ => false,
        }
    }
}
