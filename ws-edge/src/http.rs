//! The WebSocket port: pages for browsers, upgrades to sessions, and refusals.

mod bindings;
pub mod client_address;
pub(crate) mod listen;
mod pages;
pub mod refusal;
pub mod upgrade;
