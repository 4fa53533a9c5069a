//! The WebSocket port: pages for browsers, upgrades to sessions, event streams, and refusals.

mod admission;
mod bindings;
pub(crate) mod certificate;
pub mod client_address;
pub mod compression;
pub mod events;
pub(crate) mod listen;
mod pages;
pub mod refusal;
mod tls_socket;
mod turns;
pub mod upgrade;
