//! The harness of the end-to-end tests. All tests of a run share real brokers and services; each test uses its own
//! accounts, so that tests do not affect each other.
//!
//! | module | contents |
//! |---|---|
//! | [`stack`] | the brokers and services |
//! | [`accounts`] | accounts and tokens |
//! | [`client`] | the WebSocket client of the functional tests |
//! | [`messages`] | checks every frame of that client, and every event of an event stream, against `docs/asyncapi.yaml` |
//! | [`raw`] | a client that is only a TCP stream, for hostile frames |
//! | [`couchdb_stack`] | services with the stand-in for KAZOO's CouchDB |
//! | [`crossbar`] | an HTTP server that stands in for Crossbar |
//! | [`kazoo`] | a KAZOO process that sends requests over AMQP |
//! | [`event_stream`] | a client of event streams |
//! | [`events`] | AMQP events as KAZOO publishes them |
//! | [`browser`] | a real Chromium |
//! | [`haproxy`] | a real HAProxy |
//! | [`dns`] | a name server for it |
//! | [`nats_accounts`] | users of NATS with JWTs |
//! | [`living`] | a model of calls, and clients that ask for the state |
//! | [`lean`] | a client for thousands of sessions at once |
//! | [`proxy`] | a TCP proxy that simulates network faults |
//! | [`chaos`] | random faults while events flow, and the verdict |
//! | [`compat`] | two versions side by side |
//! | [`tools`] | what the tests of the client packages need from npm and PyPI |
//! | [`containers`] | the containers of `deploy/compose.yaml` |

// The harness panics on failures, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod accounts;
pub mod browser;
pub mod chaos;
pub mod client;
pub mod compat;
pub mod containers;
pub mod couchdb_stack;
pub mod crossbar;
pub mod dns;
pub mod event_stream;
pub mod events;
pub mod haproxy;
pub mod kazoo;
pub mod lean;
pub mod living;
pub mod messages;
pub mod nats_accounts;
pub mod prometheus;
pub mod proxy;
pub mod raw;
pub mod stack;
pub mod tools;

use std::{future::Future, time::Duration};

/// Longer than anything that these tests wait for should take.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// Waits for a future; panics with `what` did not happen if it takes too long.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(TIMEOUT, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {TIMEOUT:?}"),
    }
}

/// Polls `condition` until it holds; panics if that takes longer than `timeout`.
pub async fn eventually_within(what: &str, timeout: Duration, mut condition: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(timeout, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what} did not happen within {timeout:?}");
}

/// Polls `condition` until it holds; panics if that takes too long.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    soon(what, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}
