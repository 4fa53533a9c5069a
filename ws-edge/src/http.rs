//! The WebSocket port: pages for browsers, upgrades to sessions, event streams, and refusals.

mod admission;
mod bindings;
pub mod client_address;
pub mod events;
pub(crate) mod listen;
mod pages;
pub mod refusal;
pub mod upgrade;
