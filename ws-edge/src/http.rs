//! The WebSocket port: pages for browsers, the upgrade for sessions, and refusals that say why.

mod accept_limiter;
mod bindings;
mod client_address;
mod connection_limit;
mod limits;
pub(crate) mod listen;
mod pages;
mod refusal;
mod upgrade;
