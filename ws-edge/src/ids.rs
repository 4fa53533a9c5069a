//! Numbers by which this edge tells its sessions, subjects and replays apart. None is ever used twice in one run.

/// Identifies a session on this edge.
pub type SessionNumber = u64;

/// Identifies a subject of the index, and its subscription at the NATS server.
pub type SubjectNumber = u64;

/// The number of the event reader's own subscription, for answers about the stream; subjects have higher ones.
pub(crate) const INBOX: SubjectNumber = 1;

/// Identifies a replay of the catch-up.
pub type ReplayId = u64;
