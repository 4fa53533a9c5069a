//! A question to the stream for its state.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::ids::SubjectNumber;

/// Time for the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// A question to the stream for its state. One serves all sessions that wait: the stream's leader answers it after it has
/// the subscriptions that were sent before, and the answer says where the stream ends at that moment.
pub(super) struct Question {
    pub(super) number: u64,
    pub(super) sent: Instant,
    /// The position that had come by then.
    pub(super) position: u64,
    /// The subjects that the answer confirms, and the sessions that wait for it.
    pub(super) subjects: Vec<SubjectNumber>,
    pub(super) sessions: Vec<oneshot::Sender<()>>,
}

impl Question {
    /// When no answer will come any more.
    pub(super) fn deadline(&self) -> Instant {
        self.sent + ANSWER_TIMEOUT
    }
}
