//! Numbers that identify sessions, subjects and replays on this edge. They are never reused while the edge runs.

/// Identifies a session on this edge.
pub type SessionNumber = u64;

/// Identifies a subject and its subscription at the NATS server.
pub type SubjectNumber = u64;

/// The event reader's own subscription for answers about the stream,
pub(crate) const INBOX: SubjectNumber = 1;
/// and the one that tells of the stream's leaders. Subjects have higher numbers.
pub(crate) const ELECTIONS: SubjectNumber = 2;

/// Identifies a replay.
pub type ReplayId = u64;
