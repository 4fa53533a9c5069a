//! The WebSocket port: pages for browsers, upgrades to sessions, and refusals.

mod accept_limiter;
mod bindings;
mod client_address;
mod connection_limit;
mod limits;
pub(crate) mod listen;
mod pages;
mod refusal;
mod upgrade;
