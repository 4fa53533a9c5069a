//! One WebSocket session: its task, its WebSocket, its deadlines, and how its requests are answered.

mod actions;
mod authorize;
mod confirm;
mod keepalive;
mod rate_limit;
mod requests;
mod resume;
pub(crate) mod state;
mod subscribe;
pub(crate) mod task;
mod websocket;
