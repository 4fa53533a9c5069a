//! The containers. `cargo dev containers` builds and starts them, and runs this.

use std::{env, path::PathBuf};

use blackhole_tests::containers::{self, Compose};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Docker and root: cargo dev containers"]
async fn containers_are_scaled_and_replaced_without_a_lost_event() {
    let variable = |name| env::var(name).expect("run it with cargo dev containers");
    let dir = PathBuf::from(variable("CONTAINERS_DIR"));
    let certificate = dir.join("haproxy/cert_key.pem");
    let compose = Compose { dir, version: variable("CONTAINERS_VERSION") };
    containers::images::check(&compose).await;
    containers::run(&compose, &certificate).await;
}
