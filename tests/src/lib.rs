//! The harness of the end-to-end tests: real brokers and services, shared by all tests of a run, which keep out of
//! each other's way by using accounts of their own.
//!
//! | module | idea |
//! |---|---|
//! | [`stack`] | the brokers and services |
//! | [`accounts`] | accounts and tokens |
//! | [`client`] | the WebSocket client of the functional tests |
//! | [`raw`] | a client that is only a TCP stream, for hostile frames |
//! | [`crossbar`] | an HTTP server in Crossbar's place |
//! | [`kazoo`] | a process of KAZOO that asks over AMQP |
//! | [`events`] | AMQP events as KAZOO publishes them |
//! | [`browser`] | a real Chromium |
//! | [`haproxy`] | a real HAProxy |
//! | [`lean`] | a client for thousands of sessions at once |
//! | [`proxy`] | a bad network |
//! | [`chaos`] | faults in random order while events flow, and the verdict |

// A test harness fails by panicking, as the tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod accounts;
pub mod browser;
pub mod chaos;
pub mod client;
pub mod crossbar;
pub mod events;
pub mod haproxy;
pub mod kazoo;
pub mod lean;
pub mod proxy;
pub mod raw;
pub mod stack;

use std::{future::Future, time::Duration};

/// More than enough for anything that is going to happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for what has to happen; a panic says what did not.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {PATIENCE:?}"),
    }
}

/// Looks again and again until `condition` holds, for at most `patience`.
pub async fn soon_enough(what: &str, patience: Duration, mut condition: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(patience, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what} did not happen within {patience:?}");
}

/// Looks again and again until `condition` holds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    soon(what, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}
