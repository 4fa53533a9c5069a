//! A complete Blackhole on one machine: brokers, services and a simulated KAZOO, for `cargo dev` and for the tests.
//!
//! Every process started here ends with the process that started it, even if that one is killed.

pub mod alerts;
pub mod autobahn;
pub mod bench;
pub mod brokers;
pub mod capacity;
pub mod chaos;
pub mod chart;
pub mod check;
pub mod compat;
pub mod containers;
mod ending;
pub mod fuzz;
pub mod http;
pub mod install;
pub mod json_schema;
pub mod matrix;
pub mod ports;
pub mod process;
pub mod progress;
pub mod schema;
pub mod server;
pub mod services;
pub mod simulate;
pub mod simulator;
pub mod test;
pub mod up;
pub mod websocket;
pub mod workspace;
