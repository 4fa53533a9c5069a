//! NATS in: the event reader with its repair of gaps, the stream's state, and reading its history.

mod backlog;
mod contradiction;
pub mod history;
pub(crate) mod jetstream;
pub(crate) mod kept;
mod latency;
mod question;
pub(crate) mod reader;
mod repair;
pub mod stream_info;
mod stream_sync;
