//! Keys of issuers and answers of Crossbar over HTTP, against the stand-ins of `tests/couchdb`.

// Tests fail by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod crossbar;
mod issuers;
#[path = "../couchdb/proxy.rs"]
mod proxy;

use std::time::Duration;

/// A time before all tokens end.
const NOW: u64 = 1_800_000_000;

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(20), future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen"),
    }
}

async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    soon(what, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}
