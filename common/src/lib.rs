//! What every Blackhole service shares, and nothing that only one of them needs.
//!
//! | module | idea |
//! |---|---|
//! | [`catalogue`] | binding families as data: which AMQP events there are and how clients ask for them |
//! | [`subject`] | AMQP routing keys as NATS subjects, one to one |
//! | [`tenant`] | whose an event is: the first word of its subject |
//! | [`wire`] | names and messages that the services exchange over NATS |
//! | [`config`] | defaults, file, environment; one line for a mistake |
//! | [`cli`] | the flags that every binary has |
//! | [`nats`] | connections to NATS |
//! | [`net`] | what the lowest level of a connection is, of NATS and AMQP |
//! | [`admin`], [`readiness`] | `/metrics` and `/health/*` |
//! | [`telemetry`] | logs and the metrics registry |
//! | [`backoff`], [`shutdown`] | waiting and stopping |

pub mod admin;
pub mod backoff;
pub mod catalogue;
pub mod cli;
pub mod config;
pub mod nats;
pub mod net;
pub mod readiness;
pub mod shutdown;
pub mod subject;
pub mod telemetry;
pub mod tenant;
pub mod wire;
