//! This crate on real brokers: they start, survive a kill, leave nothing behind, and carry the simulated KAZOO.

mod brokers;
mod simulator;
