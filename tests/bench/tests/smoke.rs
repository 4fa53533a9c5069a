//! The bench's smoke: everything that it publishes arrives, once and in order. `cargo dev bench --smoke` runs it alone.

use blackhole_dev::process::{Process, Spec};
use blackhole_dev::workspace::RunDir;

#[tokio::test]
async fn the_bench_loses_and_repeats_nothing() {
    let run = RunDir::create("bench-smoke").unwrap();
    let log = run.path().join("bench.log");
    // The services' programs lie beside it; `cargo dev test` builds them first.
    let bench = Spec::new(env!("CARGO_BIN_EXE_blackhole-bench")).args(["run", "--smoke"]).log(&log);
    let status = Process::start(&bench).unwrap().exited().await.unwrap();
    let report = std::fs::read_to_string(&log).unwrap();
    println!("{report}");
    assert!(status.success(), "the bench failed ({status}); what it printed is above");
    // It measured what it should have.
    for shape in ["fan-out, ", "sharded, ", "mixed, ", "storm, "] {
        assert!(report.contains(&format!("\n{shape}")), "there is no `{shape}`");
    }
    run.remove().unwrap();
}
