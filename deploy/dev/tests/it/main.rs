//! This crate on real brokers: they start, survive a kill, leave nothing behind, and carry the simulated KAZOO. And
//! what `cargo dev check` runs, without any.

mod brokers;
mod check;
mod simulator;
