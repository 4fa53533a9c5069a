//! Two versions side by side. `cargo dev compat` builds the baseline and runs this.

use std::{env, path::PathBuf, time::Duration};

use blackhole_dev::services::Binaries;
use blackhole_tests::compat;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the programs of the baseline: cargo dev compat"]
async fn versions_run_side_by_side() {
    let baseline = PathBuf::from(env::var_os("COMPAT_BASELINE").expect("run it with cargo dev compat"));
    let seconds = env::var("COMPAT_SECONDS").map_or(6, |text| text.parse().unwrap());
    compat::run(&Binaries::in_dir(&baseline).unwrap(), Duration::from_secs(seconds)).await;
}
