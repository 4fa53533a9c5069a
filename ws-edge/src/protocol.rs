//! The client protocol: requests, replies, close codes, cursors. `docs/protocol.md` describes it for client authors.

pub(crate) mod close;
pub mod cursor;
pub(crate) mod reply;
pub(crate) mod request;
pub(crate) mod revoked;
pub(crate) mod token;
pub mod view;
