//! Requests that the edge passes on to KAZOO: over HTTP to Crossbar, or as a message to one KAZOO process.

pub mod crossbar;
pub mod targeted;
