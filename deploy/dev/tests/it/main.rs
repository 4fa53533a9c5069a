//! This crate on real brokers: they start, survive a kill, leave nothing behind, and carry the simulated KAZOO.

// Tests fail by panicking.
#![allow(clippy::unwrap_used)]

mod brokers;
mod simulator;
