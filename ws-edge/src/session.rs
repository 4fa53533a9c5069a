//! One session: its task, its WebSocket or event stream, its deadlines and its requests.

mod actions;
pub(crate) mod authorize;
mod confirm;
mod end;
pub(crate) mod event_stream;
mod keepalive;
mod kept_events;
pub(crate) mod present;
mod rate_limit;
mod recheck;
mod requests;
pub(crate) mod resume;
pub(crate) mod start;
pub(crate) mod state;
pub(crate) mod subscribe;
pub(crate) mod task;
pub(crate) mod transport;
pub mod websocket;
