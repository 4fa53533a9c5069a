//! The client protocol: requests, replies, close codes, cursors. `docs/protocol.md` describes it for client authors.

pub(crate) mod close;
pub mod cursor;
pub mod deflate;
pub mod event_stream;
pub(crate) mod frame;
mod json;
pub(crate) mod reply;
pub mod request;
pub(crate) mod revoked;
pub mod token;
pub mod view;
