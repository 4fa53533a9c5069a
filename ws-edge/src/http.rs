//! The WebSocket port: pages for browsers, upgrades to sessions, and refusals.

mod bindings;
pub mod client_address;
pub(crate) mod listen;
mod pages;
mod refusal;
mod upgrade;
