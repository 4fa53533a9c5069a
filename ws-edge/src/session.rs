//! One WebSocket session: its task, its socket, its deadlines and its requests.

mod actions;
pub(crate) mod authorize;
mod confirm;
mod end;
mod keepalive;
mod kept_events;
pub(crate) mod present;
mod rate_limit;
mod recheck;
mod requests;
pub(crate) mod resume;
pub(crate) mod state;
pub(crate) mod subscribe;
pub(crate) mod task;
pub mod websocket;
