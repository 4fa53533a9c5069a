//! Code shared by the Blackhole services. Code that only one service needs lives in that service.
//!
//! | module | contents |
//! |---|---|
//! | [`catalogue`] | binding families as data: the AMQP events and the bindings that clients may request |
//! | [`subject`] | the one-to-one mapping of AMQP routing keys to NATS subjects |
//! | [`tenant`] | the tenant of an event: the first word of its subject |
//! | [`owner`] | whose an event is within its account |
//! | [`wire`] | names and messages that the services exchange over NATS |
//! | [`config`] | configuration from defaults, a file and the environment, with one-line errors |
//! | [`file_changes`] | notices that files have changed |
//! | [`cli`] | shared command line flags |
//! | [`nats`] | connections to NATS |
//! | [`listen`] | listening sockets, for IPv6 and IPv4 |
//! | [`net`] | TCP and TLS sockets for the NATS and AMQP protocols |
//! | [`admin`], [`readiness`] | `/metrics` and `/health/*` |
//! | [`report`] | what a command has found |
//! | [`telemetry`] | logs and the metrics registry |
//! | [`version`] | which release and commit this is |
//! | [`backoff`] | delays between retries |
//! | [`clock`], [`chance`] | time and random numbers, which the simulator decides in its runs |
//! | [`shutdown`] | stopping on signals |

pub mod admin;
pub mod backoff;
pub mod catalogue;
pub mod chance;
pub mod cli;
pub mod clock;
pub mod config;
pub mod file_changes;
pub mod listen;
pub mod nats;
pub mod net;
pub mod owner;
mod process_metrics;
pub mod readiness;
pub mod report;
pub mod shutdown;
pub mod subject;
pub mod telemetry;
pub mod tenant;
pub mod version;
pub mod wire;
