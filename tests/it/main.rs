//! The end-to-end tests, as one program.

// Tests fail by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod browser;
mod console;
mod families;
mod hostile;
mod outages;
mod protocol;
mod tokens;
