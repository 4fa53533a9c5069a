//! What clients and the edge say to each other: requests, replies, close codes, cursors. `docs/protocol.md` is the
//! same for the authors of clients.

pub mod close;
pub mod cursor;
pub mod reply;
pub mod request;
pub mod token;
pub mod view;
