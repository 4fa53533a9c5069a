//! Tests of this crate on real brokers.

// Tests fail by panicking.
#![allow(clippy::unwrap_used)]

mod brokers;
mod simulator;
