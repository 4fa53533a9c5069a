//! Whatever dies, nobody misses anything. Longer by `cargo dev chaos`.

use std::{env, time::Duration};

use blackhole_tests::chaos::{self, Settings};

/// What `cargo dev chaos` says, or what the test does by itself.
fn settings(seconds: u64, cluster: bool) -> Settings {
    let number = |name| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    Settings {
        time: Duration::from_secs(number("CHAOS_SECONDS").unwrap_or(seconds)),
        seed: number("CHAOS_SEED").unwrap_or_else(rand::random),
        cluster,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_whatever_dies() {
    chaos::run(settings(60, false)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_while_servers_of_a_cluster_die() {
    chaos::run(settings(40, true)).await;
}
