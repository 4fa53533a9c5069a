//! Tests of this crate: the brokers that it starts are real.

// Tests fail by panicking.
#![allow(clippy::unwrap_used)]

mod brokers;
mod check;
mod simulator;
